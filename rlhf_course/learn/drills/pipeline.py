"""Drills of lesson 01: what models cost in memory, and what drifting costs in score."""

from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question

#: Models that learn and models that are frozen, as the lesson's methods hold them.
_HELD = {"DPO": (1, 1), "GRPO": (1, 2), "PPO": (2, 2)}


def _memory(stream: Random) -> Question:
    """Gigabytes of a method's weights, gradients and Adam."""
    method = stream.choice(list(_HELD))
    billions = stream.choice([1, 2, 3, 7, 8, 13])
    learn, frozen = _HELD[method]
    gigabytes = (4 * learn + frozen) * billions * 4
    return Question(
        "pipeline.memory_drill",
        f"You run {method} with models of {billions} billion parameters, four bytes a number, with Adam. How much "
        f"memory do weights, gradients and Adam's averages take?",
        (
            Option(
                f"{gigabytes} GB",
                f"Learning: {learn} at 4 numbers a parameter; frozen: {frozen} at 1. That makes {4 * learn + frozen} "
                f"times {billions} billion numbers of 4 bytes.",
                correct=True,
            ),
            Option(
                f"{(learn + frozen) * billions * 4} GB",
                "Those are the weights alone. What learns also holds its gradient and Adam's two averages.",
            ),
            Option(
                f"{(learn + frozen) * 4 * billions * 4} GB",
                "That has every model learning. The frozen ones are only asked: they cost their weights and no more.",
            ),
            Option(
                f"{(4 * learn + frozen) * billions} GB",
                "Those are billions of numbers. Each takes four bytes.",
            ),
        ),
    )


def _worth(stream: Random) -> Question:
    """What PPO makes of two policies: score − β·KL."""
    beta = stream.choice([0.02, 0.05, 0.1, 0.2, 0.3])
    near, far = stream.randint(2, 5), stream.randint(8, 20)
    low = stream.randint(8, 16) / 10
    high = round(low + stream.randint(3, 15) / 10, 1)
    a, b = high - beta * far, low - beta * near
    while abs(a - b) < 0.05:  # no close calls
        far += 1
        a = high - beta * far
    winner, loser = ("A", "B") if a > b else ("B", "A")
    sums = f"A is worth {high} − {beta} · {far} = {a:.2f}, B {low} − {beta} · {near} = {b:.2f}."
    by_score = "A has the higher score, but the score is not all that counts: each nat of KL costs β."
    by_drift = "B has drifted less, but that is a price and not the goal: what did the drift of A buy?"
    return Question(
        "pipeline.worth_drill",
        f"Policy A has a mean score of {high} at {far} nats of KL from the reference, policy B {low} at {near} nats. "
        f"With β = {beta}, which of them does PPO prefer?",
        (
            Option(f"{winner}, by {abs(a - b):.2f}", sums, correct=True),
            Option(
                f"{loser}, by {abs(a - b):.2f}",
                f"{by_score if loser == 'A' else by_drift} {sums}",
            ),
            Option(
                f"A, by {high - low:.2f}",
                f"That is the gap of the scores alone, as if β were 0. {sums}",
            ),
            Option(
                f"B, by {far - near:.2f}",
                f"That is the gap in nats. Nats and scores are different units; β turns one into the other. {sums}",
            ),
        ),
    )


DRILLS = [Drill("pipeline.memory_drill", _memory), Drill("pipeline.worth_drill", _worth)]
