"""Drills of lesson 06: a pair's loss, its weight, and what a log-ratio is worth."""

from math import exp, log1p
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def _loss(stream: Random) -> Question:
    """−log σ(β·margin) from four log-probabilities."""
    beta = stream.choice([0.1, 0.2, 0.5])
    ref_chosen, ref_rejected = (-stream.randint(20, 40) for _ in range(2))
    up, down = stream.randint(-2, 4), stream.randint(-6, 1)
    chosen, rejected = ref_chosen + up, ref_rejected + down
    gap = beta * (up - down)
    bare = beta * (chosen - rejected)
    return Question(
        "dpo.loss_drill",
        f"Log-probabilities of a pair: chosen {chosen} (reference {ref_chosen}), rejected {rejected} (reference "
        f"{ref_rejected}). β = {beta}. What is DPO's loss?",
        (
            Option(
                f"{log1p(exp(-gap)):.3f}",
                f"The log-ratios are {up:+d} and {down:+d}, {up - down:+d} apart; times β that is {gap:+.1f}, and "
                f"−log σ({gap:.1f}) = {log1p(exp(-gap)):.3f}.",
                correct=True,
            ),
            Option(
                f"{log1p(exp(-bare)):.3f}",
                "That leaves the reference out. What counts is how each log-probability has changed.",
            ),
            Option(f"{log1p(exp(gap)):.3f}", "That is the loss with chosen and rejected exchanged."),
            Option(
                f"{log1p(exp(-(up - down))):.3f}",
                "That leaves β out: it turns nats of log-ratio into units of reward.",
            ),
        ),
    )


def _weight(stream: Random) -> Question:
    """β·σ(−β·margin)."""
    beta = stream.choice([0.1, 0.2, 0.5])
    gap = stream.choice([-2.0, -1.0, 1.0, 2.0])
    margin = gap / beta
    right = beta * _sigmoid(-gap)
    return Question(
        "dpo.weight_drill",
        f"A pair's margin is {margin:+.0f} nats, and β = {beta}. How hard does it push the chosen answer's "
        f"log-probability up?",
        (
            Option(
                f"{right:.3f}",
                f"β times the margin is {gap:+.1f}; the policy gives the other vote σ({-gap:+.1f}) = "
                f"{_sigmoid(-gap):.3f}, and β times that is {right:.3f}.",
                correct=True,
            ),
            Option(
                f"{beta * _sigmoid(gap):.3f}", "That grows with the margin: a pair that is right would pull the most."
            ),
            Option(f"{_sigmoid(-gap):.3f}", "β stands in front too: the derivative of β·margin by the margin."),
            Option(f"{beta / 2:.3f}", "That is the weight at a margin of 0, where every pair begins."),
        ),
    )


def _reward(stream: Random) -> Question:
    """β·(log π − log π_ref)."""
    beta = stream.choice([0.05, 0.1, 0.3, 0.5])
    ref = -stream.randint(20, 60)
    change = stream.choice([-8, -6, -4, 2, 4, 6])
    right = beta * change
    return Question(
        "dpo.reward_drill",
        f"An answer's log-probability is {ref + change} under the policy and {ref} under the reference. β = {beta}. "
        f"What is its implicit reward, up to the prompt's constant?",
        (
            Option(f"{right:+.2f}", f"The log-ratio is {change:+d} nats, and β times it {right:+.2f}.", correct=True),
            Option(f"{-right:+.2f}", "The sign is the other way: what has become likelier was paid for."),
            Option(
                f"{change / beta:+.2f}",
                "You divided by β. That is how far a reward moves the policy, not the way back.",
            ),
            Option(
                f"{beta * (ref + change):+.2f}", "That is β·log π. Without the reference, every long answer looks bad."
            ),
        ),
    )


DRILLS = [
    Drill("dpo.loss_drill", _loss),
    Drill("dpo.weight_drill", _weight),
    Drill("dpo.reward_drill", _reward),
]
