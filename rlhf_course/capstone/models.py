"""The models of the capstone: the policy that is trained, and the judge it is measured by."""

import copy
import warnings
from pathlib import Path

import torch
from torch import nn

from rlhf_course._hub import quiet_loading
from rlhf_course.capstone.settings import Settings
from rlhf_course.data import Rows
from rlhf_course.models import RewardModel
from rlhf_course.trainers import RewardTrainer


def trainable_copy(start: nn.Module, settings: Settings) -> nn.Module:
    """A copy of the model to train: all of it, or, with `lora_rank`, an adapter over it that changes nothing yet.

    Raises:
        ImportError: LoRA is wanted, and peft is not installed.
    """
    policy = copy.deepcopy(start)
    return policy if settings.lora_rank is None else _with_lora(policy, settings.lora_rank, "CAUSAL_LM")


def _with_lora(model: nn.Module, rank: int, task: str) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("LoRA needs the package peft: pip install peft (or set lora_rank=None)") from None
    # B begins at 0, so A's random numbers change nothing before the first step.
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what one library asks of the other in its next version
        torch.manual_seed(0)
        return get_peft_model(model, config)


def train_judge(start: nn.Module, tokenizer, rows: Rows, settings: Settings, seed: int = 0) -> RewardModel:
    """A reward model on the body of `start`, trained on comparisons that the policy never trains on."""
    judge = RewardModel.from_policy(start, seed)
    if settings.lora_rank is not None:
        judge = RewardModel(_with_lora(judge.model, settings.lora_rank, "SEQ_CLS"))
    RewardTrainer(judge, args=settings.args("reward", seed), train_dataset=rows, processing_class=tokenizer).train()
    return judge.eval()


def save(policy: nn.Module, tokenizer, folder: str | Path) -> None:
    """Write the policy as plain transformers reads it, an adapter merged into its weights, and the tokenizer."""
    merged = copy.deepcopy(policy)
    if hasattr(merged, "merge_and_unload"):
        merged = merged.merge_and_unload()
    with quiet_loading():
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
