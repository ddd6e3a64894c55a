"""Drills of lesson 03: numbers that Bradley–Terry and rankings give."""

from math import comb, exp, log1p
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def _probability(stream: Random) -> Question:
    """P(chosen ≻ rejected) from two scores, the nearest of four percentages."""
    rejected = stream.randint(5, 25) / 10
    margin = stream.choice([0.4, 0.6, 0.8, 1.2, 1.6, 2.0, 2.4])
    chosen = round(rejected + margin, 1)
    right = _sigmoid(margin)
    share = chosen / (chosen + rejected)
    return Question(
        "reward_model.margin_drill",
        f"A reward model scores answer A {rejected} and answer B {chosen}. How often does it expect a "
        f"labeler to choose B?",
        (
            Option(
                f"{100 * right:.1f} %",
                f"The gap is {chosen} − {rejected} = {margin}, and σ({margin}) = {right:.3f}.",
                correct=True,
            ),
            Option(
                f"{100 * _sigmoid(-margin):.1f} %",
                f"That is how often it expects A to be chosen: σ(−{margin}). The other way round.",
            ),
            Option(
                f"{100 * share:.1f} %",
                "That is B's share of the two scores, and a share would change if 5 were added to both "
                "scores. Bradley–Terry sees the gap alone.",
            ),
            Option(
                f"{100 * _sigmoid(chosen):.1f} %",
                "The sigmoid of B's own score compares B with an answer that scores 0. Here it meets A.",
            ),
        ),
    )


def _loss(stream: Random) -> Question:
    """−log σ(margin), for a margin of either sign."""
    margin = stream.choice([-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0])
    chosen = round(stream.randint(-5, 5) / 2, 1)
    rejected = round(chosen - margin, 1)
    right = log1p(exp(-margin))
    return Question(
        "reward_model.loss_drill",
        f"The answer that the labeler chose scores {chosen}, the other one {rejected}. What does this "
        f"pair add to the reward model's loss?",
        (
            Option(
                f"{right:.3f}",
                f"The gap is {margin}, so the choice had probability σ({margin}) = "
                f"{_sigmoid(margin):.3f}; its negative logarithm is {right:.3f}.",
                correct=True,
            ),
            Option(
                f"{log1p(exp(margin)):.3f}",
                "That is the loss if the labeler had chosen the other one. Check the order in the gap.",
            ),
            Option(
                f"{1 - _sigmoid(margin):.3f}",
                "That is how surprised the model is as a probability, 1 − P. The likelihood of many "
                "votes is a product, and its logarithm a sum: the loss takes −log P.",
            ),
            Option(
                f"{0.0 if margin > 0 else -margin:.3f}",
                "That is the hinge relu(−gap): it is 0 for a pair in the right order. The logistic loss "
                "never is: it goes on asking for a wider gap, ever more softly.",
            ),
        ),
    )


def _pairs(stream: Random) -> Question:
    """How many comparisons a ranking of K answers holds."""
    k = stream.randint(4, 9)
    return Question(
        "reward_model.pairs_drill",
        f"A labeler ranks {k} answers to one prompt, without ties. How many training pairs is that?",
        (
            Option(
                f"{comb(k, 2)}",
                f"Every two of the {k} meet once, in one order: {k} · {k - 1} / 2 = {comb(k, 2)}.",
                correct=True,
            ),
            Option(
                f"{k - 1}",
                "Those are the neighbours only. A ranking also says that the first beats the last.",
            ),
            Option(
                f"{k * (k - 1)}",
                "That counts (A, B) and (B, A) both. Of each two answers only one order is the labeler's.",
            ),
            Option(
                f"{k * k}",
                "That also pairs each answer with itself, and both orders of every other pair.",
            ),
        ),
    )


DRILLS = [
    Drill("reward_model.margin_drill", _probability),
    Drill("reward_model.loss_drill", _loss),
    Drill("reward_model.pairs_drill", _pairs),
]
