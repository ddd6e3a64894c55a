"""Exercises of lesson 09: both orders, clamped labels, critique and revision."""

from dataclasses import dataclass

import torch

from rlhf_course import rlaif
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def debiased_preference(p_first, p_first_swapped):
    return (p_first + (1 - p_first_swapped)) / 2


def clamp_soft_labels(probs, low, high):
    return probs.clamp(low, high)


def critique_and_revise(answer, principles, critic, reviser):
    for principle in principles:
        found = critic(answer, principle)
        if found is not None:
            answer = reviser(answer, found)
    return answer


def _debiased_cases(stream):
    p, swapped = torch.rand(2, 8, generator=stream)
    return [
        Case("three pairs", (torch.tensor([0.9, 0.6, 0.4]), torch.tensor([0.3, 0.8, 0.2]))),
        Case("eight random pairs", (p, swapped)),
        Case("a labeler that only looks at the slot", (torch.tensor([0.8, 0.65]), torch.tensor([0.8, 0.65]))),
        Case("a labeler without a bias", (torch.tensor([0.7, 0.2]), torch.tensor([0.3, 0.8]))),
        Case("a labeler that is never in doubt", (torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0]))),
        Case("a batch of one", (torch.tensor([0.55]), torch.tensor([0.6]))),
    ]


_DEBIASED = Exercise(
    id="rlaif.debiased_preference",
    reference=rlaif.debiased_preference,
    answer=debiased_preference,
    cases=_debiased_cases,
    mistakes=[
        Mistake(
            "mean of the slots",
            lambda p, swapped: (p + swapped) / 2,
            "You average two numbers about the first slot. In the second of them another answer stood there. Turn "
            "it into a number about answer A before you average.",
        ),
        Mistake(
            "one order only",
            lambda p, swapped: p * 1,
            "The swapped order changes nothing in yours, so the first slot's advantage stays in the label.",
        ),
        Mistake(
            "the swapped order only",
            lambda p, swapped: 1 - swapped,
            "The original order changes nothing in yours. Now A pays for standing second, in every pair.",
        ),
        Mistake(
            "the better of the two",
            torch.maximum,
            "You take the larger of two numbers about the first slot. The second of them is about B.",
        ),
        Mistake(
            "the better opinion of A",
            lambda p, swapped: torch.maximum(p, 1 - swapped),
            "You take the order in which A does better. Do the same for B, and the two add up to more than 1.",
        ),
        Mistake(
            "share of the slots",
            lambda p, swapped: p / (p + swapped),
            "You divide what A gets in the first slot by what both get there. A labeler that favours the *second* slot "
            "is then believed too much: 0.1 and 0.2 would make a third, and the mean of the two opinions is 0.45.",
        ),
        Mistake(
            "mean of two verdicts",
            lambda p, swapped: ((p > 0.5).float() + (swapped < 0.5).float()) / 2,
            "You round each order to a verdict before you average, so that only 0, ½ and 1 can come out. How sure the "
            "labeler was is worth keeping.",
        ),
        Mistake(
            "one bias for all pairs",
            lambda p, swapped: p - ((p + swapped - 1) / 2).mean(),
            "You take away the labeler's mean bias. It need not favour a slot equally in every pair: each pair was "
            "asked twice, so each shows its own.",
        ),
        Mistake(
            "only one of them halved",
            lambda p, swapped: p + (1 - swapped) / 2,
            "A division binds more tightly than a plus: you halve the second opinion alone, and get more than 1.",
        ),
        Mistake(
            "one number for all pairs",
            lambda p, swapped: ((p + 1 - swapped) / 2).mean(),
            "You average over the pairs as well. Every pair has a label of its own: return (N,).",
        ),
        Mistake(
            "the other answer",
            lambda p, swapped: (1 - p + swapped) / 2,
            "That is how often B wins. In the original order A stood in the first slot.",
        ),
        Mistake(
            "bare difference",
            lambda p, swapped: p - swapped,
            "Your number runs from −1 to 1 and is 0 for a labeler without an opinion. A probability should be one "
            "half there.",
        ),
        Mistake(
            "both must agree",
            lambda p, swapped: p * (1 - swapped),
            "You ask that A wins in both orders. Do the same for B, and the two do not add up to 1: where did the "
            "rest go?",
        ),
        Mistake(
            "independent witnesses",
            lambda p, swapped: p * (1 - swapped) / (p * (1 - swapped) + (1 - p) * swapped),
            "You multiply the two as if they were independent witnesses, and become surer than either. It is one "
            "labeler, asked twice about the same pair.",
        ),
        Mistake(
            "mean of the log-odds",
            lambda p, swapped: torch.sigmoid((torch.logit(p) - torch.logit(swapped)) / 2),
            "A good idea: averaging log-odds takes a bias out exactly if it is added to the log-odds. But a labeler "
            "that says 0 or 1 gives you infinities. Average the probabilities here.",
        ),
        Mistake(
            "verdict",
            lambda p, swapped: ((p + 1 - swapped) / 2 > 0.5).float(),
            "You return the winner, 0 or 1. How sure the labeler was is worth keeping: that is the soft label.",
        ),
    ],
    hints=[
        "p_first_swapped is about the slot shown first, and in the swapped order B stands in it.",
        "If B wins the first slot with probability q, then A wins with 1 − q. Now you have two opinions about A.",
        "return (p_first + (1 - p_first_swapped)) / 2",
    ],
    reason="In the original order P(slot 1) is P(A); in the swapped order it is P(B), so P(A) is one minus it. In the "
    "mean a labeler that favours the first slot favours A once and B once: one that sees nothing but the slot comes "
    "out at exactly one half. Lee et al. (2023) do the same.",
)


def _clamp_cases(stream):
    return [
        Case("the bounds of Constitutional AI", (torch.tensor([0.02, 0.45, 0.5, 0.58, 0.99]), 0.4, 0.6)),
        Case("a table", (torch.rand(3, 4, generator=stream), 0.3, 0.8)),
        Case("bounds of 0 and 1 change nothing", (torch.rand(5, generator=stream), 0.0, 1.0)),
        Case("bounds that are not symmetric", (torch.tensor([0.1, 0.55, 0.95]), 0.2, 0.6)),
        Case("on the bounds", (torch.tensor([0.4, 0.6]), 0.4, 0.6)),
        Case("one label", (torch.tensor(0.97), 0.4, 0.6)),
    ]


_CLAMP = Exercise(
    id="rlaif.clamp_soft_labels",
    reference=rlaif.clamp_soft_labels,
    answer=clamp_soft_labels,
    cases=_clamp_cases,
    mistakes=[
        Mistake(
            "rescaled",
            lambda probs, low, high: low + (high - low) * probs,
            "You squeeze the whole range into the bounds, so that 0.45 moves too. A label inside the bounds is not too "
            "sure of itself: leave it alone.",
        ),
        Mistake(
            "rounded",
            lambda probs, low, high: torch.where(probs > 0.5, high, low),
            "You send every label to one of the bounds. Then 0.51 and 0.99 say the same, and the soft label is hard "
            "again.",
        ),
        Mistake(
            "upper bound only",
            lambda probs, low, high: probs.clamp(max=high),
            "A label of 0.02 is as sure of itself as one of 0.98. Both ends need a bound.",
        ),
        Mistake(
            "lower bound only",
            lambda probs, low, high: probs.clamp(min=low),
            "A label of 0.98 is as sure of itself as one of 0.02. Both ends need a bound.",
        ),
        Mistake(
            "bounds exchanged",
            lambda probs, low, high: probs.clamp(high, low),
            "Everything comes out as one bound: your lower limit is above the upper one. Which comes first?",
        ),
        Mistake(
            "the paper's bounds",
            lambda probs, low, high: probs.clamp(0.4, 0.6),
            "You always use 0.4 and 0.6. Those are the paper's; the bounds come in as `low` and `high`.",
        ),
        Mistake(
            "Python's min and max",
            lambda probs, low, high: min(max(probs, low), high),
            "Python's min and max ask once which of two is larger, and a tensor has many answers to that. What does "
            "torch have that works on each element?",
        ),
        Mistake(
            "a half in their place",
            lambda probs, low, high: torch.where((probs < low) | (probs > high), 0.5, probs),
            "You throw away what the labeler was surest of. Sure labels should keep their side and lose their weight.",
        ),
        Mistake(
            "pushed outwards",
            lambda probs, low, high: torch.where(probs >= 0.5, probs.clamp(min=high), probs.clamp(max=low)),
            "You push labels out of the middle. We want the opposite: nothing may leave it.",
        ),
        Mistake(
            "dropped",
            lambda probs, low, high: probs[(probs >= low) & (probs <= high)],
            "You drop the labels outside the bounds. Then labels and pairs no longer belong together, and the clearest "
            "pairs are gone.",
        ),
    ],
    hints=[
        "A label inside the bounds stays as it is. One outside moves to the bound that it passed.",
        "Every tensor has a method that does exactly this, with a lower and an upper bound.",
        "return probs.clamp(low, high)",
    ],
    reason="clamp moves what is below `low` up to it and what is above `high` down to it; the rest stays. The "
    "side a label is on survives, its certainty does not: with 40 and 60 %, no pair can ask the reward model for a gap "
    "above log(0.6/0.4) = 0.41.",
)


@dataclass(frozen=True)
class _Critic:
    """Finds the places where a forbidden phrase begins."""

    def __call__(self, answer, principle):
        words, forbidden = answer.split(), principle.split()
        places = [i for i in range(len(words)) if words[i : i + len(forbidden)] == forbidden]
        return places or None

    def __repr__(self):
        return "<finds where the forbidden words stand; None if they do not>"


@dataclass(frozen=True)
class _Reviser:
    """Strikes out the words at some places."""

    def __call__(self, answer, critique):
        return " ".join(word for i, word in enumerate(answer.split()) if i not in critique)

    def __repr__(self):
        return "<strikes out the words at these places>"


def _loop_cases(stream):
    tools = (_Critic(), _Reviser())
    return [
        Case("a boast and two doubts", ("surely it is maybe trapped light maybe .", ["surely", "maybe"], *tools)),
        Case("a principle that is kept, then one that is not", ("it is maybe light .", ["surely", "maybe"], *tools)),
        Case("mending one thing breaks the next principle", ("it is maybe is light .", ["maybe", "is is"], *tools)),
        Case("nothing to mend", ("it is trapped light .", ["surely", "maybe"], *tools)),
        Case("every principle is broken", ("surely maybe it well is light .", ["surely", "maybe", "well"], *tools)),
        Case("no principles", ("surely it is light .", [], *tools)),
    ]


def _from_the_original(answer, principles, critic, reviser):
    result = answer
    for principle in principles:
        found = critic(answer, principle)
        if found is not None:
            result = reviser(answer, found)
    return result


def _critiques_of_the_original(answer, principles, critic, reviser):
    original = answer
    for principle in principles:
        found = critic(original, principle)
        if found is not None:
            answer = reviser(answer, found)
    return answer


def _one_revision(answer, principles, critic, reviser):
    for principle in principles:
        found = critic(answer, principle)
        if found is not None:
            return reviser(answer, found)
    return answer


def _stops_when_pleased(answer, principles, critic, reviser):
    for principle in principles:
        found = critic(answer, principle)
        if found is None:
            break
        answer = reviser(answer, found)
    return answer


def _always_revises(answer, principles, critic, reviser):
    for principle in principles:
        answer = reviser(answer, critic(answer, principle))
    return answer


def _revises_by_principle(answer, principles, critic, reviser):
    for principle in principles:
        if critic(answer, principle) is not None:
            answer = reviser(answer, principle)
    return answer


def _throws_away(answer, principles, critic, reviser):
    for principle in principles:
        found = critic(answer, principle)
        if found is not None:
            reviser(answer, found)
    return answer


def _every_draft(answer, principles, critic, reviser):
    drafts = [rlaif.critique_and_revise(answer, principles[:n], critic, reviser) for n in range(len(principles) + 1)]
    return list(dict.fromkeys(drafts))


def _revises_what_is_kept(answer, principles, critic, reviser):
    for principle in principles:
        found = critic(answer, principle)
        if found is None:
            answer = reviser(answer, found)
    return answer


_LOOP = Exercise(
    id="rlaif.critique_and_revise",
    reference=rlaif.critique_and_revise,
    answer=critique_and_revise,
    cases=_loop_cases,
    mistakes=[
        Mistake(
            "from the original",
            _from_the_original,
            "Each of your revisions starts from the first answer, so the last one undoes the others. Who should read "
            "the revised answer next?",
        ),
        Mistake(
            "critiques of the original",
            _critiques_of_the_original,
            "Your critic reads the first answer in every round, while the reviser works on a later one. Words have "
            "moved by then, and a revision may have broken something itself.",
        ),
        Mistake(
            "revision thrown away",
            _throws_away,
            "The answer comes out as it went in. Either you throw away what the reviser returns, or you exchange the "
            "arguments: both calls take the answer first.",
        ),
        Mistake(
            "nothing returned",
            lambda answer, principles, critic, reviser: None,
            "You return nothing. The last line of the function has to hand the answer back.",
        ),
        Mistake(
            "every draft",
            _every_draft,
            "You return a list of drafts. Only the last one is wanted, as text.",
        ),
        Mistake(
            "revises what is kept",
            _revises_what_is_kept,
            "You revise where the critic found *nothing*. None means that the answer keeps the principle.",
        ),
        Mistake(
            "one revision",
            _one_revision,
            "You return after the first thing that was mended. The other principles are waiting.",
        ),
        Mistake(
            "stops when pleased",
            _stops_when_pleased,
            "You stop at the first principle that the answer keeps. It may still break the next one.",
        ),
        Mistake(
            "always revises",
            _always_revises,
            "Your reviser is called even where the critic found nothing, and is handed None. An answer that keeps the "
            "principle goes on as it is.",
        ),
        Mistake(
            "revises by the principle",
            _revises_by_principle,
            "You hand the principle to the reviser. It needs the critique, which says what in *this* answer is wrong.",
        ),
        Mistake(
            "last principle first",
            lambda answer, principles, critic, reviser: rlaif.critique_and_revise(
                answer, principles[::-1], critic, reviser
            ),
            "You begin with the last principle. Mending can break a principle that was kept a moment ago, so the order "
            "counts: take them as they stand.",
        ),
    ],
    hints=[
        "One round for each principle, in order. The answer that leaves a round enters the next one.",
        "In a round: ask the critic about the answer as it is now. None means that there is nothing to do.",
        "for principle in principles: found = critic(answer, principle), and if it is not None, "
        "answer = reviser(answer, found).",
    ],
    reason="`answer` is overwritten in each round, so every critique reads what earlier rounds have made of it. That "
    "matters as soon as mending one thing breaks another: strike out the word between two equal ones, and they stand "
    "side by side. The reviser is given the critique, as in the paper's prompt, and not the principle alone.",
)

EXERCISES = [_DEBIASED, _CLAMP, _LOOP]
