"""Drills of lesson 10: where a fitted law peaks, and what an ensemble makes of its members' scores."""

from math import exp
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _peak(stream: Random) -> Question:
    """The KL, in nats, at which a fitted law of RL peaks."""
    beta = stream.choice([0.4, 0.5, 0.8, 1.0])
    ratio = stream.choice([1.5, 2.0, 2.2, 2.5])
    alpha = round(beta * ratio, 2)
    d = exp(alpha / beta - 1)
    return Question(
        "overoptimization.peak_drill",
        f"A run of RL follows R(d) = d(α − β log d) with α = {alpha} and β = {beta}. At how many nats of KL is gold "
        "highest?",
        (
            Option(
                f"{d * d:.1f} nats",
                f"The slope is 0 at d = e^(α/β − 1) = {d:.2f}, and the KL is its square.",
                correct=True,
            ),
            Option(f"{d:.1f} nats", "That is d, the root of the KL. Square it."),
            Option(f"{exp(2 * alpha / beta):.1f} nats", "There the bracket is 0: gold is back where it began."),
            Option(f"{(alpha / (2 * beta)) ** 2:.1f} nats", "That is the peak of best-of-n's law, a parabola."),
        ),
    )


def _ensemble(stream: Random) -> Question:
    """Which of two answers an ensemble prefers, by the worst case."""
    calm = [round(stream.uniform(1.0, 1.6), 1) for _ in range(3)]
    torn = [round(stream.uniform(-0.5, 0.6), 1), *(round(stream.uniform(2.0, 3.5), 1) for _ in range(2))]
    stream.shuffle(torn)
    gap, mean_gap = min(calm) - min(torn), sum(calm) / 3 - sum(torn) / 3

    def scores(values: list[float]) -> str:
        return ", ".join(f"{value:.1f}".replace("-", "−") for value in values)

    return Question(
        "overoptimization.ensemble_drill",
        f"Three reward models give answer A {scores(calm)} and answer B {scores(torn)}. By how much does the "
        "worst case (WCO) prefer A?",
        (
            Option(
                _signed(gap),
                f"The lowest of A is {min(calm):.1f}, the lowest of B {min(torn):.1f}.".replace("-", "−"),
                correct=True,
            ),
            Option(_signed(mean_gap), "That is the difference of the means, to which B's two admirers count twice."),
            Option(_signed(max(calm) - max(torn)), "That is the best case: one generous member would decide."),
            Option(
                _signed(min(a - b for a, b in zip(calm, torn))),
                "You took the lowest of the members' differences. Each answer is scored alone, before anyone compares.",
            ),
        ),
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


DRILLS = [Drill("overoptimization.peak_drill", _peak), Drill("overoptimization.ensemble_drill", _ensemble)]
