"""Proximal policy optimisation on a learned reward (InstructGPT, stage 3; Ziegler et al. 2019)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_count, check_number
from rlhf_course.advantages import gae, kl_shaped_rewards
from rlhf_course.kl import AdaptiveKLController, FixedKLController
from rlhf_course.logprobs import masked_mean, masked_var, masked_whiten, sequence_logps
from rlhf_course.losses.ppo import ppo_clip_loss, ppo_value_loss
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.value import ValueModel
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.online import OnlineTrainer
from rlhf_course.trainers.rollout import Rollout, score_rollout
from rlhf_course.trainers.support import Called, check_loss


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
        self.check_counts("num_ppo_epochs", "num_mini_batches", "response_length", "kl_horizon")
        self.check_counts("value_warmup_steps", low=0)
        for name in ("kl_coef", "vf_coef", "value_learning_rate"):
            check_number(name, getattr(self, name), low=0)
        check_number("cliprange", self.cliprange, low=0, high=1, low_open=True, high_open=True)
        for name in ("cliprange_value", "temperature"):
            check_number(name, getattr(self, name), low=0, low_open=True)
        for name in ("gamma", "lam"):
            check_number(name, getattr(self, name), low=0, high=1)
        if self.missing_eos_penalty is not None:
            check_number("missing_eos_penalty", self.missing_eos_penalty, low=0)
        if self.target_kl is not None:
            check_number("target_kl", self.target_kl, low=0, low_open=True)
            check_number("kl_coef (with target_kl)", self.kl_coef, low=0, low_open=True)
            answers = self.per_device_train_batch_size * self.gradient_accumulation_steps
            check_count("kl_horizon (with target_kl, in answers; a batch has as many)", self.kl_horizon, low=answers)


class PPOTrainer(OnlineTrainer):
    """Raises the reward of the policy's own answers, a clipped step at a time, near the reference.

    Rows: `prompt`. With `ref_model` left out, the reference is the model as it is now; of a LoRA model, the model
    without its adapter. `reward_funcs` is a RewardModel (or ensemble) with the policy's tokenizer, or a function
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
        if not callable(reward_funcs):
            raise TypeError(
                "reward_funcs must be a RewardModel or a function of prompts and completions, got "
                f"{type(reward_funcs).__name__}"
            )
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

    def setup(self):
        args = self.args
        self.value_model = self.value_model or self.new_value_model()
        self.prepare_models([self.reward_funcs])
        self.critic = self.prepared(Called(self.value_model))
        self.kl_controller = (
            FixedKLController(args.kl_coef)
            if args.target_kl is None
            else AdaptiveKLController(args.kl_coef, args.target_kl, args.kl_horizon)
        )

    def new_value_model(self) -> ValueModel:
        """A critic that starts from the reward model if there is one, else from the policy's body."""
        if isinstance(self.reward_funcs, RewardModel):
            value_model = ValueModel.from_reward_model(self.reward_funcs)
        else:
            policy = self.model
            if hasattr(policy, "merge_and_unload"):  # LoRA
                policy = copy.deepcopy(policy).merge_and_unload()
            value_model = ValueModel.from_policy(policy, seed=self.args.seed)
        if not any(p.requires_grad for p in value_model.parameters()):
            value_model.requires_grad_()  # the reward model is frozen, its copy learns
        return value_model

    def trained_models(self):
        return {"model": self.model, "value_model": self.value_model}

    def parameter_groups(self):
        critic = [p for p in self.value_model.parameters() if p.requires_grad]
        return [*super().parameter_groups(), {"params": critic, "lr": self.args.value_learning_rate}]

    # ------------------------------------------------------------------ the algorithm

    def step(self, batch) -> dict[str, Tensor]:
        """One iteration of PPO: sample, score, turn the scores into advantages, and take clipped steps."""
        args = self.args
        rollout = self.rollout(batch, self.mine, ("sampling", self.global_step))
        beta, mask = self.kl_controller.value, rollout.mask

        rewards = kl_shaped_rewards(rollout.scores, rollout.logps, rollout.ref_logps, mask, beta)
        advantages, returns = self.advantage_fn(rewards, rollout.values, mask, args.gamma, args.lam)
        advantages = self.whitened(advantages, mask)  # the returns stay in the units of the reward

        updates = []
        for _ in range(args.num_ppo_epochs):
            for rows in torch.arange(len(mask)).chunk(args.num_mini_batches):
                updates.append(self.clipped_step(rollout[rows], advantages[rows], returns[rows]))

        surprise, target, everyones_mask = self.of_all_processes(returns - rollout.values, returns, mask)
        unexplained = masked_var(surprise, everyones_mask) / masked_var(target, everyones_mask).clamp(min=1e-8)
        metrics = self.rollout_metrics(rollout)
        if args.target_kl is not None:
            kl = self.accelerator.reduce(metrics["objective/kl"], reduction="mean")
            self.kl_controller.update(kl.item(), len(batch))
        return {
            **{name: torch.stack([update[name] for update in updates]).mean() for name in updates[0]},
            **metrics,
            "objective/rlhf_reward": metrics["objective/scores"] - beta * metrics["objective/kl"],
            "objective/kl_coef": torch.tensor(beta, device=mask.device),
            "val/explained_variance": 1 - unexplained,
        }

    def clipped_step(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, Tensor]:
        """One update of policy and critic on some rows of a rollout."""
        args = self.args
        # Processes average what they find: shares are of the mean process's tokens.
        total = self.accelerator.reduce(rollout.mask.sum().float(), reduction="mean")
        learns = self.global_step >= args.value_warmup_steps  # at first, only the critic does
        metrics: dict[str, Tensor] = {}
        for rows in torch.arange(len(rollout.mask)).split(args.per_device_train_batch_size):
            part = rollout[rows]
            with torch.set_grad_enabled(learns):
                logps, entropies = self.completion_logps(self.policy_logps, part, with_entropy=True)
                policy_loss = self.loss_fn(logps, part.logps, advantages[rows], part.mask, args.cliprange)
                check_loss(policy_loss)
            values = self.values(part)
            value_loss = ppo_value_loss(values, part.values, returns[rows], part.mask, args.cliprange_value)
            share = part.mask.sum() / total
            self.backward(policy_loss + args.vf_coef * value_loss, share)

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
    def rollout(self, rows, mine: slice = slice(None), stream: tuple = ("rollout",)) -> Rollout:
        """Answers to the prompts of `rows[mine]`, with all that the update needs: scores, log-probabilities, values.

        `stream` names the random stream, under the run's seed.
        """
        args = self.args
        with self.accelerator.autocast():
            rollout = self.sample(rows, mine, stream, args.response_length)
            rollout.scores = score_rollout(self.reward_funcs, rollout, self.tokenizer)
            if args.missing_eos_penalty is not None:
                rollout.scores = rollout.scores - args.missing_eos_penalty * ~rollout.ended
            rollout.ref_logps = self.log_reference(rollout)
            rollout.values = self.values(rollout)
        return rollout

    def rollout_metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What there is to say about answers before anything is learnt from them."""
        return {
            "objective/scores": rollout.scores.mean(),
            "objective/kl": sequence_logps(rollout.logps - rollout.ref_logps, rollout.mask).mean(),
            "completions/mean_length": rollout.mask.sum(dim=1).float().mean(),
            "completions/ended": rollout.ended.float().mean(),
        }

    def measure(self, rows, place):
        """Answers to held-out prompts, drawn with the same random numbers at every evaluation."""
        return self.rollout_metrics(self.rollout(rows, stream=("evaluation", place)))

    def of_all_processes(self, *tensors: Tensor) -> list[Tensor]:
        """(B, T) tensors of every process, one process's rows below the other's, padded with 0 to one width."""
        return [self.accelerator.gather(self.accelerator.pad_across_processes(x, dim=1)) for x in tensors]

    def whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """This process's advantages, (B, T), whitened over the tokens of all processes."""
        rows, width = mask.shape
        first = self.accelerator.process_index * rows
        return masked_whiten(*self.of_all_processes(advantages, mask))[first : first + rows, :width]

    def values(self, rollout: Rollout) -> Tensor:
        """The critic's value of the state before each completion token, (B, T)."""
        values = self.critic(rollout.sequences, rollout.attention_mask)
        return values[:, rollout.prompt_width - 1 : -1]

    def extra_state(self):
        return {"kl_coef": self.kl_controller.value}

    def load_extra_state(self, state):
        self.kl_controller.value = state["kl_coef"]
