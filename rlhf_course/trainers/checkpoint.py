"""Checkpoints of a trainer: written whole or not at all, read back exactly."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlhf_course.trainers.history import History

if TYPE_CHECKING:
    from rlhf_course.trainers.base import Trainer

_STATE = "trainer_state.json"
_TENSORS = "trainer_tensors.pt"


def write_checkpoint(trainer: "Trainer", folder: str | Path) -> None:
    """Write model, tokenizer, optimiser, random state, step and history to `folder`.

    All of it is written to a folder beside it that is renamed at the end: what bears the name is always whole.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    trainer.model.save_pretrained(fresh)
    trainer.tokenizer.save_pretrained(fresh)
    tensors = {
        "weights": {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad},
        "optimizer": trainer.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "scaler": trainer.accelerator.scaler.state_dict() if trainer.accelerator.scaler else {},
        "pending": trainer._pending,
        "extra": trainer.extra_state(),
    }
    torch.save(tensors, fresh / _TENSORS)
    state = {
        "trainer": type(trainer).__name__,
        "step": trainer.global_step,
        "settings": trainer.args.to_dict(),
        "history": trainer.history.rows,
    }
    (fresh / _STATE).write_text(json.dumps(state, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def read_checkpoint(trainer: "Trainer", folder: str | Path) -> None:
    """Put the trainer where the checkpoint in `folder` (or the newest one below it) left off.

    Raises:
        FileNotFoundError: there is no checkpoint there.
        ValueError: it is damaged, or of another method, or of other settings.
    """
    folder = newest_checkpoint(folder)
    try:
        state = json.loads((folder / _STATE).read_text())
        tensors = torch.load(folder / _TENSORS, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"the checkpoint {folder} is damaged ({error}): use an older one or train anew") from None
    if state["trainer"] != type(trainer).__name__:
        raise ValueError(f"{folder} was written by a {state['trainer']}, this is a {type(trainer).__name__}")
    same = ("output_dir", "logging_steps", "eval_steps", "save_steps", "save_total_limit", "disable_tqdm", "use_cpu")
    differing = [k for k, v in trainer.args.to_dict().items() if k not in same and state["settings"].get(k) != v]
    if differing:
        changes = ", ".join(f"{k} {state['settings'].get(k)!r} → {getattr(trainer.args, k)!r}" for k in differing)
        raise ValueError(f"{folder} was trained with other settings ({changes}): resume with the same ones")
    parameters = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    if parameters.keys() != tensors["weights"].keys() or any(
        parameters[name].shape != saved.shape for name, saved in tensors["weights"].items()
    ):
        raise ValueError(f"{folder} holds a model of another shape: build the trainer on the model it started from")
    with torch.no_grad():
        for name, saved in tensors["weights"].items():
            parameters[name].copy_(saved)
    trainer.optimizer.load_state_dict(tensors["optimizer"])
    torch.set_rng_state(tensors["rng"])
    if tensors["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(tensors["cuda_rng"])
    if tensors["scaler"]:
        trainer.accelerator.scaler.load_state_dict(tensors["scaler"])
    trainer._pending = tensors["pending"]
    trainer.load_extra_state(tensors["extra"])
    trainer.global_step = state["step"]
    trainer.history = History(state["history"])


def newest_checkpoint(folder: str | Path) -> Path:
    """`folder` itself if it is a checkpoint, else the one of the highest step inside it."""
    folder = Path(folder)
    if (folder / _STATE).exists():
        return folder
    inside = checkpoints(folder)
    if not inside:
        raise FileNotFoundError(f"no checkpoint in {folder}: it holds no {_STATE} and no checkpoint-N folder")
    return inside[-1]


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints inside `folder`, those of the fewest steps first."""
    inside = [path for path in Path(folder).glob("checkpoint-*") if (path / _STATE).exists()]
    return sorted(inside, key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
