"""All benchmarks in order, and the file that keeps what they found."""

import json
import platform
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import generation, memory, online, report, steps, training
from benchmarks.parity import check_parity

MODELS = ("tiny", "tiny-49k", "smollm2")


def tasks(model: str) -> dict[str, Callable[[int], list[dict]]]:
    """What can be measured with a model, by the names that `--only` takes; each is called with a number of rounds."""
    found: dict[str, Callable[[int], list[dict]]] = {}
    for case in training.CASES:
        if case.model == model:
            found[str(case)] = lambda rounds, case=case: _trained(case, rounds)
    if model == "tiny":
        found["sampling"] = lambda rounds: _rows(generation.run(rounds))
        found["ppo against grpo"] = lambda rounds: _rows(online.ppo_against_grpo(rounds))
    if model == "smollm2":
        found["sampling"] = lambda rounds: _rows(generation.run_smollm2(rounds))
        for case in memory.CASES:
            found[f"memory, {case}"] = lambda rounds, case=case: memory.measure(case)
    return found


def _trained(case: training.Case, rounds: int) -> list[dict]:
    check_parity(case)
    found = steps.whole(case, rounds)
    return _rows(found + (online.parts(case, rounds) if case.method == "grpo" else []))


def _rows(results) -> list[dict]:
    return [result.row() for result in results]


def save(rows: list[dict], rounds: int, path: Path) -> None:
    """Write rows and what they were measured on. Rows of the same work in an older file are replaced, others stay."""
    old = report.load(path)
    measured = {row["case"] for row in rows}
    machine = {
        "machine": f"{torch.get_num_threads()} CPU threads ({platform.machine()}), no GPU used",
        **{name: version(name) for name in ("torch", "transformers", "trl")},
    }
    stamped = [row | {"rounds": rounds, "date": date.today().isoformat(), **machine} for row in rows]
    kept = [row for row in old if row["case"] not in measured]
    text = json.dumps({"rows": kept + stamped}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
