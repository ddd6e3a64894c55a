"""The models that experiments begin with: the pipeline's, from pre-training on, for any seed.

They are trained once and kept in the user's cache folder, as `rlhf-course train all` would write them, so that twenty
experiments share them and an interrupted one goes on where it stopped.
"""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import nn

from rlhf_course import pipeline, runs
from rlhf_course.models import load_policy, load_reward_model
from rlhf_course.trainers.base import in_rehearsal

_STAGES = tuple(pipeline.SETTINGS)
#: What was trained on shipped models, by stage and seed; None outside of `from_shipped_models`.
_on_shipped: ContextVar[dict[tuple[str, int], nn.Module] | None] = ContextVar("trained on shipped models", default=None)


@contextmanager
def from_shipped_models() -> Iterator[None]:
    """Inside, `trained` gives the shipped models, those of seed 0, for every seed: enough for a look.

    A stage that does not ship is trained on those that do, with the pipeline's settings as they are then.
    """
    token = _on_shipped.set({})
    try:
        yield
    finally:
        _on_shipped.reset(token)


@torch.enable_grad()
def trained(stage: str, seed: int) -> nn.Module:
    """The model of a stage of the pipeline ("pretrain", "sft", "reward", "ppo", "dpo", "grpo" or "rloo"), on the CPU.

    The first call for a seed trains it and whatever it begins with, minutes in all; later ones load it. A kept model
    that is damaged, or whose settings or versions are not today's, is made anew. Nobody's call changes it for the
    next one.
    """
    needs = _needs(stage)
    load = load_reward_model if stage == "reward" else load_policy
    if (made := _on_shipped.get()) is not None:
        if stage in runs.SHIPPED:
            return load(runs.SHIPPED[stage], "cpu")[0]
        if (stage, seed) not in made:
            start = (trained("sft", seed), trained("reward", seed))
            made[stage, seed] = getattr(pipeline, stage)(*start, seed, use_cpu=True, disable_tqdm=True).model
        return copy.deepcopy(made[stage, seed])
    folder = _folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # a second process waits until the first has trained it
        for name in needs:
            if not _current(folder / name, name):
                for stale in _STAGES[_STAGES.index(name) :]:
                    shutil.rmtree(folder / stale, ignore_errors=True)
                break
        runs.train_all(str(folder), seed, "cpu", say=lambda line: None, stages=needs, disable_tqdm=True)
        return load(folder / stage, "cpu")[0]


def _needs(stage: str) -> tuple[str, ...]:
    """The stages up to this one, in order."""
    if stage not in _STAGES:
        raise ValueError(f"stage must be one of {', '.join(_STAGES)}, got {stage!r}")
    before = _needs(runs.BEGINS_WITH[stage]) if stage in runs.BEGINS_WITH else ()
    return (*before, *(("reward",) if stage in runs.ONLINE else ()), stage)


def _folder(seed: int) -> Path:
    kind = "rehearsal" if in_rehearsal() else "pipeline"
    return Path(platformdirs.user_cache_dir("rlhf-course")) / kind / f"seed-{seed}"


def _current(folder: Path, stage: str) -> bool:
    """Whether a finished run is whole and has today's settings and versions; an unfinished one is taken up again."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    if "results" not in found:
        return True
    try:
        with safe_open(folder / "model.safetensors", "pt"):
            pass
    except (OSError, SafetensorError):  # cut short, or gone
        return False
    settings = pipeline.SETTINGS[stage]
    return found["versions"] == runs.versions() and settings == {name: found["settings"].get(name) for name in settings}
