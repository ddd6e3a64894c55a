"""The first exercise of lesson 12: an evaluation that can be believed."""

import math
import random
from statistics import mean

from rlhf_course import capstone
from rlhf_course.evaluation import wilson_interval
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.seeding import derive_seed


class Policy:
    """A toy policy: it knows an answer or several to each prompt, and gives the next one each time it is asked."""

    def __init__(self, name, answers):
        self.name, self.answers, self.asked = name, answers, {}

    def __call__(self, prompt):
        if prompt not in self.answers:
            raise KeyError(f"{self.name} was asked {prompt!r}, which is none of the prompts")
        place = self.asked.get(prompt, 0)
        self.asked[prompt] = place + 1
        return self.answers[prompt][place % len(self.answers[prompt])]

    def __repr__(self):
        answers = [given[0] for given in self.answers.values()]
        shown = ", ".join(map(repr, answers[:3])) + (", …" if len(answers) > 3 else "")
        return f"a policy that answers {shown}"

    def __eq__(self, other):
        return isinstance(other, Policy) and self.answers == other.answers  # how often it was asked is its own affair


class Judge:
    """A toy judge: a number of points for an answer to its own prompt."""

    def __init__(self, points):
        self.points = points

    def __call__(self, prompt, answer):
        if (prompt, answer) not in self.points:
            raise KeyError(f"the judge was shown {answer!r} as an answer to {prompt!r}: nobody gave it")
        return self.points[prompt, answer]

    def __repr__(self):
        return "a judge that gives points to an answer to its prompt"

    def __eq__(self, other):
        return isinstance(other, Judge) and self.points == other.points


def evaluate(before, after, judge, prompts):
    pairs = [(prompt, before(prompt), after(prompt)) for prompt in prompts]
    gaps = [judge(prompt, new) - judge(prompt, old) for prompt, old, new in pairs]
    n, wins = len(gaps), sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps)
    low, high = wilson_interval(wins, n)
    old, new = (sum(len(pair[place].split()) for pair in pairs) / n for place in (1, 2))
    return {"win_rate": wins / n, "low": low, "high": high, "n": n, "length_before": old, "length_after": new}


_OLD_AGAIN = ("old, said again", "old, for the third time now")
_NEW_AGAIN = ("new, said again at greater length", "new, and new once more, and once more")


def _match(stream, gaps, talkative=False):
    """Two policies, a judge and prompts whose answers' scores differ by `gaps`; asked again a policy says otherwise."""
    prompts = [f"prompt {number}" for number in range(1, len(gaps) + 1)]
    before, after, points = {}, {}, {}
    for prompt, gap in zip(prompts, gaps):
        base = stream.randint(-3, 3)
        old = " ".join(["old"] * stream.randint(1, 4))
        new = " ".join(["new"] * stream.randint(6 if talkative else 1, 9 if talkative else 4))
        before[prompt], after[prompt] = (old, *_OLD_AGAIN), (new, *_NEW_AGAIN)
        again = stream.choice((-5, 5))
        points |= {(prompt, old): base, (prompt, new): base + gap}
        points |= {(prompt, before[prompt][1]): base + again, (prompt, after[prompt][1]): base - again}
        points |= {(prompt, before[prompt][2]): base, (prompt, after[prompt][2]): base}
    return Policy("before", before), Policy("after", after), Judge(points), prompts


def _evaluate_cases(stream):
    chance = random.Random(derive_seed(stream.initial_seed(), "toy policies"))
    gaps = [chance.choice((-2, -1, 1, 2, 3)) for _ in range(60)]
    return [
        Case("four prompts, three of them won", _match(chance, [1, 2, -1, 1])),
        Case("eight of eight", _match(chance, [1, 2, 1, 3, 1, 1, 2, 1])),
        Case("none of six", _match(chance, [-1, -2, -1, -1, -3, -1])),
        Case("half of it tied", _match(chance, [0, 2, 0, 1, -1, 0, 0, 1])),
        Case("all tied", _match(chance, [0] * 10)),
        Case("one crushing loss", _match(chance, [1, 1, 1, -40, 1])),
        Case("much longer answers", _match(chance, [1, 1, -1, 1, 1, -1, 1, 1, 1, 1], talkative=True)),
        Case("sixty prompts", _match(chance, gaps)),
        Case("one prompt", _match(chance, [2])),
    ]


def _plain(result):
    """The part of a result that is asked for, rounded; an interval that is as good as Wilson's counts as Wilson's.

    There is more than one honest 95 % interval. Who has Clopper and Pearson's, or a Bayesian one, is right too.
    """
    wanted = ("win_rate", "low", "high", "n", "length_before", "length_after")
    if not isinstance(result, dict):
        return result
    result = {name: float(result[name]) for name in wanted if name in result}
    if len(result) == len(wanted) and result["n"] >= 1 and 0 <= result["win_rate"] <= 1:
        wilson = wilson_interval(result["win_rate"] * result["n"], int(result["n"]))
        width = wilson[1] - wilson[0]
        if all(abs(own - good) < width / 4 for own, good in zip((result["low"], result["high"]), wilson)):
            result |= {"low": wilson[0], "high": wilson[1]}
    return {name: round(value, 3) for name, value in result.items()}


def _with(finish=dict, **changed):
    """A wrong `evaluate`: the right one's result, with some entries worked out otherwise from its pairs.

    `finish` changes the finished result.
    """

    def wrong(before, after, judge, prompts):
        pairs = [(prompt, before(prompt), after(prompt)) for prompt in prompts]
        gaps = [judge(prompt, new) - judge(prompt, old) for prompt, old, new in pairs]
        n = len(gaps)
        wins = changed.get("wins", lambda gaps: sum((g > 0) + 0.5 * (g == 0) for g in gaps))(gaps)
        n = changed.get("n", lambda gaps: n)(gaps)
        rate = wins / n if n else 0.5
        low, high = changed.get("interval", lambda rate, n: wilson_interval(rate * n, n))(rate, max(n, 1))
        count = changed.get("length", lambda text: len(text.split()))
        old, new = (mean(count(pair[place]) for pair in pairs) for place in (1, 2))
        return finish({"win_rate": rate, "low": low, "high": high, "n": n, "length_before": old, "length_after": new})

    return wrong


def _normal(z, degrees_lost=0):
    """Mean ± z standard errors; `degrees_lost` as numpy's `ddof`."""

    def interval(rate, n):
        error = (rate * (1 - rate) / max(n - degrees_lost, 1)) ** 0.5
        return rate - z * error, rate + z * error

    return interval


def _entries(change, *names):
    """For `_with(finish=…)`: these entries changed by a function of the entry and of n."""
    return lambda result: result | {name: change(result[name], result["n"]) for name in names}


def _lengths_swapped(result):
    return result | {"length_before": result["length_after"], "length_after": result["length_before"]}


def _asks_again(before, after, judge, prompts):
    gaps = [judge(prompt, after(prompt)) - judge(prompt, before(prompt)) for prompt in prompts]
    wins = sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps)
    low, high = wilson_interval(wins, len(gaps))
    old, new = (mean(len(policy(prompt).split()) for prompt in prompts) for policy in (before, after))
    rate = wins / len(gaps)
    return {"win_rate": rate, "low": low, "high": high, "n": len(gaps), "length_before": old, "length_after": new}


def _asks_again_for_ties(before, after, judge, prompts):
    wins, n = 0, len(prompts)
    for prompt in prompts:
        if judge(prompt, after(prompt)) > judge(prompt, before(prompt)):
            wins += 1
        elif judge(prompt, after(prompt)) == judge(prompt, before(prompt)):
            wins += 0.5
    low, high = wilson_interval(wins, n)
    old, new = (mean(len(policy(prompt).split()) for prompt in prompts) for policy in (before, after))
    return {"win_rate": wins / n, "low": low, "high": high, "n": n, "length_before": old, "length_after": new}


def _interval_of_wins(before, after, judge, prompts):
    pairs = [(prompt, before(prompt), after(prompt)) for prompt in prompts]
    wins = sum(judge(prompt, new) > judge(prompt, old) for prompt, old, new in pairs)
    right = {prompt: (old, new) for prompt, old, new in pairs}
    result = evaluate(lambda prompt: right[prompt][0], lambda prompt: right[prompt][1], judge, prompts)
    return result | dict(zip(("low", "high"), wilson_interval(wins, len(pairs))))


_EVALUATE = Exercise(
    id="capstone.evaluate",
    reference=capstone.evaluate,
    answer=evaluate,
    cases=_evaluate_cases,
    normalise=_plain,
    mistakes=[
        Mistake(
            "sure after eight wins",
            _with(interval=_normal(1.96)),
            "You take p ± 1.96·√(p(1 − p)/n), or draw from your games again and again, which comes to the same. After "
            "eight wins in eight games that is an interval of no width: you would be certain of a rate of 100 %. With "
            "few prompts and near 0 and 1 another interval is needed, Wilson's for example.",
        ),
        Mistake(
            "one standard error",
            _with(interval=_normal(1.0)),
            "Your interval is one standard error to either side. The true rate lies outside one time in three. For 95 "
            "% it takes 1.96 of them, and near 0 and 1 more care than that.",
        ),
        Mistake(
            "the error of a mean",
            _with(interval=_normal(1.96, degrees_lost=1)),
            "You take the mean ± 1.96·s/√n, with the spread s of the games. Of a few games that are all won the spread "
            "is 0, and one game has none at all; elsewhere the interval runs past 1. Shares of a few games need "
            "another one, Wilson's for example.",
        ),
        Mistake(
            "standard deviation",
            _with(interval=lambda rate, n: tuple(rate + sign * 1.96 * (rate * (1 - rate)) ** 0.5 for sign in (-1, 1))),
            "Your interval does not get narrower with more prompts. You have the spread of single games; how sure one "
            "is of their mean is that divided by √n.",
        ),
        Mistake(
            "a tie is a loss",
            _with(wins=lambda gaps: sum(gap > 0 for gap in gaps)),
            "You count a tie as a loss. A policy that answers as it did before would lose to itself.",
        ),
        Mistake(
            "ties are thrown out",
            _with(wins=lambda gaps: sum(gap > 0 for gap in gaps), n=lambda gaps: sum(gap != 0 for gap in gaps)),
            "You leave out the prompts on which the two are equal. That they are equal on most prompts is what a "
            "reader would want to know.",
        ),
        Mistake(
            "a tie is a win",
            _with(wins=lambda gaps: sum(gap >= 0 for gap in gaps)),
            "You count a tie as a win. A policy that answers as it did before would beat itself every time.",
        ),
        Mistake(
            "the chance of a win",
            _with(wins=lambda gaps: sum(1 / (1 + math.exp(-gap)) for gap in gaps)),
            "You add up σ(new − old), the chance of a win that Bradley and Terry read from a gap. So a gap of 0.1 "
            "hardly counts and one of 5 counts twice as much: you trust the judge's points. Asked is how often it "
            "prefers the new answer: count.",
        ),
        Mistake(
            "percent",
            _with(finish=_entries(lambda share, n: 100 * share, "win_rate", "low", "high")),
            "Your rate and its interval are in percent. They are shares, from 0 to 1, and whoever prints them makes "
            "percent of them.",
        ),
        Mistake(
            "0.95 is no z",
            _with(interval=lambda rate, n: wilson_interval(rate * n, n, 0.95)),
            "The third argument of wilson_interval is not how sure you want to be. It counts standard errors, and "
            "1.96, which it takes by itself, are those of 95 %. With 0.95 of them one time in three is outside.",
        ),
        Mistake(
            "a rate in place of wins",
            _with(interval=wilson_interval),
            "You give wilson_interval the rate. It asks for the number of wins: with a rate of 0.75 it thinks that not "
            "even one game was won.",
        ),
        Mistake(
            "ties left out of the interval",
            _interval_of_wins,
            "Your rate counts a tie half, your interval not at all: it was given the wins alone. Both must speak of "
            "the same number.",
        ),
        Mistake(
            "before against after",
            _with(wins=lambda gaps: sum((gap < 0) + 0.5 * (gap == 0) for gap in gaps)),
            "That is how often the old policy wins. Which of the two does the question ask about?",
        ),
        Mistake(
            "by how much",
            _with(wins=lambda gaps: len(gaps) * (sum(gaps) > 0) + 0.5 * len(gaps) * (sum(gaps) == 0)),
            "You compare the two mean scores. One crushing answer can make a mean, and the judge's points have no "
            "unit. Count prompts.",
        ),
        Mistake(
            "characters",
            _with(length=len),
            "Your lengths are in characters. Words are asked for: text.split() gives them.",
        ),
        Mistake(
            "all words together",
            _with(finish=_entries(lambda length, n: length * n, "length_before", "length_after")),
            "You add up the words of all answers. The mean is asked for, words an answer: it can be compared where "
            "there are more prompts.",
        ),
        Mistake(
            "lengths of each other",
            _with(finish=_lengths_swapped),
            "The two lengths have changed places: length_before belongs to the policy before training.",
        ),
        Mistake(
            "asked again for ties",
            _asks_again_for_ties,
            "You ask the policies once to see who wins, and once more to see whether it is a tie. A policy that "
            "samples gives another answer then, and the judge compares other answers. Ask once, and keep what was "
            "said.",
        ),
        Mistake(
            "asked again",
            _asks_again,
            "You ask the policies a second time to measure how long they are. A policy that samples gives another "
            "answer then: you describe answers that the judge never saw. Keep the ones you have.",
        ),
    ],
    hints=[
        "Collect first, measure later: ask both policies each prompt once, and keep prompt, old answer and new answer.",
        "A prompt is won where judge(prompt, new) > judge(prompt, old), and half won where they are equal. The rate "
        "is the mean of that.",
        "For the interval, `from rlhf_course.evaluation import wilson_interval`; wilson_interval(wins, n) gives both "
        "ends. A lucky 8 of 8 must not come out as certainty.",
        "The lengths are the mean of len(text.split()) over the answers that you kept. Return a dict with the six "
        "names.",
    ],
    reason="A number that decides something needs three companions: the other number it is compared with, how sure "
    "one is, and what else changed. Paired prompts take away the luck of the draw, the interval says how far to trust "
    "a few dozen of them, and the lengths stand beside the rate because judges like long answers: a policy that only "
    "talks more can win this match.",
)

EXERCISES = [_EVALUATE]
