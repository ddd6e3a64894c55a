"""Drills of lesson 11: a win rate, who is beaten, and what labels cost."""

from random import Random

import torch

from rlhf_course.evaluation import pareto_frontier
from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _rate(stream: Random) -> Question:
    """The win rate from wins, ties and losses."""
    games = stream.choice([200, 400, 500])
    ties = stream.randrange(games // 10, games // 4, 2)
    wins = stream.randrange(games // 3, games // 2)
    losses = games - wins - ties
    right = (wins + ties / 2) / games
    return Question(
        "choosing.rate_drill",
        f"Of {games} games A wins {wins}, {ties} are ties, and B wins {losses}. What is A's win rate?",
        (
            Option(
                f"{right:.1%}",
                f"({wins} + {ties} / 2) / {games} = {right:.3f}: a tie is half a game for each.",
                correct=True,
            ),
            Option(
                f"{wins / games:.1%}", "That gives A nothing for a tie, and B's rate by the same rule adds up to less."
            ),
            Option(f"{(wins + ties) / games:.1%}", "That gives A a whole game for every tie."),
            Option(
                f"{wins / (wins + losses):.1%}", "That leaves the ties out, which makes every difference look larger."
            ),
        ),
    )


def _beaten(stream: Random) -> Question:
    """Which one of four policies is off the frontier."""
    while True:
        kl = sorted(round(stream.uniform(0.4, 6.0), 1) for _ in range(4))
        gold = [round(stream.uniform(0.5, 2.2), 1) for _ in range(4)]
        kept = pareto_frontier(torch.tensor(kl), torch.tensor(gold)).tolist()
        if kept.count(False) == 1 and len(set(kl)) == len(set(gold)) == 4:
            break
    order = stream.sample(range(4), 4)
    names = dict(zip(order, "ABCD"))
    told = ", ".join(f"{names[i]} has gold {gold[i]} at {kl[i]} nats" for i in order)
    out = kept.index(False)
    rival = next(j for j in range(4) if kl[j] < kl[out] and gold[j] > gold[out])
    options = [
        Option(names[out], f"{names[rival]} has more gold ({gold[rival]}) for less KL ({kl[rival]}).", correct=True)
        if i == out
        else Option(names[i], f"Nobody has as much gold as {names[i]} for as little KL: look for one.")
        for i in order
    ]
    return Question("choosing.beaten_drill", f"{told}. Which policy is beaten?", tuple(options))


def _bill(stream: Random) -> Question:
    """What the rankings of K answers cost, and how many pairs they give."""
    prompts, k = stream.choice([5_000, 10_000, 20_000, 30_000]), stream.choice([4, 5, 6, 8])
    price = stream.choice([0.5, 2.0, 3.0])
    fewest, pairs = prompts * (k - 1), prompts * k * (k - 1) // 2
    return Question(
        "choosing.bill_drill",
        f"{prompts:,} prompts, {k} answers each, ranked by people. A comparison costs {price:.2f} USD, and {k - 1} "
        f"comparisons put {k} answers in order at best. What do the labels cost at least, and how many pairs does the "
        "reward model get?",
        (
            Option(
                f"{fewest * price:,.0f} USD, {pairs:,} pairs",
                f"{prompts:,} × {k - 1} × {price:.2f} USD. A ranking of {k} says who wins in all {k * (k - 1) // 2} "
                "pairs.",
                correct=True,
            ),
            Option(
                f"{pairs * price:,.0f} USD, {pairs:,} pairs",
                "That pays for every pair by itself. A ranking gives the other pairs for nothing.",
            ),
            Option(
                f"{fewest * price:,.0f} USD, {fewest:,} pairs",
                "The money is right. But the ranking says more than the comparisons that made it: C(K, 2) pairs.",
            ),
            Option(
                f"{prompts * price:,.0f} USD, {prompts:,} pairs",
                "That counts a prompt as one comparison, as those do who read InstructGPT's 33k prompts as 33k pairs.",
            ),
        ),
    )


DRILLS = [
    Drill("choosing.rate_drill", _rate),
    Drill("choosing.beaten_drill", _beaten),
    Drill("choosing.bill_drill", _bill),
]
