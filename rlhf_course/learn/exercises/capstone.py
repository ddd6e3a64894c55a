"""Exercises of lesson 12: a rule that checks an answer's form, and an evaluation that can be believed."""

import random
import re
from statistics import mean

from rlhf_course import capstone
from rlhf_course.evaluation import wilson_interval
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.seeding import derive_seed

# ---------------------------------------------------------------------- one number between two tags


def format_reward(completions):
    rewards = []
    for text in completions:
        _, opened, rest = text.partition("<answer>")
        number, closed, after = rest.partition("</answer>")
        whole = re.fullmatch(r"\s*-?\d+\s*", number) is not None
        rewards.append(
            1.0 if opened and closed and whole and not after.strip() and text.count("</answer>") == 1 else 0.0
        )
    return rewards


def _format_cases(stream):
    return [
        Case(
            "a right one, one without tags, one without an end",
            (["7 + 5 = 12, so <answer>12</answer>", "The answer is 12.", "<answer>12"],),
        ),
        Case("nothing but the answer", (["<answer>12</answer>"],)),
        Case("a line break after it", (["<answer>12</answer>\n", "<answer> 12 </answer> "],)),
        Case("thoughts over several lines", (["First 7.\nThen 5 more.\n\n<answer>12</answer>"],)),
        Case("a negative number", (["3 - 8 is below zero.\n<answer>-5</answer>"],)),
        Case("more than one try", (["<answer>11</answer> or <answer>12</answer>", "<answer>1</answer>" * 20],)),
        Case("it goes on talking", (["<answer>12</answer> because 7 + 5 = 12.", "<answer>12</answer>!"],)),
        Case("no number", (["<answer>number</answer>", "<answer></answer>", "<answer>12.5</answer>"],)),
        Case("a number and words", (["<answer>7 + 5 = 12</answer>", "<answer>about 12</answer>"],)),
        Case("the wrong tags", (["<Answer>12</Answer>", "[answer]12[/answer]", "</answer>12<answer>"],)),
        Case("an open tag in the thoughts", (["I shall write <answer> and then <answer>12</answer>"],)),
        Case("no completion at all", ([],)),
        Case("two empty ones, and one with an end too many", (["", " ", "<answer>12</answer> or 13</answer>"],)),
    ]


def _opened_once(text):
    return text.count("<answer>") == 1 and text.rstrip().endswith("</answer>")


def _pattern(pattern, flags=re.DOTALL, match=re.fullmatch):
    return lambda completions: [float(match(pattern, text, flags) is not None) for text in completions]


_FORM = Exercise(
    id="capstone.format_reward",
    reference=capstone.format_reward,
    answer=format_reward,
    cases=_format_cases,
    mistakes=[
        Mistake(
            "tags are enough",
            lambda completions: [float("<answer>" in text and "</answer>" in text) for text in completions],
            "You look for the two tags, wherever they stand and whatever is between them. A policy will find out that "
            "it may write them around anything.",
        ),
        Mistake(
            "the opening tag is enough",
            lambda completions: [float("<answer>" in text) for text in completions],
            "You look for the opening tag alone. Who reads the answer needs to know where it ends, too.",
        ),
        Mistake(
            "anywhere in the text",
            _pattern(r"<answer>\s*-?\d+\s*</answer>", match=re.search),
            "You search for the form anywhere. Then twenty guesses in twenty pairs of tags are as good as one answer, "
            "and a model that is paid for it will write twenty.",
        ),
        Mistake(
            "digits between two tags",
            _pattern(r"<answer>\d+</answer>", match=re.search),
            "Digits between two tags are a beginning. Now ask the contract about the rest: may the number be below "
            "zero? May white space stand inside? A second pair of tags in the text? More words after the last one?",
        ),
        Mistake(
            "the last one counts",
            _pattern(r".*<answer>\s*-?\d+\s*</answer>\s*"),
            "You check how the text ends. What stands before may be other answers in tags of their own: a list of "
            "guesses whose last one fits is not one answer.",
        ),
        Mistake(
            "an end too many",
            lambda completions: [
                float(re.search(r"<answer>\s*-?\d+\s*</answer>", text) is not None and _opened_once(text))
                for text in completions
            ],
            "You count the opening tags and look at the end. A second </answer> passes unseen, with another guess "
            "before it: one pair means one of each.",
        ),
        Mistake(
            "anything between the tags",
            _pattern(r"((?!</?answer>).)*<answer>((?!</?answer>).)*</answer>\s*"),
            "Whatever stands between your tags counts. The form asks for one whole number there, so that a program can "
            "read it.",
        ),
        Mistake(
            "a number somewhere between the tags",
            _pattern(r"((?!</?answer>).)*<answer>((?!</?answer>).)*\d((?!</?answer>).)*</answer>\s*"),
            "A number among words is enough for you. int() will not be able to read what is between those tags.",
        ),
        Mistake(
            "one line only",
            _pattern(r"((?!</?answer>).)*<answer>\s*-?\d+\s*</answer>\s*", flags=re.NOFLAG),
            "Thoughts over several lines get nothing: in a pattern, a dot stands for anything but a line break, "
            "unless you say so (re.DOTALL).",
        ),
        Mistake(
            "nothing but the answer",
            _pattern(r"\s*<answer>\s*-?\d+\s*</answer>\s*"),
            "You allow nothing before the tags. Thinking first is welcome: a model that must answer with its first "
            "token has no room to work anything out.",
        ),
        Mistake(
            "not one space more",
            _pattern(r"((?!</?answer>).)*<answer>-?\d+</answer>"),
            "You refuse answers for a space or a line break. The rule is about what is said: white space inside or "
            "after the tags is harmless.",
        ),
        Mistake(
            "no number below zero",
            _pattern(r"((?!</?answer>).)*<answer>\s*\d+\s*</answer>\s*"),
            "−5 is a whole number as well: allow for a sign.",
        ),
        Mistake(
            "it may go on talking",
            _pattern(r"((?!</?answer>).)*<answer>\s*-?\d+\s*</answer>((?!</?answer>).)*"),
            "You let it go on after the answer. Then nothing tells the model to stop, and its answers fill all the "
            "room there is.",
        ),
        Mistake(
            "the share",
            lambda completions: [mean(capstone.format_reward(completions) or [0.0])] * len(completions),
            "You give every completion the mean of all. Then no completion is better than its group, and GRPO has "
            "nothing to learn from.",
        ),
    ],
    hints=[
        "Say it as a list of conditions: how many pairs of tags, what stands between them, what may stand before, what "
        "may stand after.",
        "One way is a regular expression and re.fullmatch, with re.DOTALL. Another is str.partition: cut the text at "
        "the first <answer>, then the rest at </answer>, and look at the three pieces.",
        'What is left between the tags must fit r"\\s*-?\\d+\\s*", what is left behind them must be empty once '
        "stripped, "
        "and no other tag may stand anywhere.",
    ],
    reason="A rule is a reward model without errors of its own, as long as it says what is meant. Everything it "
    "forgets to ask for is free, and a policy that is paid will take it: several guesses, words where a number "
    "belongs, talk that never ends. So write down what an answer may NOT do, and test the rule on answers that try.",
)

# ---------------------------------------------------------------------- is it better?


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


def _match(stream, gaps, talkative=False):
    """Two policies, a judge and prompts whose answers' scores differ by `gaps`; asked again a policy says otherwise."""
    prompts = [f"prompt {number}" for number in range(1, len(gaps) + 1)]
    before, after, points = {}, {}, {}
    for prompt, gap in zip(prompts, gaps):
        base = stream.randint(-3, 3)
        old = " ".join(["old"] * stream.randint(1, 4))
        new = " ".join(["new"] * stream.randint(6 if talkative else 1, 9 if talkative else 4))
        before[prompt], after[prompt] = (old, "old, said again"), (new, "new, said again at greater length")
        again = stream.choice((-5, 5))
        points |= {(prompt, old): base, (prompt, new): base + gap}
        points |= {(prompt, before[prompt][1]): base + again, (prompt, after[prompt][1]): base - again}
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


def _with(**changed):
    """A wrong `evaluate`: the right one's result, with some entries worked out otherwise from its pairs."""

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
        return {"win_rate": rate, "low": low, "high": high, "n": n, "length_before": old, "length_after": new}

    return wrong


def _normal(z):
    return lambda rate, n: tuple(rate + sign * z * (rate * (1 - rate) / n) ** 0.5 for sign in (-1, 1))


def _asks_again(before, after, judge, prompts):
    gaps = [judge(prompt, after(prompt)) - judge(prompt, before(prompt)) for prompt in prompts]
    wins = sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps)
    low, high = wilson_interval(wins, len(gaps))
    old, new = (mean(len(policy(prompt).split()) for prompt in prompts) for policy in (before, after))
    rate = wins / len(gaps)
    return {"win_rate": rate, "low": low, "high": high, "n": len(gaps), "length_before": old, "length_after": new}


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
            "You take p ± 1.96·√(p(1 − p)/n). After eight wins in eight games that is an interval of no width: you "
            "would be certain of a rate of 100 %. With few prompts and near 0 and 1 another interval is needed, "
            "Wilson's for example.",
        ),
        Mistake(
            "one standard error",
            _with(interval=_normal(1.0)),
            "Your interval is one standard error to either side. The true rate lies outside one time in three. For 95 "
            "% it takes 1.96 of them, and near 0 and 1 more care than that.",
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

EXERCISES = [_FORM, _EVALUATE]
