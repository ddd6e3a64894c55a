"""Where a step of ours goes: how much of it is the model's own forward and backward pass, which no trainer can spare.

Run it as `python -m benchmarks.floor`. Processor time on one thread, so that other programs hardly matter.
"""

import time
from functools import partial

import click
import torch
from transformers.utils import logging

from benchmarks.race import calls_timed
from benchmarks.training import Case, make

METHODS = ("sft", "reward", "dpo", "kto")
_seconds_in = partial(calls_timed, clock=time.process_time)


def shares(case: Case) -> tuple[float, float, float]:
    """Milliseconds of a step, and the shares of it in the transformer's forward pass and in the backward pass."""
    trainer = make(case)
    if case.method in ("dpo", "kto"):
        trainer.precompute_reference()  # once a run, so no part of a step
    body = next(module for module in trainer.model.modules() if hasattr(module, "embed_tokens"))
    with (
        _seconds_in(body, "forward") as forward,
        _seconds_in(trainer, "backward") as backward,
        _seconds_in(trainer, "step") as step,
    ):
        trainer.train()
    return 1000 * sum(step) / len(step), sum(forward) / sum(step), sum(backward) / sum(step)


@click.command(help="Say how much of a step is the model's own work.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="Of each case.")
def main(steps: int) -> None:
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for method in METHODS:
        for rows in (8, 64):
            case = Case(method, "tiny", rows, steps)
            took, forward, backward = shares(case)
            click.echo(f"{case!s:28} {took:6.1f} ms: forward {forward:4.0%}, backward {backward:4.0%}")


if __name__ == "__main__":
    main()
