"""Do both sides do the same work? No ratio is worth printing before this is known.

A loss alone does not tell: before the first step DPO's is log 2 and KTO's 1/2 whatever β is, and even with chosen and
rejected exchanged. So the gradient's norm is compared too, and what both log of the answers, step by step.
"""

from dataclasses import replace

import torch

from benchmarks.training import Case, closing, make, rows
from rlhf_course.over_to_trl import compare

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
    # After an update, what is left of rounding decides which of SmolLM2's 49,152 tokens is drawn: other answers.
    steps = 1 if (case.method, case.model) == ("grpo", "smollm2") else STEPS
    case = replace(case, steps=steps - 1)  # `make` adds one
    trainer = make(case)
    args = replace(trainer.args, learning_rate=LEARNING_RATE, warmup_steps=0)
    rewards = closing if case.method == "grpo" else None
    found = compare(case.method, trainer.model, trainer.tokenizer, rows(case), args, rewards)
    ours, theirs = found["ours"], found["TRL"]
    for name in ("loss", "grad_norm", *TOLD_APART):
        if name in ours.columns and name in theirs.columns:
            check_close(f"{case}: {name}", torch.tensor(ours[name]), torch.tensor(theirs[name]), name != "grad_norm")


def check_close(what: str, ours: torch.Tensor, theirs: torch.Tensor, absolute: bool) -> None:
    """Refuse figures of some steps, (steps,) each, that are further apart than `TOLERANCE`.

    Args:
        absolute: allow the tolerance itself too, for figures that may be 0.
    """
    apart = (ours - theirs).abs() - TOLERANCE * (theirs.abs() + absolute)
    if not bool((apart <= 0).all()):
        step = int(apart.argmax())
        raise NotTheSame(f"{what} of step {step + 1} is {ours[step]:.6f} in ours and {theirs[step]:.6f} in TRL's")
