"""Exercise of lesson 00: a first function, to see how exercises work."""

import torch

from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def _cases(stream):
    return [
        Case("three numbers", (torch.tensor([-1.0, 0.0, 2.0]),)),
        Case("a 3 × 4 table", (torch.randn(3, 4, generator=stream),)),
        Case("one number", (torch.tensor(1.6),)),
        Case("very large and very small numbers", (torch.tensor([-200.0, -30.0, 30.0, 200.0]),)),
    ]


EXERCISES = [
    Exercise(
        id="start_here.sigmoid",
        reference=torch.sigmoid,
        answer=sigmoid,
        cases=_cases,
        mistakes=[
            Mistake(
                "sign of the exponent",
                lambda x: 1 / (1 + torch.exp(x)),
                "Your curve falls from 1 to 0. A large x should come out near 1: what should exp do "
                "there, grow or vanish?",
            ),
            Mistake(
                "missing brackets",
                lambda x: 1 / 1 + torch.exp(-x),
                "Your results go above 1. Division binds before addition: which part is the whole denominator?",
            ),
            Mistake(
                "overflow",
                lambda x: torch.exp(x) / (1 + torch.exp(x)),
                "Right on paper, but exp(200) is infinite for a float, and ∞/∞ is not a number. Can you "
                "write it so that only one exponential appears?",
            ),
            Mistake(
                "tanh",
                torch.tanh,
                "That is tanh, the sigmoid's cousin: it runs from −1 to 1. A probability starts at 0.",
            ),
            Mistake(
                "step",
                lambda x: (x > 0).float(),
                "You return a verdict, 0 or 1. The sigmoid keeps the doubt: at 0 it says one half.",
            ),
            Mistake(
                "logarithm",
                torch.nn.functional.logsigmoid,
                "These are at most 0: you return the sigmoid's logarithm. Lesson 03 will need it; here it is the "
                "curve itself.",
            ),
            Mistake(
                "softmax",
                lambda x: torch.softmax(x, dim=-1) if x.ndim else torch.ones_like(x),
                "Your numbers sum to 1: that is a softmax, where they compete. The sigmoid treats each number alone.",
            ),
        ],
        hints=[
            "You want a curve that is near 0 far to the left, one half at 0, near 1 far to the right.",
            "exp(−x) is huge on the left, 1 at 0 and nearly 0 on the right. Add 1 to it and look at one over that.",
            "return 1 / (1 + torch.exp(-x))",
        ],
        reason="exp(−x) is never negative, so 1 + exp(−x) is at least 1 and one over it lies between 0 "
        "and 1. At x = 0 it is 1/2, and σ(−x) = 1 − σ(x). In real code use torch.sigmoid, whose "
        "gradient also survives where exp overflows.",
    ),
]
