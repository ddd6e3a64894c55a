"""Drills of lesson 04: the estimators of one token, the best policy of two answers, best-of-n."""

from math import exp, expm1, log
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _estimator(stream: Random) -> Question:
    """k3 of a token from its two log-probabilities; the wrong options are the other estimators and the inversion."""
    ref = -stream.randint(16, 30) / 10
    d = stream.choice([-1.2, -0.8, -0.5, 0.5, 0.8, 1.2, 1.5])  # no log-probability gets above 0
    logp = round(ref + d, 1)
    right, sign = expm1(-d) + d, "+" if d > 0 else "−"
    return Question(
        "kl.estimator_drill",
        f"The policy gave its sampled token log-probability {logp}, the reference {ref:.1f}. What is k3?",
        (
            Option(
                f"{right:.3f}",
                f"d = {logp} − ({ref:.1f}) = {d}, and e^({-d}) − 1 {sign} {abs(d)} = {right:.3f}.",
                correct=True,
            ),
            Option(f"{d:.3f}", "That is d itself, k1: right on average, and negative at times."),
            Option(f"{d * d / 2:.3f}", "That is half of d squared, k2: near k3 while d is small, and biased."),
            Option(
                f"{expm1(d) - d:.3f}",
                "The ratio is the wrong way up: under samples from π it is π_ref/π = e^(−d) whose mean is 1.",
            ),
        ),
    )


def _tilt(stream: Random) -> Question:
    """The share of the better of two answers under the best policy for a β."""
    share = stream.choice([0.1, 0.2, 0.25, 0.5])
    gap = stream.choice([0.8, 1.0, 1.6, 2.0])
    beta = stream.choice([0.5, 1.0, 2.0, 4.0])

    def tilted(exponent: float) -> float:
        odds = share / (1 - share) * exp(exponent)
        return odds / (1 + odds)

    right = tilted(gap / beta)
    return Question(
        "kl.tilt_drill",
        f"The reference gives the better of two answers {share}, the other {1 - share}. The rewards differ by {gap}, "
        f"and β is {beta}. How often does the best policy for this price give the better one?",
        (
            Option(
                f"{right:.3f}",
                f"Its odds, {share} to {1 - share}, are multiplied by e^({gap}/{beta}) = {exp(gap / beta):.2f}.",
                correct=True,
            ),
            Option(f"{tilted(gap * beta):.3f}", "You multiplied by β. A higher price has to move less mass."),
            Option(
                f"{exp(gap / beta) / (1 + exp(gap / beta)):.3f}",
                "You left the reference out: that is the answer for two answers it finds equally likely.",
            ),
            Option(f"{share:.3f}", "That is the reference itself, which only an infinite price would keep."),
        ),
    )


def _best_of_n(stream: Random) -> Question:
    """The KL of best-of-n where no two answers score alike."""
    n = stream.choice([2, 3, 4, 8, 16, 32, 64])
    right = log(n) - (n - 1) / n
    return Question(
        "kl.best_of_n_drill",
        f"You take the best of {n} answers, and no two ever score alike. How far is that from the reference?",
        (
            Option(
                f"{right:.3f} nats",
                f"Somewhat less than log n: log {n} − {n - 1}/{n} = {log(n):.3f} − {(n - 1) / n:.3f}.",
                correct=True,
            ),
            Option(
                f"{log(n):.3f} nats",
                "That would be right if the winner always came from the best n-th part of all answers, evenly.",
            ),
            Option(f"{n - 1:.3f} nats", "That counts the answers thrown away. They cost time, not KL."),
            Option(f"{log(n) + (n - 1) / n:.3f} nats", "The second term is taken off: choosing can say at most log n."),
        ),
    )


DRILLS = [
    Drill("kl.estimator_drill", _estimator),
    Drill("kl.tilt_drill", _tilt),
    Drill("kl.best_of_n_drill", _best_of_n),
]
