"""The whole pipeline on the small world: pre-training, SFT, reward model, then PPO, DPO, GRPO or a variant.

Each stage is a function of the model before it and a seed, and returns its trainer, trained. The command line, the
lessons and the shipped checkpoints all call these. `resume` names a checkpoint, or a folder of some, to go on from.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rlhf_course._checks import check_number
from rlhf_course.advantages import rloo_advantages
from rlhf_course.data import unpair_preferences
from rlhf_course.data.world import WORLD, Labeler, WorldConfig, corpus, demonstrations, label_rankings, world_tokenizer
from rlhf_course.evaluation import draw_prompts, evaluate_policy, reward_accuracy, sample_answers
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.rlaif import ai_comparisons, revised, teach_labeler
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.kto import KTOConfig, KTOTrainer
from rlhf_course.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer
from rlhf_course.trainers.rlaif import SoftLabelRewardTrainer
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
    "dpo": {"learning_rate": 2e-4, "beta": 0.3},
    "grpo": {"max_steps": 80, "num_iterations": 2, "learning_rate": 2e-4, "beta": 0.3},
    "rloo": {"max_steps": 80, "num_iterations": 2, "learning_rate": 2e-4, "beta": 0.2},
    "ipo": {"learning_rate": 2e-4, "loss_type": "ipo", "beta": 1.0},
    "kto": {"learning_rate": 2e-4, "beta": 0.3},
    "online-dpo": {"learning_rate": 2e-4, "beta": 0.3},
}

#: How much data each stage gets.
CORPUS_DOCUMENTS = 12_000
DEMONSTRATIONS = 16_000
RANKINGS, ANSWERS_EACH = 5_000, 4
COMPARISONS = 4_000
#: Answers revised, and groups that an AI labeler is taught on.
REVISED, TAUGHT = 1_500, 1_500


def settings(stage: str, **changes: Any) -> dict[str, Any]:
    """A stage's settings, with changes on top; `None` changes nothing."""
    return SETTINGS[stage] | {name: value for name, value in changes.items() if value is not None}


def pretrain(
    seed: int = 0, documents: int = CORPUS_DOCUMENTS, *, resume: str | Path | None = None, **changes: Any
) -> SFTTrainer:
    """Train a new tiny model to predict the corpus: `tiny-base`."""
    args = SFTConfig(**settings("pretrain", seed=seed, **changes))
    rows = [{"text": text} for text in corpus(documents, seed)]
    trainer = SFTTrainer(new_tiny_model(seed), args=args, train_dataset=rows, processing_class=world_tokenizer())
    return _train(trainer, resume)


def sft(
    base: nn.Module,
    seed: int = 0,
    rows: list[dict] | None = None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> SFTTrainer:
    """Show a base model demonstrations: `tiny-sft`. The model given stays as it is; so in every stage."""
    args = SFTConfig(**settings("sft", seed=seed, **changes))
    rows = demonstrations(DEMONSTRATIONS, seed) if rows is None else rows
    trainer = SFTTrainer(copy.deepcopy(base), args=args, train_dataset=rows, processing_class=world_tokenizer())
    return _train(trainer, resume)


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
    sft_model: nn.Module,
    seed: int = 0,
    rankings: list[dict] | None = None,
    loss_fn=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> RewardTrainer:
    """Fit a reward model, built on the SFT model's body, to rankings of its answers: `tiny-reward`."""
    args = RewardConfig(**settings("reward", seed=seed, **changes))
    rows = collect_rankings(sft_model, RANKINGS, ANSWERS_EACH, seed) if rankings is None else rankings
    model = RewardModel.from_policy(sft_model, seed)
    return _train(
        RewardTrainer(model, args=args, train_dataset=rows, processing_class=world_tokenizer(), loss_fn=loss_fn),
        resume,
    )


def ppo(
    sft_model: nn.Module,
    reward_model: nn.Module,
    seed: int = 0,
    compute_metrics=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
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
        ),
        resume,
    )


def dpo(
    sft_model: nn.Module,
    seed: int = 0,
    comparisons: list[dict] | None = None,
    loss_fn=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> DPOTrainer:
    """Train the SFT model on comparisons of its own answers: `tiny-dpo`."""
    args = DPOConfig(**settings("dpo", seed=seed, **changes))
    return _direct(sft_model, args, comparisons, loss_fn, resume)


def ipo(
    sft_model: nn.Module,
    seed: int = 0,
    comparisons: list[dict] | None = None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> DPOTrainer:
    """The same with IPO's squared loss, which asks for a margin and no more."""
    args = DPOConfig(**settings("ipo", seed=seed, **changes))
    return _direct(sft_model, args, comparisons, None, resume)


def _direct(sft_model, args: DPOConfig, comparisons, loss_fn, resume):
    rows = _comparisons(sft_model, args.seed) if comparisons is None else comparisons
    return _train(
        DPOTrainer(
            copy.deepcopy(sft_model),
            args=args,
            train_dataset=rows,
            processing_class=world_tokenizer(),
            loss_fn=loss_fn,
        ),
        resume,
    )


def _comparisons(sft_model: nn.Module, seed: int) -> list[dict]:
    return collect_rankings(sft_model, COMPARISONS, 2, seed, name="comparisons")


def kto(
    sft_model: nn.Module,
    seed: int = 0,
    thumbs: list[dict] | None = None,
    loss_fn=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> KTOTrainer:
    """Train the SFT model on thumbs up and down; left out, `dpo`'s comparisons are taken apart into such."""
    args = KTOConfig(**settings("kto", seed=seed, **changes))
    rows = unpair_preferences(_comparisons(sft_model, seed)) if thumbs is None else thumbs
    return _train(
        KTOTrainer(
            copy.deepcopy(sft_model),
            args=args,
            train_dataset=rows,
            processing_class=world_tokenizer(),
            loss_fn=loss_fn,
        ),
        resume,
    )


def online_dpo(
    sft_model: nn.Module,
    reward_funcs: Any,
    seed: int = 0,
    compute_metrics=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> OnlineDPOTrainer:
    """What `dpo` does, on pairs of the policy's own answers of the moment, chosen between by `reward_funcs`."""
    args = OnlineDPOConfig(**settings("online-dpo", seed=seed, **changes))
    prompts = args.max_steps * args.per_device_train_batch_size
    return _train(
        OnlineDPOTrainer(
            copy.deepcopy(sft_model),
            ref_model=sft_model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=[{"prompt": prompt} for prompt in draw_prompts(prompts, derive_seed(seed, "online dpo"))],
            processing_class=world_tokenizer(),
            compute_metrics=compute_metrics,
        ),
        resume,
    )


def grpo(
    sft_model: nn.Module,
    reward_funcs: Any,
    seed: int = 0,
    compute_metrics=None,
    *,
    advantage_fn: Callable | None = None,
    loss_fn: Callable | None = None,
    resume: str | Path | None = None,
    **changes: Any,
) -> GRPOTrainer:
    """What `ppo` does, with groups of answers in the critic's place; `reward_funcs` may be rules, too."""
    args = GRPOConfig(**settings("grpo", seed=seed, **changes))
    return _group_relative(sft_model, reward_funcs, args, compute_metrics, advantage_fn, loss_fn, resume)


def rloo(
    sft_model: nn.Module,
    reward_funcs: Any,
    seed: int = 0,
    compute_metrics=None,
    *,
    resume: str | Path | None = None,
    **changes: Any,
) -> GRPOTrainer:
    """The same with the mean of the group's *other* answers as the baseline."""
    args = GRPOConfig(**settings("rloo", seed=seed, **changes))
    return _group_relative(sft_model, reward_funcs, args, compute_metrics, rloo_advantages, None, resume)


def rlaif(sft_model: nn.Module, seed: int = 0, *, resume: str | Path | None = None, **changes: Any) -> GRPOTrainer:
    """Constitutional AI: imitate answers revised by its principles, then GRPO on the verdicts of a model taught them.

    The settings are `grpo`'s, the last part's. To resume goes on with that one; those before it are done again.
    """
    quiet = {name: changes[name] for name in ("use_cpu", "disable_tqdm") if name in changes}
    tokenizer, stream = world_tokenizer(), derive_seed(seed, "to revise")
    answers = sample_answers(sft_model, tokenizer, draw_prompts(REVISED, stream), stream)
    mended = [{"prompt": a.prompt, "completion": revised(a.prompt, a.text)} for a in answers]
    imitator = sft(sft_model, seed, mended, learning_rate=1e-3, **quiet).model

    teaching = sample_groups(sft_model, TAUGHT, 2, seed, name="teaching the labeler")
    labeler = teach_labeler(sft_model, tokenizer, teaching, seed, **quiet)
    labels = ai_comparisons(sample_groups(imitator, COMPARISONS, 2, seed, name="AI comparisons"), labeler)
    args = RewardConfig(**settings("reward", seed=seed, **quiet))
    judge = RewardModel.from_policy(imitator, seed)
    SoftLabelRewardTrainer(judge, args=args, train_dataset=labels, processing_class=tokenizer).train()
    return grpo(imitator, judge, seed, resume=resume, **changes)


def _group_relative(sft_model, reward_funcs, args: GRPOConfig, compute_metrics, advantage_fn, loss_fn, resume):
    prompts = args.max_steps * args.per_device_train_batch_size // args.num_generations
    return _train(
        GRPOTrainer(
            copy.deepcopy(sft_model),
            ref_model=sft_model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=[{"prompt": prompt} for prompt in draw_prompts(prompts, derive_seed(args.seed, "grpo"))],
            processing_class=world_tokenizer(),
            loss_fn=loss_fn,
            compute_metrics=compute_metrics,
            advantage_fn=advantage_fn,
        ),
        resume,
    )


def _train(trainer, resume: str | Path | None):
    if resume is not None:
        trainer.resume(resume)
    trainer.train()
    return trainer


@dataclass(frozen=True)
class Stage:
    """One finished stage of `run`: its name, its trainer, how long it took, and what it is worth.

    `gold` is the mean gold reward of 512 fresh answers; for the reward model, which writes none, the share of
    held-out pairs that it puts in gold order.
    """

    name: str
    trainer: Trainer
    seconds: float
    gold: float


def tell(stage: Stage) -> None:
    """Print a stage and what it is worth."""
    worth = f"{stage.gold:.0%} of pairs in gold order" if stage.name == "reward" else f"mean gold {stage.gold:5.2f}"
    print(f"{stage.name:9} {worth}", flush=True)


def run(
    seed: int = 0, scale: float = 1.0, on_stage: Callable[[Stage], None] = tell, **changes: Any
) -> dict[str, Stage]:
    """The whole pipeline from nothing: every stage, each on the one before it.

    Args:
        scale: share of the full run's steps and data, above 0. 1 takes minutes; less is quicker and worse.
        on_stage: called with each stage as it is done.
        changes: settings for every stage, such as `disable_tqdm=True`.

    Returns:
        The stages by name, in order.
    """
    check_number("scale", scale, low=0, low_open=True)
    stages: dict[str, Stage] = {}

    def done(name: str, began: float, trainer: Trainer, gold: float) -> None:
        stages[name] = Stage(name, trainer, time.perf_counter() - began, gold)
        on_stage(stages[name])

    def part(count: int) -> int:
        return max(round(count * scale), 1)

    def gold(trainer: Trainer) -> float:
        return evaluate_policy(trainer.model, world_tokenizer(), seed=derive_seed(seed, "judge"))["gold"]

    began = time.perf_counter()
    base = pretrain(seed, part(CORPUS_DOCUMENTS), max_steps=part(SETTINGS["pretrain"]["max_steps"]), **changes)
    done("pretrain", began, base, gold(base))

    began = time.perf_counter()
    shown = sft(base.model, seed, demonstrations(part(DEMONSTRATIONS), seed), **changes)
    done("sft", began, shown, gold(shown))

    began = time.perf_counter()
    rankings = collect_rankings(shown.model, part(RANKINGS), ANSWERS_EACH, seed)
    judge = reward(shown.model, seed, rankings, **changes)
    held_out = collect_rankings(shown.model, 512, 2, seed, name="held out")
    done("reward", began, judge, reward_accuracy(judge.model, world_tokenizer(), held_out)["rm_gold_accuracy"])

    began = time.perf_counter()
    online = ppo(shown.model, judge.model, seed, max_steps=part(SETTINGS["ppo"]["max_steps"]), **changes)
    done("ppo", began, online, gold(online))

    began = time.perf_counter()
    comparisons = collect_rankings(shown.model, part(COMPARISONS), 2, seed, name="comparisons")
    direct = dpo(shown.model, seed, comparisons, **changes)
    done("dpo", began, direct, gold(direct))
    return stages
