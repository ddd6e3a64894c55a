"""A timed run of either side, on equal terms: TRL gets the fused optimiser that we use, and logs as rarely as we do.

`trl_trainer` is made to compare losses: it hands TRL a plain AdamW and has every step logged. Both cost time that is
none of TRL's own, so both are changed here before the clock starts.
"""

import statistics
import tempfile
from contextlib import contextmanager
from functools import partial

from benchmarks.parity import TOLERANCE, NotTheSame
from benchmarks.race import OURS, Result, race, steps_timed
from benchmarks.training import THEIRS, Case, closing, make
from rlhf_course.over_to_trl import trl_trainer


@contextmanager
def trainer_of(side: str, case: Case):
    """A new trainer of a side, ready to train."""
    ours = make(case)
    if side == OURS:
        yield ours
        return
    with tempfile.TemporaryDirectory() as folder:
        theirs = trl_trainer(ours, folder, own_answers=case.method == "grpo", **THEIRS[side])
        theirs.args.logging_steps = ours.args.logging_steps
        if case.method == "grpo":  # TRL calls with more than prompts and completions
            theirs.reward_funcs = [lambda prompts, completions, **_: closing(prompts, completions)]
        for group in theirs.optimizer.param_groups:
            group["fused"], group["foreach"] = True, False
        precompute_reference(theirs, case.rows)
        yield theirs


def precompute_reference(theirs, size: int) -> None:
    """Where TRL asks its reference once, do so: `trl_trainer` has put our token ids in the place of its own rows."""
    if getattr(theirs, "precompute_ref_logps", False):
        theirs.train_dataset = theirs._precompute_ref_logps(theirs.train_dataset, "train", size)


def whole(case: Case, rounds: int) -> list[Result]:
    """Race whole steps.

    Raises:
        NotTheSame: the sides' mean losses differ. (In GRPO each has its own answers: `check_parity` compares that.)
    """
    losses: dict[str, float] = {}
    found = race(str(case), {side: partial(_step, side, case, losses) for side in (*THEIRS, OURS)}, rounds)
    for side, loss in losses.items():
        if case.method != "grpo" and not abs(loss - losses[OURS]) <= TOLERANCE * (1 + abs(losses[OURS])):
            raise NotTheSame(f"{case}: the mean loss of {side} is {loss:.6f} and ours {losses[OURS]:.6f}")
    return found


def _step(side: str, case: Case, losses: dict[str, float]) -> float:
    with trainer_of(side, case) as trainer, steps_timed() as seconds:
        history = trainer.train()
    logged = history.rows if side == OURS else trainer.state.log_history
    (losses[side],) = (row["loss"] for row in logged if "loss" in row)
    return statistics.median(seconds)
