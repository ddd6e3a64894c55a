"""What lesson 05 claims about PPO: a healthy run, and what its curves look like when one thing is wrong."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from rlhf_course import pipeline
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import draw_prompts, evaluate_policy
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.logprobs import masked_mean
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer

SEEDS = (0, 1, 2)
STEPS, STEPS_BETWEEN_LOOKS = 60, 10
FRESH_ANSWERS = 128
#: Passes over a batch where the fault is about many of them; the pipeline makes two.
MANY_EPOCHS = 6
DROPOUT = 0.1

#: What is wrong in a run, and the settings that go with it.
HEALTHY, NO_KL, MANY, NO_CLIP = "healthy", "β = 0", "many epochs", "many epochs, no clip"
NO_WHITENING, NO_END, WITH_DROPOUT = "no whitening", "mask off by one", "dropout on"
RUNS: dict[str, dict[str, Any]] = {
    HEALTHY: {},
    NO_KL: {"kl_coef": 0.0},
    MANY: {"num_ppo_epochs": MANY_EPOCHS},
    NO_CLIP: {"num_ppo_epochs": MANY_EPOCHS},
    NO_WHITENING: {},
    NO_END: {},
    WITH_DROPOUT: {},
}

#: The trainer's names of what a look also reports, as the mean over the steps since the last one.
DIAGNOSTICS = {
    "clipfrac": "policy/clipfrac_avg",
    "approxkl": "policy/approxkl_avg",
    "entropy": "policy/entropy_avg",
    "value_loss": "loss/value_avg",
    "explained_variance": "val/explained_variance",
}


# ---------------------------------------------------------------------- the faults


def unclipped_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """The fault: −mean(ρA), whatever ρ has become. Without a clip nothing says when to stop."""
    return -masked_mean((logps - old_logps).exp() * advantages, mask)


class UnwhitenedPPOTrainer(PPOTrainer):
    """The fault: advantages go into the loss as they are, in units of the reward."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gae, self.advantage_fn = self.advantage_fn, self.keep_advantages

    def keep_advantages(self, *arguments):
        self.raw, returns = self.gae(*arguments)
        return self.raw, returns

    def clipped_step(self, rollout, advantages, returns):
        return super().clipped_step(rollout, self.raw, returns)  # one mini-batch: all rows


class EndlessPPOTrainer(PPOTrainer):
    """The fault: the mask is shifted by one, so that it leaves out the token that ends each answer."""

    def rollout(self, *args, **kwargs):
        rollout = super().rollout(*args, **kwargs)
        rollout.mask = rollout.mask & rollout.mask.roll(-1, dims=1)
        rollout.mask[:, -1] = False
        return rollout


class DropoutPPOTrainer(PPOTrainer):
    """The fault: dropout on the policy's attention weights is on in the update; the rollout was sampled without."""

    def setup(self):
        super().setup()
        for module in self.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = DROPOUT


TRAINERS = {NO_WHITENING: UnwhitenedPPOTrainer, NO_END: EndlessPPOTrainer, WITH_DROPOUT: DropoutPPOTrainer}


# ---------------------------------------------------------------------- the runs


def broken_runs(seeds: Sequence[int] = SEEDS, runs: Sequence[str] = tuple(RUNS), steps: int = STEPS) -> Table:
    """The pipeline's PPO healthy, and with one thing wrong at a time.

    Columns: `seed`, `run` (one of `RUNS`), then as `ppo_run` returns them. A run takes about a minute on one core.
    """
    rows = [{"seed": seed, "run": run, **look} for seed in seeds for run in runs for look in ppo_run(seed, run, steps)]
    ppo = pipeline.settings("ppo", max_steps=steps, many_epochs=MANY_EPOCHS, dropout=DROPOUT)
    return Table("ppo.broken_runs", {"seeds": list(seeds), **ppo, "fresh_answers": FRESH_ANSWERS}, rows)


def ppo_run(
    seed: int, run: str = HEALTHY, steps: int = STEPS, every: int = STEPS_BETWEEN_LOOKS
) -> list[dict[str, float]]:
    """One PPO run from the pipeline's SFT and reward model of a seed, looked at every so many steps.

    Returns:
        A dict a look: `step`; of fresh answers, the reward model's mean `score`, the mean `gold` reward, `kl` (nats an
        answer from the SFT model) and `length` in tokens; and each of `DIAGNOSTICS`, its mean over the steps since the
        last look.
    """
    if run not in RUNS:
        raise ValueError(f"run must be one of {', '.join(RUNS)}, got {run!r}")
    sft, judge = trained("sft", seed), trained("reward", seed)
    args = PPOConfig(
        **pipeline.settings(
            "ppo", seed=seed, max_steps=steps, eval_steps=every, use_cpu=True, disable_tqdm=True, **RUNS[run]
        )
    )
    answers = steps * args.per_device_train_batch_size
    trainer = TRAINERS.get(run, PPOTrainer)(
        copy.deepcopy(sft),
        ref_model=sft,
        reward_funcs=judge,
        args=args,
        train_dataset=[{"prompt": prompt} for prompt in draw_prompts(answers, derive_seed(seed, "ppo"))],
        processing_class=world_tokenizer(),
        loss_fn=unclipped_loss if run == NO_CLIP else None,
        compute_metrics=lambda trainer: _fresh(trainer.model, sft, judge, seed),
    )
    history = trainer.train()
    looks = []
    for step in history.steps("eval_gold"):
        since = [row for row in history if step - every < row["step"] <= step]
        (seen,) = (row for row in since if "eval_gold" in row)
        means = {name: float(np.mean([row[key] for row in since if key in row])) for name, key in DIAGNOSTICS.items()}
        looks.append({"step": step, **{name: seen[f"eval_{name}"] for name in FRESH}, **means})
    return looks


FRESH = ("score", "gold", "kl", "length")


def _fresh(policy: nn.Module, sft: nn.Module, judge: nn.Module, seed: int) -> dict[str, float]:
    stream = derive_seed(seed, "looks")
    found = evaluate_policy(policy, world_tokenizer(), ref_model=sft, reward_model=judge, n=FRESH_ANSWERS, seed=stream)
    found["score"] = found.pop("proxy")
    return {name: found[name] for name in FRESH}
