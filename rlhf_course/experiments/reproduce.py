"""Measure the course's tables again: `rlhf-course reproduce`.

Every public function of a module here whose first argument is `seeds` is an experiment, under the name of its table. It
is run a seed at a time, and each seed is kept as it is done, so an interrupted run goes on where it stopped. Several
processes share the work by topic and seed: the tables of a topic often begin with the same models.
"""

import importlib
import inspect
import multiprocessing
import os
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import cache
from itertools import groupby
from pathlib import Path

import torch
from tqdm import tqdm

import rlhf_course.experiments as package
from rlhf_course._checks import check_choice, check_count
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


def reproduce(
    names: Sequence[str], seeds: Sequence[int], folder: Path | str, say: Callable[[str], None] = print, jobs: int = 1
) -> list[Path]:
    """Measure tables and write them to `folder`; what a seed brought is kept in `folder/parts` from then on.

    Args:
        names: the tables, as `experiments` names them.
        seeds: at least one; each from pre-training on.
        say: told what is done, a line at a time.
        jobs: processes that measure at once; they share the processor's cores.

    Returns:
        The tables' files.

    Raises:
        ValueError: for an unknown name, with those there are, for no seed, or for no job.
        RuntimeError: if tables could not be measured; all others are written by then.
    """
    for name in names:
        check_choice("experiment", name, tuple(experiments()))
    check_count("jobs", jobs, low=1)
    if not seeds:
        raise ValueError("seeds must hold at least one seed")
    kept = {(name, seed): Path(folder) / "parts" / f"seed-{seed}" / f"{name}.json" for name in names for seed in seeds}
    topics = [list(tables) for _, tables in groupby(names, key=lambda name: name.split(".")[0])]
    tasks = [[kept[name, seed] for name in tables] for tables in topics for seed in seeds]
    tasks = [missing for parts in tasks if (missing := [part for part in parts if not part.is_file()])]
    failures: list[str] = []
    with tqdm(total=len(kept), initial=len(kept) - sum(map(len, tasks)), unit="table and seed") as bar:
        for lines, failed in _run(tasks, jobs):
            for line in lines + failed:
                say(line)
            failures += failed
            bar.n = sum(part.is_file() for part in kept.values())
            bar.refresh()
    seeds_of = {name: [kept[name, seed] for seed in seeds] for name in names}
    whole = {name: parts for name, parts in seeds_of.items() if all(part.is_file() for part in parts)}
    written = [_join(name, parts).save(folder) for name, parts in whole.items()]
    if failures:
        missing = ", ".join(name for name in names if name not in whole)
        raise RuntimeError(f"not measured: {missing}; the others are in {folder}. First, {failures[0]}")
    return written


def _run(tasks: list[list[Path]], jobs: int) -> Iterator[tuple[list[str], list[str]]]:
    """What is to be said of measured tables and of those that could not be, as they are done and now and then."""
    if jobs == 1:
        yield from (_measure([part]) for task in tasks for part in task)  # heard of a table at a time
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, fresh, initializer=_begin, initargs=(threads,)) as pool:
        try:
            waiting = {pool.submit(_measure, task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, timeout=2, return_when=FIRST_COMPLETED)
                yield from (task.result() for task in done)
                yield [], []  # the tables of unfinished tasks are counted too
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int) -> None:
    """What a process does first: it takes its share of the cores, and will end with its parent, even a killed one."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent) -> None:
    parent.join()
    os._exit(1)


def _measure(parts: list[Path]) -> tuple[list[str], list[str]]:
    """Measure parts of one seed, `…/seed-0/topic.table.json`: a line on each measured one, and on each that failed."""
    lines, failed = [], []
    for part in parts:
        name, seed, began = part.stem, int(part.parent.name.removeprefix("seed-")), time.perf_counter()
        try:
            experiments()[name](seeds=(seed,)).save(part.parent)
        except Exception as error:  # the other tables are still worth measuring
            failed.append(f"{name}, seed {seed}: {type(error).__name__}: {error}")
        else:
            lines.append(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s")
    return lines, failed


def _join(name: str, parts: list[Path]) -> Table:
    """One table of all seeds' rows."""
    tables = [read_table(part.parent, name) for part in parts]
    seeds = [seed for table in tables for seed in table.settings["seeds"]]
    return Table(name, tables[0].settings | {"seeds": seeds}, [row for table in tables for row in table.rows])
