"""Drills of lesson 05: a token's clipped loss, a token's advantage, what an answer earns."""

from random import Random

from rlhf_course.learn.drills import Drill
from rlhf_course.learn.question import Option, Question


def _number(x: float, places: int = 2) -> str:
    """x to so many places, with a minus sign that is one."""
    return f"{x:.{places}f}".replace("-", "−")


def _clip(stream: Random) -> Question:
    """−min(ρA, clip(ρ)A) of one token, outside the clip."""
    epsilon = stream.choice([0.1, 0.2])
    ratio = stream.choice([0.5, 0.7, 1.3, 1.5])
    advantage = stream.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
    clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
    free, held = ratio * advantage, clipped * advantage
    right, other = -min(free, held), -max(free, held)
    chosen = "clipped, and the push ends" if held < free else "not clipped, and the push goes on"
    return Question(
        "ppo.clip_drill",
        f"A token has advantage {_number(advantage, 1)} and ratio {ratio}, and ε is {epsilon}. What does it add to the "
        f"clipped loss?",
        (
            Option(
                _number(right),
                f"The products are {_number(free)} and, clipped, {_number(held)}. The smaller one is the one that is "
                f"{chosen}; the loss is minus that.",
                correct=True,
            ),
            Option(_number(other), "That is the larger of the two products. The clip takes gains away, never harm."),
            Option(_number(-right), "The sign: an optimiser goes downhill, so the loss is minus the smaller product."),
            Option(
                _number(-advantage), "That is what it added before the policy moved, at ratio 1. It has moved since."
            ),
        ),
    )


def _gae(stream: Random) -> Question:
    """The first of two tokens' advantage, γ = 1."""
    lam = stream.choice([0.5, 0.8, 0.9])
    cost = -stream.choice([0.1, 0.2])
    score = stream.choice([1.0, 1.5, 2.0, 3.0])
    first, second = stream.choice([0.5, 1.0]), stream.choice([0.6, 1.2, 1.4])
    step, last = cost + second - first, score - second
    right = step + lam * last
    return Question(
        "ppo.gae_drill",
        f"An answer of two tokens has rewards {_number(cost, 1)} and {score}, and the critic said {first} and "
        f"{second}. γ = 1, λ = {lam}. What is the first token's advantage?",
        (
            Option(
                _number(right),
                f"δ of the second is {score} − {second} = {_number(last)}, of the first {_number(cost, 1)} + {second} "
                f"− {first} = {_number(step)}; the first's advantage is {_number(step)} + {lam} · {_number(last)}.",
                correct=True,
            ),
            Option(_number(step), "That is δ alone, as λ = 0 has it. What went better later is owed to it too."),
            Option(
                _number(cost + score - first),
                "That is all the reward still to come minus V: λ = 1. The last step is to count λ times only.",
            ),
            Option(
                _number(cost - first + lam * last),
                "You left the next value out of δ. What the answer is worth after this token belongs to what it did.",
            ),
        ),
    )


def _earned(stream: Random) -> Question:
    """The sum of an answer's KL-shaped rewards."""
    beta = stream.choice([0.05, 0.1, 0.2])
    score = stream.choice([-0.5, 1.2, 2.1, 3.7])
    ratios = [stream.choice([-1.0, -0.5, 0.5, 1.0, 1.5, 2.0]) for _ in range(3)]
    total = sum(ratios)
    shown = ", ".join(_number(x, 1) for x in ratios)
    return Question(
        "ppo.earned_drill",
        f"An answer of three tokens scores {_number(score, 1)}. Its tokens' log π − log π_ref are {shown}, and β is "
        f"{beta}. What do its rewards add up to?",
        (
            Option(
                _number(score - beta * total, 3),
                f"The log-ratios add up to {_number(total, 1)} nats; at {beta} a nat that is "
                f"{_number(beta * total, 3)}, and the score comes once.",
                correct=True,
            ),
            Option(_number(score + beta * total, 3), "That pays the policy for drifting. β is a price: take it off."),
            Option(
                _number(3 * score - beta * total, 3), "The score comes once, at the last token, not at each of them."
            ),
            Option(
                _number(score - beta * sum(abs(x) for x in ratios), 3),
                "You made every log-ratio positive. A token that the reference likes better pays something back.",
            ),
        ),
    )


DRILLS = [
    Drill("ppo.clip_drill", _clip),
    Drill("ppo.gae_drill", _gae),
    Drill("ppo.earned_drill", _earned),
]
