"""Measure the course's tables again: `rlhf-course reproduce`.

Every public function of a module here whose first argument is `seeds` is an experiment, under the name of its table. It
is run a seed at a time, and each seed is kept as it is done, so an interrupted run goes on where it stopped.
"""

import importlib
import inspect
import pkgutil
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tqdm import tqdm

import rlhf_course.experiments as package
from rlhf_course._checks import check_choice
from rlhf_course.experiments.table import Table, read_table

Experiment = Callable[..., Table]


@cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by its table's name, "reward_model.label_noise", modules in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{module.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and next(iter(inspect.signature(function).parameters), None) == "seeds":
                found[f"{module.__name__.rsplit('.', 1)[-1]}.{name}"] = function
    return found


def reproduce(name: str, seeds: Sequence[int], folder: Path | str, say: Callable[[str], None] = print) -> Path:
    """Measure one table and write it to `folder`; what a seed brought is kept in `folder/parts` from then on.

    Args:
        name: the table, as `experiments` names it.
        seeds: at least one; each from pre-training on.
        say: told what is done, a line at a time.

    Returns:
        The table's file.

    Raises:
        ValueError: for an unknown name, with those there are, or for no seed.
    """
    experiment = experiments()[check_choice("experiment", name, tuple(experiments()))]
    if not seeds:
        raise ValueError("seeds must hold at least one seed")
    parts = []
    for seed in tqdm(seeds, desc=name, unit="seed", leave=False):
        kept = Path(folder) / "parts" / f"seed-{seed}"
        if not (kept / f"{name}.json").is_file():
            began = time.perf_counter()
            experiment(seeds=(seed,)).save(kept)
            say(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s")
        parts.append(read_table(kept, name))
    rows = [row for part in parts for row in part.rows]
    return Table(name, parts[0].settings | {"seeds": list(seeds)}, rows).save(folder)
