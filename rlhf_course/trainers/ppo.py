"""Proximal policy optimisation on a learned reward (InstructGPT, stage 3; Ziegler et al. 2019)."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_count, check_number
from rlhf_course.advantages import gae, kl_shaped_rewards
from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.kl import AdaptiveKLController, FixedKLController
from rlhf_course.logprobs import masked_mean, masked_var, masked_whiten, sequence_logps
from rlhf_course.losses.ppo import ppo_clip_loss, ppo_value_loss
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.models.value import ValueModel
from rlhf_course.trainers.base import Trainer, disable_dropout
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.rollout import Rollout, sample_rollout, score_rollout


@dataclass(kw_only=True)
class PPOConfig(TrainingConfig):
    """Settings of `PPOTrainer`, under the names TRL's had. The defaults suit the tiny model.

    Attributes:
        num_ppo_epochs: passes over a batch of samples before it is thrown away.
        num_mini_batches: updates in each pass.
        kl_coef: β, the price of a nat of KL from the reference, in units of the reward.
        target_kl: if set, β follows the KL to hold it here, in nats per answer (Ziegler's controller).
        kl_horizon: that controller's horizon, in answers.
        cliprange, cliprange_value: ε of the policy's and of the value's clip.
        vf_coef: weight of the value loss.
        value_learning_rate: peak learning rate of the critic.
        value_warmup_steps: steps at the start in which only the critic learns.
        gamma, lam: of GAE.
        temperature: of sampling; the logits are divided by it everywhere.
        response_length: longest completion, in tokens.
        missing_eos_penalty: taken off the score of a completion that does not end within `response_length`.
    """

    per_device_train_batch_size: int = 64
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "constant"
    max_steps: int = 80
    logging_steps: int = 1
    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    kl_coef: float = 0.05
    target_kl: float | None = None
    kl_horizon: int = 10_000
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    value_learning_rate: float = 1e-3
    value_warmup_steps: int = 5
    gamma: float = 1.0
    lam: float = 0.95
    temperature: float = 1.0
    response_length: int = 48
    missing_eos_penalty: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_ppo_epochs", "num_mini_batches", "response_length", "kl_horizon"):
            check_count(name, getattr(self, name), low=1)
        check_count("value_warmup_steps", self.value_warmup_steps)
        for name in ("kl_coef", "vf_coef", "value_learning_rate"):
            check_number(name, getattr(self, name), low=0)
        for name in ("cliprange", "cliprange_value", "temperature"):
            check_number(name, getattr(self, name), low=0, low_open=True)
        for name in ("gamma", "lam"):
            check_number(name, getattr(self, name), low=0, high=1)


class PPOTrainer(Trainer):
    """Raises the reward of the policy's own answers, a clipped step at a time, near the reference.

    Rows: `prompt`. `reward_funcs` is a RewardModel (or ensemble) with the policy's tokenizer, or a function
    `(prompts, completions) -> list of numbers`.

    `loss_fn(logps, old_logps, advantages, mask, epsilon)` replaces the clipped loss and
    `advantage_fn(rewards, values, mask, gamma, lam)` GAE; both work on (B, T) tensors.
    `value_model`, the critic, is a copy of the reward model if there is one, else the policy's body with a new head.
    """

    config_class = PPOConfig
    shown = ("objective/scores", "objective/kl")

    def __init__(
        self,
        model: nn.Module,
        ref_model: nn.Module | None = None,
        reward_funcs: Any = None,
        args: PPOConfig | None = None,
        train_dataset=(),
        eval_dataset=None,
        processing_class: Any = None,
        loss_fn: Callable[..., Tensor] | None = None,
        compute_metrics: Callable | None = None,
        *,
        advantage_fn: Callable[..., tuple[Tensor, Tensor]] | None = None,
        value_model: ValueModel | None = None,
    ):
        if reward_funcs is None:
            raise ValueError("reward_funcs is missing: pass a RewardModel or a function of prompts and completions")
        self.advantage_fn, self.value_model = advantage_fn or gae, value_model
        super().__init__(
            model,
            ref_model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            loss_fn or ppo_clip_loss,
            compute_metrics,
        )

    def prepare_rows(self, dataset):
        return tokenize_prompts(dataset, self.tokenizer, self.args.max_length)

    def setup(self):
        args, device = self.args, self.accelerator.device
        if self.value_model is None and isinstance(self.reward_funcs, RewardModel):
            self.value_model = ValueModel.from_reward_model(self.reward_funcs)
        elif self.value_model is None:
            self.value_model = ValueModel.from_policy(self.model, seed=args.seed)
        # The reference of a LoRA model is the model without its adapter, unless another is given.
        self._lora_reference = self.ref_model is None and hasattr(self.model, "disable_adapter")
        if self.ref_model is None and not self._lora_reference:
            self.ref_model = copy.deepcopy(self.model)
        for model in (self.model, self.value_model, self.ref_model, self.reward_funcs):
            if isinstance(model, nn.Module):
                disable_dropout(model)
                model.to(device)
        for model in (self.ref_model, self.reward_funcs):
            if isinstance(model, nn.Module):
                model.eval()
        self.policy_logps = self.accelerator.prepare(CompletionLogps(self.model))
        self.reference_logps = CompletionLogps(self.model if self._lora_reference else self.ref_model)
        self.critic = self.accelerator.prepare(self.value_model)
        self.kl_controller = (
            FixedKLController(args.kl_coef)
            if args.target_kl is None
            else AdaptiveKLController(args.kl_coef, args.target_kl, args.kl_horizon)
        )

    def parameter_groups(self):
        critic = [p for p in self.value_model.parameters() if p.requires_grad]
        return [*super().parameter_groups(), {"params": critic, "lr": self.args.value_learning_rate}]

    # ------------------------------------------------------------------ the algorithm

    def step(self, batch) -> dict[str, Tensor]:
        """One iteration of PPO: sample, score, turn the scores into advantages, and take clipped steps."""
        args = self.args
        rollout = self.rollout(batch)
        beta, mask = self.kl_controller.value, rollout.mask

        rewards = kl_shaped_rewards(rollout.scores, rollout.logps, rollout.ref_logps, mask, beta)
        advantages, returns = self.advantage_fn(rewards, rollout.values, mask, args.gamma, args.lam)
        advantages = masked_whiten(advantages, mask)  # the returns stay in the units of the reward

        updates = []
        for _ in range(args.num_ppo_epochs):
            for rows in torch.arange(len(mask)).chunk(args.num_mini_batches):
                updates.append(self.clipped_step(rollout[rows], advantages[rows], returns[rows]))

        kl = sequence_logps(rollout.logps - rollout.ref_logps, mask)
        self.kl_controller.update(kl.mean().item(), len(kl))
        means = {name: torch.stack([update[name] for update in updates]).mean() for name in updates[0]}
        return means | {
            "objective/scores": rollout.scores.mean(),
            "objective/kl": kl.mean(),
            "objective/rlhf_reward": rollout.scores.mean() - beta * kl.mean(),
            "objective/kl_coef": torch.tensor(beta, device=kl.device),
            "val/explained_variance": 1
            - masked_var(returns - rollout.values, mask) / masked_var(returns, mask).clamp(min=1e-8),
            "completions/mean_length": mask.sum(dim=1).float().mean(),
            "completions/ended": rollout.ended.float().mean(),
        }

    def clipped_step(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, Tensor]:
        """One update of policy and critic on some rows of a rollout."""
        args, mask, total = self.args, rollout.mask, rollout.mask.sum()
        metrics: dict[str, Tensor] = {}
        for rows in torch.arange(len(mask)).split(args.per_device_train_batch_size):
            part = rollout[rows]
            logps, entropies = self.completion_logps(self.policy_logps, part, with_entropy=True)
            values = self.values(part)
            policy_loss = self.loss_fn(logps, part.logps, advantages[rows], part.mask, args.cliprange)
            value_loss = ppo_value_loss(values, part.values, returns[rows], part.mask, args.cliprange_value)
            learns = self.global_step >= args.value_warmup_steps  # at first, only the critic does
            share = part.mask.sum() / total
            self.backward((policy_loss * learns + args.vf_coef * value_loss) * share)

            log_ratio = (logps - part.logps).detach()
            outside = (log_ratio.exp() - 1).abs() > args.cliprange
            for name, value in {
                "loss/policy_avg": policy_loss.detach(),
                "loss/value_avg": value_loss.detach(),
                "policy/approxkl_avg": masked_mean(0.5 * log_ratio.square(), part.mask),
                "policy/clipfrac_avg": masked_mean(outside.float(), part.mask),
                "policy/entropy_avg": masked_mean(entropies, part.mask),
                "val/ratio": masked_mean(log_ratio.exp(), part.mask),
            }.items():
                metrics[name] = metrics.get(name, 0.0) + value * share
        metrics["grad_norm"] = self.update()
        return metrics

    # ------------------------------------------------------------------ its parts

    @torch.no_grad()
    def rollout(self, batch) -> Rollout:
        """Answers to a batch's prompts, with all that the update needs: scores, log-probabilities, values."""
        self.model.eval()
        mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        rollout = sample_rollout(
            self.model,
            self.tokenizer,
            batch,
            mine,
            max_new_tokens=self.args.response_length,
            temperature=self.args.temperature,
            stream=(self.args.seed, "sampling", self.global_step),
        )
        rollout.scores = score_rollout(self.reward_funcs, rollout, self.tokenizer)
        if self.args.missing_eos_penalty is not None:
            rollout.scores = rollout.scores - self.args.missing_eos_penalty * ~rollout.ended
        without_adapter = self.model.disable_adapter() if self._lora_reference else nullcontext()
        with without_adapter:
            rollout.ref_logps = self.completion_logps(self.reference_logps, rollout)
        rollout.values = self.values(rollout)
        self.model.train()
        return rollout

    def completion_logps(self, policy_logps: nn.Module, rollout: Rollout, with_entropy: bool = False):
        """Log-probabilities (and entropies) of a rollout's completion tokens, (B, T)."""
        found = policy_logps(
            rollout.sequences,
            rollout.attention_mask,
            rollout.completion_mask,
            self.args.temperature,
            with_entropy,
        )
        start = rollout.prompt_width - 1  # where the first completion token's log-probability stands
        return tuple(x[:, start:] for x in found) if with_entropy else found[:, start:]

    def values(self, rollout: Rollout) -> Tensor:
        """The critic's value of the state before each completion token, (B, T)."""
        values = self.critic(rollout.sequences, rollout.attention_mask)
        return values[:, rollout.prompt_width - 1 : -1]

    def extra_state(self):
        return {"value_model": self.value_model.state_dict(), "kl_coef": self.kl_controller.value}

    def load_extra_state(self, state):
        self.value_model.load_state_dict(state["value_model"])
        self.kl_controller.value = state["kl_coef"]
