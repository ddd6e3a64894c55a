"""Do both sides do the same work? No ratio is worth printing before this is known.

A loss alone does not tell: before the first step DPO's is log 2 and KTO's 1/2 whatever β is, and even with chosen and
rejected exchanged. So the gradient's norm is compared too, and what both log of the answers, step by step.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.training import Case, closing, make, rows
from rlhf_course import over_to_trl
from rlhf_course.over_to_trl import compare
from rlhf_course.trainers import online
from rlhf_course.trainers.rollout import Rollout, sample_rollout

#: A learning rate at which three steps tell right from wrong: so that margins leave 0.
LEARNING_RATE, STEPS = 1e-4, 3
#: How far two figures of a step may be apart, relative to 1 + their size in losses, and to their size in norms.
TOLERANCE = 1e-3
#: Metrics that tell chosen from rejected.
TOLD_APART = ("rewards/margins", "logps/chosen", "logps/rejected")


class NotTheSame(RuntimeError):
    """The sides differ in more than speed."""


def check_parity(case: Case) -> None:
    """Train both sides on the same batches (in GRPO on the same answers), and compare every step.

    Raises:
        NotTheSame: a loss, a gradient's norm or a metric differs.
    """
    case = replace(case, steps=STEPS - 1)  # `make` adds one
    trainer = make(case)
    args = replace(trainer.args, learning_rate=LEARNING_RATE, warmup_steps=0)
    rewards = closing if case.method == "grpo" else None
    with same_answers():
        found = compare(case.method, trainer.model, trainer.tokenizer, rows(case), args, rewards)
    ours, theirs = found["ours"], found["TRL"]
    for name in ("loss", "grad_norm", *TOLD_APART):
        if name in ours.columns and name in theirs.columns:
            check_close(f"{case}: {name}", torch.tensor(ours[name]), torch.tensor(theirs[name]), name != "grad_norm")


@contextmanager
def same_answers() -> Iterator[None]:
    """Inside, TRL's GRPO learns from the answers that ours has drawn before.

    With the same random numbers each would draw nearly the same, but of 49,152 tokens another one where rounding
    decides, and from there on another answer.
    """
    drawn: list[Rollout] = []

    def draw(*args: Any, **more: Any) -> Rollout:
        rollout = sample_rollout(*args, **more)
        drawn.append(copy.deepcopy(rollout))
        return rollout

    def draw_again(*args: Any, **more: Any) -> Rollout:
        return drawn.pop(0)

    with patch.object(online, "sample_rollout", draw), patch.object(over_to_trl, "sample_rollout", draw_again):
        yield


def check_close(what: str, ours: torch.Tensor, theirs: torch.Tensor, absolute: bool) -> None:
    """Refuse figures of some steps, (steps,) each, that are further apart than `TOLERANCE`.

    Args:
        absolute: allow the tolerance itself too, for figures that may be 0.
    """
    apart = (ours - theirs).abs() - TOLERANCE * (theirs.abs() + absolute)
    if not bool((apart <= 0).all()):
        step = int(apart.argmax())
        raise NotTheSame(f"{what} of step {step + 1} is {ours[step]:.6f} in ours and {theirs[step]:.6f} in TRL's")
