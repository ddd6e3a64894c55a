"""Checkpoints of a trainer: written whole or not at all, read back exactly."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_course._hub import quiet_loading
from rlhf_course.models.reward import ScalarHeadModel
from rlhf_course.trainers.history import History
from rlhf_course.trainers.sharding import part_of, whole

if TYPE_CHECKING:
    from rlhf_course.trainers.base import Trainer

_STATE = "trainer_state.json"
_TENSORS = "trainer_tensors.pt"
_FULL = 1_000_000  # bytes left on a disk that is as good as full


def write_checkpoint(trainer: "Trainer", folder: str | Path) -> None:
    """Write model, tokenizer, optimiser, step and history to `folder`, which may hold an older checkpoint.

    All processes must call this, and the first writes: to a folder beside it that is renamed at the end, so that what
    bears the name is always whole. (Random state is not needed: all chance follows from seed and step.)

    Raises:
        ValueError: `folder` holds something else, which would be lost.
        OSError: it cannot be written, the disk being full or its folder read-only. An older checkpoint stays as it was.
    """
    tensors = {
        "weights": whole({name: p.detach() for name, p in trainer.trained_parameters().items()}),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "scaler": trainer.accelerator.scaler.state_dict() if trainer.accelerator.scaler else {},
        "pending": trainer._pending,
        "extra": trainer.extra_state(),
    }
    weights = model_weights(trainer)
    if trainer.accelerator.is_main_process:
        _write(trainer, Path(folder).absolute(), tensors, weights)
    trainer.accelerator.wait_for_everyone()


def _write(trainer: "Trainer", folder: Path, tensors: dict[str, Any], weights: dict[str, Tensor]) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _STATE).exists():
        raise ValueError(f"{folder} holds files that are no checkpoint: save to a folder of its own")
    fresh, old = (folder.with_name(f".{folder.name}.{state}") for state in ("writing", "old"))
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    state = {
        "trainer": type(trainer).__name__,
        "step": trainer.global_step,
        "rows": _row_counts(trainer),
        "processes": trainer.accelerator.num_processes,
        "settings": trainer.args.to_dict(),
        "history": trainer.history.rows,
    }
    try:
        with errors_in_a_sentence(folder):
            fresh.mkdir(parents=True)
            write_model(trainer, fresh, weights)
            torch.save(tensors, fresh / _TENSORS)
            (fresh / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # of a full disk it would hold the rest
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def errors_in_a_sentence(folder: Path) -> Iterator[None]:
    """Inside the `with`, whatever stops files from being written to `folder` is an OSError that says what and why.

    On a full disk torch speaks of an "unexpected pos", and the error of safetensors is no OSError.
    """
    try:
        yield
    except Exception as error:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        full = shutil.disk_usage(there).free < _FULL
        reason = "no space is left on the disk" if full else getattr(error, "strerror", None) or error
        raise OSError(f"{folder} could not be written: {reason}") from error


def model_weights(trainer: "Trainer") -> dict[str, Tensor]:
    """The model's weights, gathered from all processes, which must all call this."""
    return whole(_of_transformers(trainer.model).state_dict())


def write_model(trainer: "Trainer", folder: str | Path, weights: dict[str, Tensor]) -> None:
    """Write the model, with these weights, and its tokenizer, as plain transformers reads them."""
    with quiet_loading():  # nor a progress bar for each file that is written
        _of_transformers(trainer.model).save_pretrained(folder, state_dict=weights)
        trainer.tokenizer.save_pretrained(folder)


def _of_transformers(model: nn.Module) -> nn.Module:
    return model.model if isinstance(model, ScalarHeadModel) else model


def read_checkpoint(trainer: "Trainer", folder: str | Path) -> None:
    """Put the trainer where the checkpoint in `folder` (or the newest one below it) left off.

    Raises:
        FileNotFoundError: there is no checkpoint there.
        ValueError: it is damaged, or of another method, other settings, data or model. The trainer is left as it was.
    """
    folder = newest_checkpoint(folder)
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
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
    if (before := state.get("processes", 1)) != (now := trainer.accelerator.num_processes):
        raise ValueError(f"{folder} was trained by {before} processes, here are {now}: a step would have other rows")
    if state["rows"] != _row_counts(trainer):
        raise ValueError(f"{folder} was trained on other data (rows {state['rows']}, here {_row_counts(trainer)})")
    parameters = trainer.trained_parameters()
    if parameters.keys() != tensors["weights"].keys() or any(
        parameters[name].shape != saved.shape for name, saved in tensors["weights"].items()
    ):
        raise ValueError(f"{folder} holds a model of another shape: build the trainer on the model it started from")
    with torch.no_grad():
        for name, saved in tensors["weights"].items():
            parameters[name].copy_(part_of(saved, parameters[name]))
    trained = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    for i, moments in tensors["optimizer"]["state"].items():
        moments |= {name: part_of(x, trained[i]) for name, x in moments.items() if isinstance(x, Tensor)}
    trainer.optimizer.load_state_dict(tensors["optimizer"])
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
    return sorted((path for path in inside if _step(path) is not None), key=_step)


def remove_old_checkpoints(newest: str | Path, keep: int) -> None:
    """Remove the checkpoints beside `newest`, but for the last `keep` (`newest` among them)."""
    newest = Path(newest)
    others = [path for path in checkpoints(newest.parent) if path.name != newest.name]
    for path in others[: max(len(others) - (keep - 1), 0)]:
        shutil.rmtree(path)


def _step(path: Path) -> int | None:
    """12 for …/checkpoint-12."""
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else None


def _row_counts(trainer: "Trainer") -> dict[str, int]:
    return {"train": len(trainer.train_rows), "eval": len(trainer.eval_rows or [])}
