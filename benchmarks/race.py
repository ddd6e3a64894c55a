"""Sides that do the same work, one after the other in every round, and how much longer the others take than ours."""

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

OURS = "ours"


@dataclass(frozen=True)
class Result:
    """What a side took.

    Attributes:
        case: the work, such as "dpo, tiny, 8 pairs".
        side: who did it.
        milliseconds: the median over rounds.
        ratio: the median over rounds of what it took in a round, as a multiple of what we took in the same round.
    """

    case: str
    side: str
    milliseconds: float
    ratio: float

    def row(self) -> dict:
        rounded = {"milliseconds": round(self.milliseconds, 2), "ratio": round(self.ratio, 2)}
        return asdict(self) | rounded


def race(case: str, sides: dict[str, Callable[[], float]], rounds: int) -> list[Result]:
    """Let all sides run once a round, and once before to warm up.

    Args:
        case: what they do.
        sides: functions that do it and return the seconds it took; one is called `OURS`.
        rounds: at least 1.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in tqdm(range(rounds + 1), desc=case, unit="round", leave=False):
        for side, run in sides.items():
            taken = run()
            if turn:
                seconds[side].append(taken)
    ratio = {side: statistics.median(a / b for a, b in zip(taken, seconds[OURS])) for side, taken in seconds.items()}
    return [Result(case, side, 1000 * statistics.median(taken), ratio[side]) for side, taken in seconds.items()]


def seconds_of(work: Callable[[], object]) -> float:
    """What a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def steps_timed():
    """A list that fills with the seconds from one update of an optimiser's weights to the next, whoever trains."""
    seconds: list[float] = []
    last: list[float] = []

    def note(*_) -> None:
        now = time.perf_counter()
        if last:
            seconds.append(now - last.pop())
        last.append(now)

    handle = register_optimizer_step_post_hook(note)
    try:
        yield seconds
    finally:
        handle.remove()


@contextmanager
def calls_timed(thing, name: str, clock: Callable[[], float] = time.perf_counter):
    """A list that fills with the seconds of each call of the method `name` of `thing`, by a clock."""
    seconds: list[float] = []
    method = getattr(thing, name)

    def timed(*args, **kwargs):
        began = clock()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(clock() - began)

    setattr(thing, name, timed)
    try:
        yield seconds
    finally:
        delattr(thing, name)
