"""Drills of lesson 09: labels from two orders, and the gaps that soft labels ask for."""

from math import log
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _both_orders(stream: Random) -> Question:
    """P(A wins) from the slot's probability in two orders."""
    p, swapped = stream.sample([0.9, 0.85, 0.75, 0.7, 0.65, 0.55, 0.45, 0.35], 2)
    right = (p + 1 - swapped) / 2
    both, neither = p * (1 - swapped), (1 - p) * swapped
    return Question(
        "rlaif.both_orders_drill",
        f"Shown A and then B, a labeler gives the first slot {p:.2f}. Shown B and then A, it gives the first slot "
        f"{swapped:.2f}. What is the label, as P(A wins)?",
        (
            Option(
                f"{right:.3f}",
                f"A gets {p:.2f} in one order and 1 − {swapped:.2f} = {1 - swapped:.2f} in the other; the mean is "
                f"{right:.3f}.",
                correct=True,
            ),
            Option(
                f"{(p + swapped) / 2:.3f}",
                "That averages two numbers about the first slot. In the second order it was B that stood there.",
            ),
            Option(
                f"{1 - right:.3f}",
                "That is P(B wins). A stood in the first slot in the first order.",
            ),
            Option(
                f"{both / (both + neither):.3f}",
                "That treats the two as independent witnesses, and becomes too sure. It is one labeler, asked twice.",
            ),
        ),
    )


def _gap(stream: Random) -> Question:
    """The gap at which a soft label's loss is lowest."""
    label, bound = stream.choice([0.95, 0.9, 0.97, 0.85]), stream.choice([0.6, 0.65, 0.7, 0.75])
    right = log(bound / (1 - bound))
    return Question(
        "rlaif.gap_drill",
        f"A soft label of {label} is clamped to at most {bound}. For which gap of scores, chosen minus rejected, is "
        f"the pair's loss lowest?",
        (
            Option(
                f"{right:.2f}",
                f"Where σ(gap) is the label: log({bound} / {1 - bound:.2f}) = {right:.2f}.",
                correct=True,
            ),
            Option(
                f"{log(label / (1 - label)):.2f}",
                f"That is the gap for the label before it was clamped, log({label} / {1 - label:.2f}).",
            ),
            Option(
                f"{2 * bound - 1:.2f}",
                "That is the difference of the two probabilities. Scores are on the scale of log-odds.",
            ),
            Option(
                "none: the wider, the better",
                "So it is for a hard label. A soft one also says how often the other answer should win, and beyond its "
                "gap the loss rises again.",
            ),
        ),
    )


DRILLS = [Drill("rlaif.both_orders_drill", _both_orders), Drill("rlaif.gap_drill", _gap)]
