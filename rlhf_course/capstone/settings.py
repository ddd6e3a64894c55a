"""Three sizes of one run: for a CPU, for a T4, and for a larger GPU."""

from dataclasses import dataclass, replace
from typing import Any

from rlhf_course._checks import check_choice
from rlhf_course.device import Tier, pick_tier
from rlhf_course.trainers import DPOConfig, GRPOConfig, RewardConfig
from rlhf_course.trainers.base import in_rehearsal
from rlhf_course.trainers.config import TrainingConfig


@dataclass(frozen=True)
class Settings:
    """The size of a run, and what it costs.

    Attributes:
        tier: the kind of device it is meant for.
        model: what `load_policy` takes.
        lora_rank: the rank of the adapter that is trained in the model's place; None trains all weights.
        max_length: the longest prompt with answer, in tokens. A comparison that is longer is not used.
        max_new_tokens: the longest answer that is sampled to a prompt of the comparisons.
        temperature: of all sampling. Both policies of a KL are taken at it.
        train_pairs, judge_pairs, held_out_pairs: comparisons for DPO, for the judge, and for neither.
        prompts: how many of the held-out prompts are answered in an evaluation.
        tasks: how many held-out tasks the rule is checked on.
        eval_batch_size: texts in the memory at once in an evaluation.
        reward, dpo, grpo: settings of the three trainers.
        minutes, peak_memory_gb: what the whole lesson took where it was measured, on `measured_on`; None where it was
            not.
    """

    tier: Tier
    model: str
    lora_rank: int | None
    max_length: int
    max_new_tokens: int
    temperature: float
    train_pairs: int
    judge_pairs: int
    held_out_pairs: int
    prompts: int
    tasks: int
    eval_batch_size: int
    reward: dict[str, Any]
    dpo: dict[str, Any]
    grpo: dict[str, Any]
    minutes: float | None = None
    peak_memory_gb: float | None = None
    measured_on: str | None = None

    def args(self, method: str, seed: int = 0) -> TrainingConfig:
        """The config of a trainer: "reward", "dpo" or "grpo"."""
        config = {"reward": RewardConfig, "dpo": DPOConfig, "grpo": GRPOConfig}[method]
        sampling = {"temperature": self.temperature} if method == "grpo" else {}
        return config(max_length=self.max_length, seed=seed, **sampling, **getattr(self, method))


TIERS: dict[str, Settings] = {
    "cpu": Settings(
        tier="cpu",
        model="smollm2-135m",
        lora_rank=16,
        max_length=56,
        max_new_tokens=24,
        temperature=0.7,
        train_pairs=24,
        judge_pairs=24,
        held_out_pairs=24,
        prompts=12,
        tasks=24,
        eval_batch_size=32,
        reward={"per_device_train_batch_size": 8, "learning_rate": 5e-4, "warmup_steps": 1},
        dpo={"per_device_train_batch_size": 8, "learning_rate": 5e-4, "warmup_steps": 1, "logging_steps": 1},
        grpo={
            "per_device_train_batch_size": 16,
            "num_generations": 8,
            "learning_rate": 1e-3,
            "max_steps": 5,
            "max_completion_length": 12,
        },
        minutes=5.1,
        peak_memory_gb=5.4,
        measured_on="one core of an AMD EPYC",
    ),
    "t4": Settings(
        tier="t4",
        model="HuggingFaceTB/SmolLM2-360M-Instruct",
        lora_rank=16,
        max_length=512,
        max_new_tokens=128,
        temperature=0.7,
        train_pairs=2000,
        judge_pairs=2000,
        held_out_pairs=400,
        prompts=128,
        tasks=64,
        eval_batch_size=16,
        reward={
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "learning_rate": 1e-4,
            "warmup_steps": 10,
            "gradient_checkpointing": True,
        },
        dpo={
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "learning_rate": 5e-5,
            "warmup_steps": 10,
            "gradient_checkpointing": True,
        },
        grpo={
            "per_device_train_batch_size": 64,
            "num_generations": 8,
            "learning_rate": 1e-4,
            "max_steps": 60,
            "max_completion_length": 32,
        },
    ),
    "gpu": Settings(
        tier="gpu",
        model="Qwen/Qwen2.5-0.5B-Instruct",
        lora_rank=None,
        max_length=1024,
        max_new_tokens=256,
        temperature=0.7,
        train_pairs=8000,
        judge_pairs=8000,
        held_out_pairs=1000,
        prompts=256,
        tasks=64,
        eval_batch_size=64,
        reward={
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 4,
            "learning_rate": 5e-6,
            "warmup_steps": 20,
            "gradient_checkpointing": True,
        },
        dpo={
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 4,
            "learning_rate": 1e-6,
            "warmup_steps": 20,
            "gradient_checkpointing": True,
        },
        grpo={
            "per_device_train_batch_size": 128,
            "num_generations": 8,
            "learning_rate": 2e-6,
            "max_steps": 100,
            "max_completion_length": 32,
        },
    ),
}


def pick_settings(tier: str = "auto") -> Settings:
    """The settings of a tier, by default the one that this machine's device is good for; in a rehearsal, few rows."""
    settings = TIERS[pick_tier() if tier == "auto" else check_choice("tier", tier, tuple(TIERS))]
    if not in_rehearsal():
        return settings
    few = {"train_pairs": 4, "judge_pairs": 4, "held_out_pairs": 4, "prompts": 2, "tasks": 4, "max_new_tokens": 8}
    fewer = {"per_device_train_batch_size": 4, "num_generations": 2, "max_steps": 1, "max_completion_length": 8}
    return replace(settings, **few, grpo={**settings.grpo, **fewer})


def costs() -> str:
    """A plain table of the tiers: model, rows, and what each took where it was measured."""
    lines = [f"{'tier':5} {'model':36} {'trains':12} {'pairs':>6} {'tokens':>7}  time and peak memory"]
    for settings in TIERS.values():
        trains = "all weights" if settings.lora_rank is None else f"LoRA, r {settings.lora_rank}"
        cost = "not measured yet"
        if settings.minutes is not None:
            cost = f"{settings.minutes:g} min, {settings.peak_memory_gb:g} GB ({settings.measured_on})"
        model, pairs, tokens = settings.model, settings.train_pairs, settings.max_length
        lines.append(f"{settings.tier:5} {model:36} {trains:12} {pairs:6,} {tokens:7}  {cost}")
    return "\n".join(lines)
