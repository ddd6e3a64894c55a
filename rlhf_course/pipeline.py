"""The whole pipeline on the small world: pre-training, SFT, reward model, then PPO or DPO.

Each stage is a function of the model before it and a seed, and returns its trainer, trained. The command line, the
lessons and the shipped checkpoints all call these.
"""

import copy
from typing import Any

from torch import nn

from rlhf_course.data.world import WORLD, Labeler, WorldConfig, corpus, demonstrations, label_rankings, world_tokenizer
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer
from rlhf_course.trainers.sft import SFTConfig, SFTTrainer

STAGES = ("pretrain", "sft", "reward", "ppo", "dpo")

#: Each stage's settings where they differ from its trainer's defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "packing": True,
        "max_length": 64,
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "max_steps": 300,
    },
    "sft": {"per_device_train_batch_size": 64, "learning_rate": 2e-3},
    "reward": {"per_device_train_batch_size": 16, "learning_rate": 1e-3, "num_train_epochs": 2},
    "ppo": {"max_steps": 80, "num_ppo_epochs": 2, "learning_rate": 2e-4, "kl_coef": 0.1},
    "dpo": {"learning_rate": 3e-4, "beta": 0.1},
}

#: How much data each stage gets.
CORPUS_DOCUMENTS = 12_000
DEMONSTRATIONS = 16_000
RANKINGS, ANSWERS_EACH = 5_000, 4
COMPARISONS = 3_000


def settings(stage: str, **changes: Any) -> dict[str, Any]:
    """A stage's settings, with changes on top; `None` changes nothing."""
    return SETTINGS[stage] | {name: value for name, value in changes.items() if value is not None}


def pretrain(seed: int = 0, **changes: Any) -> SFTTrainer:
    """Train a new tiny model to predict the corpus: `tiny-base`."""
    args = SFTConfig(**settings("pretrain", seed=seed, **changes))
    rows = [{"text": text} for text in corpus(CORPUS_DOCUMENTS, seed)]
    return _train(SFTTrainer(new_tiny_model(seed), args=args, train_dataset=rows, processing_class=world_tokenizer()))


def sft(base: nn.Module, seed: int = 0, world: WorldConfig = WORLD, **changes: Any) -> SFTTrainer:
    """Show a base model demonstrations: `tiny-sft`. The model given stays as it is; so in every stage."""
    args = SFTConfig(**settings("sft", seed=seed, **changes))
    rows = demonstrations(DEMONSTRATIONS, seed, world)
    return _train(SFTTrainer(copy.deepcopy(base), args=args, train_dataset=rows, processing_class=world_tokenizer()))


def sample_groups(
    policy: nn.Module,
    n: int,
    answers_each: int,
    seed: int = 0,
    *,
    name: str = "rankings",
    split: str = "train",
    world: WorldConfig = WORLD,
) -> list[dict]:
    """`n` prompts, each with `answers_each` answers of the policy: what a labeler is given to rank.

    `name` names the random streams: data for training and for testing take different ones.

    Returns:
        Dicts with `prompt`, `answers` (texts) and `ended` (booleans), as `label_rankings` takes them.
    """
    stream = derive_seed(seed, name)
    prompts = draw_prompts(n, stream, split, world)
    repeated = [prompt for prompt in prompts for _ in range(answers_each)]
    answers = sample_answers(policy, world_tokenizer(), repeated, stream, world.max_answer_tokens)
    return [
        {
            "prompt": prompt,
            "answers": [a.text for a in answers[i * answers_each : (i + 1) * answers_each]],
            "ended": [a.ended for a in answers[i * answers_each : (i + 1) * answers_each]],
        }
        for i, prompt in enumerate(prompts)
    ]


def collect_rankings(
    policy: nn.Module,
    n: int,
    answers_each: int,
    seed: int = 0,
    *,
    name: str = "rankings",
    labeler: Labeler | None = None,
    split: str = "train",
    world: WorldConfig = WORLD,
) -> list[dict]:
    """The groups of `sample_groups`, ranked by a labeler who agrees with another one 72.6 % of the time."""
    groups = sample_groups(policy, n, answers_each, seed, name=name, split=split, world=world)
    return label_rankings(groups, labeler or Labeler(world=world), derive_seed(seed, name))


def reward(
    sft_model: nn.Module, seed: int = 0, rankings: list[dict] | None = None, loss_fn=None, **changes: Any
) -> RewardTrainer:
    """Fit a reward model, built on the SFT model's body, to rankings of its answers: `tiny-reward`."""
    args = RewardConfig(**settings("reward", seed=seed, **changes))
    rows = collect_rankings(sft_model, RANKINGS, ANSWERS_EACH, seed) if rankings is None else rankings
    model = RewardModel.from_policy(sft_model, seed)
    return _train(
        RewardTrainer(model, args=args, train_dataset=rows, processing_class=world_tokenizer(), loss_fn=loss_fn)
    )


def ppo(
    sft_model: nn.Module, reward_model: nn.Module, seed: int = 0, compute_metrics=None, **changes: Any
) -> PPOTrainer:
    """Raise the reward model's score of the SFT model's answers, near the SFT model: `tiny-ppo`."""
    args = PPOConfig(**settings("ppo", seed=seed, **changes))
    steps = args.max_steps * args.per_device_train_batch_size
    rows = [{"prompt": prompt} for prompt in draw_prompts(steps, derive_seed(seed, "ppo"))]
    return _train(
        PPOTrainer(
            copy.deepcopy(sft_model),
            ref_model=sft_model,
            reward_funcs=reward_model,
            args=args,
            train_dataset=rows,
            processing_class=world_tokenizer(),
            compute_metrics=compute_metrics,
        )
    )


def dpo(
    sft_model: nn.Module, seed: int = 0, comparisons: list[dict] | None = None, loss_fn=None, **changes: Any
) -> DPOTrainer:
    """Train the SFT model on comparisons of its own answers: `tiny-dpo`."""
    args = DPOConfig(**settings("dpo", seed=seed, **changes))
    rows = collect_rankings(sft_model, COMPARISONS, 2, seed, name="comparisons") if comparisons is None else comparisons
    return _train(
        DPOTrainer(
            copy.deepcopy(sft_model),
            args=args,
            train_dataset=rows,
            processing_class=world_tokenizer(),
            loss_fn=loss_fn,
        )
    )


def _train(trainer):
    trainer.train()
    return trainer
