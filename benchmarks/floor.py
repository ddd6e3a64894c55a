"""Where a step of ours goes: how much of it is the model's own forward and backward pass, which no trainer can spare.

Run it as `python -m benchmarks.floor`. Processor time on one thread, so that other programs hardly matter.
"""

import time
from contextlib import contextmanager

import click
import torch
from transformers.utils import logging

from benchmarks.training import Case, make

METHODS = ("sft", "reward", "dpo", "kto")


def shares(case: Case) -> tuple[float, float, float]:
    """Milliseconds of a step, and the shares of it in the transformer's forward pass and in the backward pass."""
    trainer = make(case)
    if case.method in ("dpo", "kto"):
        trainer.precompute_reference()  # once a run, so no part of a step
    body = next(module for module in trainer.model.modules() if hasattr(module, "embed_tokens"))
    with (
        seconds_in(body, "forward") as forward,
        seconds_in(trainer, "backward") as backward,
        seconds_in(trainer, "step") as step,
    ):
        trainer.train()
    return 1000 * sum(step) / len(step), sum(forward) / sum(step), sum(backward) / sum(step)


@contextmanager
def seconds_in(thing, name: str):
    """A list that fills with the processor seconds of each call of the method `name` of `thing`."""
    seconds: list[float] = []
    method = getattr(thing, name)

    def timed(*args, **kwargs):
        began = time.process_time()
        found = method(*args, **kwargs)
        seconds.append(time.process_time() - began)
        return found

    setattr(thing, name, timed)
    try:
        yield seconds
    finally:
        delattr(thing, name)


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
