"""Experiments in small: one seed, from the shipped models, so short that a test can run all of a topic's.

`small.toml` has a section for each topic: constants of its module, in capitals, and of the `pipeline`; `settings` of
the pipeline's stages; and for each table the arguments of its experiment.

    [kl]
    FRESH_ANSWERS = 64
    settings = { ppo = { learning_rate = 1e-3 } }
    best_of_n = {}
    kl_placement = { steps = 20 }
"""

import importlib
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from rlhf_course import pipeline
from rlhf_course.experiments.models import from_shipped_models
from rlhf_course.experiments.table import Table

_SIZES = Path(__file__).with_name("small.toml")


@cache
def small_sizes() -> dict[str, dict[str, Any]]:
    """The sections of `small.toml`, by topic."""
    return tomllib.loads(_SIZES.read_text(encoding="utf-8"))


def run_small(topic: str, seed: int = 0) -> dict[str, Table]:
    """A topic's tables, by name, of one seed's new and small runs. A topic without a section has none."""
    sizes = dict(small_sizes().get(topic, {}))
    module = importlib.import_module(f"{__package__}.{topic}")
    constants = {name: _frozen(sizes.pop(name)) for name in list(sizes) if name.isupper()}
    settings = {stage: pipeline.SETTINGS[stage] | changes for stage, changes in sizes.pop("settings", {}).items()}
    with (
        from_shipped_models(),
        _forgetting(module),
        patch.dict(vars(module), constants),
        patch.dict(vars(pipeline), sizes.pop("pipeline", {})),
        patch.dict(pipeline.SETTINGS, settings),
    ):
        return {
            f"{topic}.{name}": getattr(module, name)(**{"seeds": (seed,), **_frozen(arguments)})
            for name, arguments in sizes.items()
        }


@contextmanager
def _forgetting(module: ModuleType) -> Iterator[None]:
    """What a module keeps of other runs is of other sizes: neither taken in nor left behind."""
    kept = [x for x in vars(module).values() if hasattr(x, "cache_clear") and x.__module__ == module.__name__]
    for function in kept:
        function.cache_clear()
    try:
        yield
    finally:
        for function in kept:
            function.cache_clear()


def _frozen(value: Any) -> Any:
    """TOML's lists as tuples, at any depth."""
    if isinstance(value, dict):
        return {name: _frozen(x) for name, x in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
