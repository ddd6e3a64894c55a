"""Drills of lesson 07: where IPO and cDPO settle, and what unequal thumbs should weigh."""

from math import log
from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _ipo_settles(stream: Random) -> Question:
    """(1 − 2ε)/(2β): the mean of where right and flipped labels pull."""
    beta = stream.choice([0.05, 0.1, 0.2, 0.5])
    flipped = stream.choice([10, 20, 30, 40])
    target, share = 1 / (2 * beta), flipped / 100
    right = (1 - 2 * share) * target
    return Question(
        "dpo_variants.ipo_drill",
        f"IPO of sums, β = {beta}. Among many pairs of one kind, {flipped} % of the labels are flipped. At which "
        f"margin is their mean loss least?",
        (
            Option(
                f"{right:.2f} nats",
                f"Right labels pull to +{target:g}, flipped ones to −{target:g}; the mean of the two, weighted, is "
                f"{1 - share:.1f}·{target:g} − {share:.1f}·{target:g} = {right:.2f}.",
                correct=True,
            ),
            Option(f"{target:.2f} nats", "That is where labels without slips would settle."),
            Option(
                f"{(1 - share) * target:.2f} nats",
                "That takes the flipped labels for missing ones. They pull to the other side.",
            ),
            Option(
                f"{log((1 - share) / share) / beta:.2f} nats",
                "That is the logit of the votes over β, where DPO settles.",
            ),
        ),
    )


def _cdpo_settles(stream: Random) -> Question:
    """log((1 − ε)/ε)/β."""
    beta = stream.choice([0.1, 0.2, 0.5])
    percent = stream.choice([5, 10, 20, 30])
    share = percent / 100
    right = log((1 - share) / share) / beta
    return Question(
        "dpo_variants.cdpo_drill",
        f"cDPO with β = {beta} is told that {percent} % of labels are slips. On one pair nobody ever disagrees. At "
        f"which margin does this pair come to rest?",
        (
            Option(
                f"{right:.1f} nats",
                f"Where σ(β·margin) = {1 - share:.2f}: β times the margin is log({1 - share:.2f}/{share:.2f}) = "
                f"{right * beta:.2f}.",
                correct=True,
            ),
            Option("nowhere", "That is DPO. Here the other reading of the label keeps a weight, and pulls back."),
            Option(f"{right * beta:.1f} nats", "That is the gap in implicit reward. To get nats, it is divided by β."),
            Option(f"{(1 - 2 * share) / (2 * beta):.1f} nats", "That is IPO's place for pairs with so many flips."),
        ),
    )


def _weights(stream: Random) -> Question:
    """λ_D·n_D : λ_U·n_U between 1:1 and 4:3."""
    down = stream.choice([2_000, 4_000, 5_000, 8_000])
    times = stream.choice([4, 5, 8])
    up = down // times
    return Question(
        "dpo_variants.weight_drill",
        f"{up:,} answers have thumbs up and {down:,} thumbs down. λ_U stays at 1. KTO's paper (version 1) wants "
        f"λ_D·n_D : λ_U·n_U between 1:1 and 4:3. Which λ_D?",
        (
            Option(
                f"{times} to {4 * times / 3:.2f}",
                f"λ_D·{up:,} should lie between {down:,} and {4 * down // 3:,}.",
                correct=True,
            ),
            Option(
                f"{1 / times:.3f} to {4 / 3 / times:.3f}",
                "That makes the rare kind rarer still: it divides by the ratio.",
            ),
            Option("1 to 1.33", "That is the ratio of the products. The counts are in it, and they are unequal here."),
            Option(f"{3 * times / 4:.2f} to {times}", "That is 3:4 to 1:1, with the thumbs down ahead."),
        ),
    )


DRILLS = [
    Drill("dpo_variants.ipo_drill", _ipo_settles),
    Drill("dpo_variants.cdpo_drill", _cdpo_settles),
    Drill("dpo_variants.weight_drill", _weights),
]
