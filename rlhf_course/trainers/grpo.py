"""Group-relative policy optimisation: PPO's clip, with the group of answers in the critic's place (DeepSeekMath)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_choice, check_count, check_number
from rlhf_course.advantages import frac_reward_zero_std, group_advantages
from rlhf_course.kl import kl_estimate
from rlhf_course.logprobs import masked_mean
from rlhf_course.losses.grpo import LOSS_TYPES, grpo_loss
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.online import OnlineTrainer
from rlhf_course.trainers.rollout import Rollout, score_rollout
from rlhf_course.trainers.support import check_loss


@dataclass(kw_only=True)
class GRPOConfig(TrainingConfig):
    """Settings of `GRPOTrainer`, under TRL's names. The defaults suit the tiny model.

    As in TRL, `per_device_train_batch_size` counts answers, not prompts: a step has `per_device_train_batch_size ×
    gradient_accumulation_steps / num_generations` prompts on each device, which must be a whole number.

    Attributes:
        num_generations: G, the answers in a prompt's group, at least 2.
        num_iterations: μ, passes over a batch of samples before it is thrown away.
        beta: β, the price of KL from the reference in the loss; 0 needs no reference model.
        epsilon: ε, how far below 1 the probability ratio is rewarded for going.
        epsilon_high: the same above 1; None for ε.
        loss_type: how token losses become one number: "dapo", "grpo", "bnpo" or "dr_grpo" (`aggregate_token_loss`).
            "bnpo" alone depends on how a batch is cut into micro-batches.
        scale_rewards: what advantages are divided by the standard deviation of: "group", "batch", or "none".
        reward_weights: one for each reward function; None for 1 each.
        temperature: of sampling; the logits are divided by it everywhere.
        max_completion_length: longest completion, in tokens, and the constant of "dr_grpo".
    """

    per_device_train_batch_size: int = 64
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "constant"
    max_steps: int = 80
    logging_steps: int = 1
    num_generations: int = 8
    num_iterations: int = 1
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: str = "dapo"
    scale_rewards: str = "group"
    reward_weights: list[float] | None = None
    temperature: float = 1.0
    max_completion_length: int = 48

    def __post_init__(self):
        super().__post_init__()
        self.check_counts("num_iterations", "max_completion_length")
        self.num_generations = check_count("num_generations", self.num_generations, low=2)
        check_number("beta", self.beta, low=0)
        check_number("epsilon", self.epsilon, low=0, high=1, low_open=True, high_open=True)
        if self.epsilon_high is not None:
            check_number("epsilon_high", self.epsilon_high, low=0, low_open=True)
        check_choice("loss_type", self.loss_type, LOSS_TYPES)
        check_choice("scale_rewards", self.scale_rewards, ("group", "batch", "none"))
        check_number("temperature", self.temperature, low=0, low_open=True)
        for weight in self.reward_weights or ():
            check_number("reward_weights", weight)
        answers = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if answers % self.num_generations:
            raise ValueError(
                "per_device_train_batch_size × gradient_accumulation_steps must be a multiple of num_generations "
                f"{self.num_generations}, so that a step has whole groups, got {answers} answers"
            )


class GRPOTrainer(OnlineTrainer):
    """Makes answers likelier that beat the others in their group, a clipped step at a time. No critic.

    Rows: `prompt`. `reward_funcs` is a RewardModel (or ensemble) with the policy's tokenizer, a function
    `(prompts, completions) -> list of numbers` such as a rule that checks the answer, or a list of these, whose rewards
    are weighted and added. With β above 0 and `ref_model` left out, the reference is the model as it is now; of a LoRA
    model, the model without its adapter.

    `loss_fn(logps, old_logps, advantages, mask, epsilon)` replaces the loss, a mean over tokens: (B, T) tensors but for
    the advantages, (B,). `advantage_fn(rewards, num_generations)` replaces `group_advantages`: (prompts × G,) to the
    same; with `rloo_advantages` it is RLOO.
    """

    config_class = GRPOConfig
    loss_settings = ("beta", "epsilon_high", "loss_type")
    shown = ("reward", "frac_reward_zero_std")

    def __init__(
        self,
        model: nn.Module,
        ref_model: nn.Module | None = None,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset=(),
        eval_dataset=None,
        processing_class: Any = None,
        loss_fn: Callable[..., Tensor] | None = None,
        compute_metrics: Callable | None = None,
        *,
        advantage_fn: Callable[[Tensor, int], Tensor] | None = None,
    ):
        args = args or self.config_class()
        reward_funcs = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        for reward_func in reward_funcs:
            if not callable(reward_func):
                raise TypeError(
                    "reward_funcs must be a RewardModel, a function of prompts and completions, or a list of these, "
                    f"got {type(reward_func).__name__}"
                )
        if advantage_fn is not None and getattr(args, "scale_rewards", "group") != "group":
            raise ValueError(
                "advantage_fn is called with rewards and num_generations only, so it cannot honour scale_rewards: "
                "leave out advantage_fn, or the setting"
            )
        self.advantage_fn = advantage_fn
        super().__init__(
            model,
            ref_model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            loss_fn,
            compute_metrics,
        )

    def setup(self):
        names = [getattr(f, "__name__", type(f).__name__) for f in self.reward_funcs]
        count = Counter(names)
        self.reward_names = [name if count[name] == 1 else f"{name}_{i}" for i, name in enumerate(names)]
        weights = self.args.reward_weights or [1.0] * len(names)
        if len(weights) != len(names):
            raise ValueError(f"reward_weights must have one weight a reward function, {len(names)}, got {len(weights)}")
        self.reward_weights = torch.tensor(weights, device=self.accelerator.device)
        self.prepare_models(self.reward_funcs, with_reference=self.args.beta > 0)

    @property
    def batch_size(self) -> int:
        """Prompts of one step, over all devices; each has `num_generations` answers."""
        return super().batch_size // self.args.num_generations

    # ------------------------------------------------------------------ the algorithm

    def step(self, batch) -> dict[str, Tensor]:
        """One iteration of GRPO: sample a group for each prompt, score it, compare within it, take clipped steps."""
        rollout = self.rollout(batch, self.mine, ("sampling", self.global_step))
        advantages = self.advantages(rollout.scores)
        updates = [self.clipped_step(rollout, advantages) for _ in range(self.args.num_iterations)]
        return {
            **{name: torch.stack([update[name] for update in updates]).mean() for name in updates[0]},
            **self.rollout_metrics(rollout),
        }

    def advantages(self, scores: Tensor) -> Tensor:
        """Each of this process's answers against its group, (B,), from scores (B,)."""
        args, process = self.args, self.accelerator.process_index
        everyones = self.accelerator.gather(scores)
        if self.advantage_fn is not None:
            found = self.advantage_fn(everyones, args.num_generations)
        else:
            found = group_advantages(everyones, args.num_generations, args.scale_rewards)
        return found[process * len(scores) : (process + 1) * len(scores)]

    def clipped_step(self, rollout: Rollout, advantages: Tensor) -> dict[str, Tensor]:
        """One update of the policy on all answers of a rollout."""
        args = self.args
        # Processes average what they find: shares are of the mean process's tokens.
        tokens = self.accelerator.reduce(rollout.mask.sum().float(), reduction="mean")
        metrics: dict[str, Tensor] = {}
        for rows in torch.arange(len(rollout.mask)).split(args.per_device_train_batch_size):
            part = rollout[rows]
            logps, entropies = self.completion_logps(self.policy_logps, part, with_entropy=True)
            loss = self.policy_loss(logps, part, advantages[rows])
            check_loss(loss)
            of_tokens, of_rows = part.mask.sum() / tokens, len(rows) / len(rollout.mask)
            share = of_tokens if args.loss_type == "dapo" else of_rows
            self.backward(loss, share)

            ratio, sign = (logps.detach() - part.logps).exp(), advantages[rows].sign().unsqueeze(1)
            low = (sign < 0) & (ratio < 1 - args.epsilon)
            high = (sign > 0) & (ratio > 1 + (args.epsilon_high or args.epsilon))
            for name, value in {
                "loss": loss.detach() * share,
                "entropy": masked_mean(entropies, part.mask) * of_tokens,
                "clip_ratio/low_mean": masked_mean(low.float(), part.mask) * of_tokens,
                "clip_ratio/high_mean": masked_mean(high.float(), part.mask) * of_tokens,
                "clip_ratio/region_mean": masked_mean((low | high).float(), part.mask) * of_tokens,
            }.items():
                metrics[name] = metrics.get(name, 0.0) + value
        metrics["grad_norm"] = self.update()
        return metrics

    def policy_loss(self, logps: Tensor, part: Rollout, advantages: Tensor) -> Tensor:
        """The learner's loss, or GRPO's with its KL term."""
        args = self.args
        if self.loss_fn is not None:
            return self.loss_fn(logps, part.logps, advantages, part.mask, args.epsilon)
        return grpo_loss(
            logps,
            part.logps,
            advantages,
            part.mask,
            args.epsilon,
            ref_logps=part.ref_logps,
            beta=args.beta,
            epsilon_high=args.epsilon_high,
            loss_type=args.loss_type,
            max_completion_length=args.max_completion_length,
        )

    # ------------------------------------------------------------------ its parts

    @torch.no_grad()
    def rollout(self, rows, mine: slice = slice(None), stream: tuple = ("rollout",)) -> Rollout:
        """A group of answers to each prompt of `rows[mine]`, with rewards, and the reference's log-probabilities.

        `stream` names the random stream, under the run's seed.
        """
        args = self.args
        with self.accelerator.autocast():
            rollout = self.sample(rows, mine, stream, args.max_completion_length, args.num_generations)
            rewards = [score_rollout(reward_func, rollout, self.tokenizer) for reward_func in self.reward_funcs]
            rollout.rewards = torch.stack(rewards, dim=1).float()
            rollout.scores = rollout.rewards @ self.reward_weights
            if args.beta > 0:
                rollout.ref_logps = self.log_reference(rollout)
        return rollout

    def rollout_metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What there is to say about groups of answers before anything is learnt from them."""
        groups = rollout.scores.reshape(-1, self.args.num_generations)
        metrics = {
            **{f"rewards/{name}/mean": column.mean() for name, column in zip(self.reward_names, rollout.rewards.T)},
            "reward": rollout.scores.mean(),
            "reward_std": groups.std(dim=1).mean(),
            "frac_reward_zero_std": frac_reward_zero_std(rollout.scores, self.args.num_generations),
            "completions/mean_length": rollout.mask.sum(dim=1).float().mean(),
            "completions/clipped_ratio": 1 - rollout.ended.float().mean(),
        }
        if rollout.ref_logps is not None:  # nats a token, as TRL has it
            metrics["kl"] = masked_mean(kl_estimate(rollout.logps, rollout.ref_logps, "k3"), rollout.mask)
        return metrics

    def measure(self, rows, place):
        """Answers to held-out prompts, drawn with the same random numbers at every evaluation."""
        return self.rollout_metrics(self.rollout(rows, stream=("evaluation", place)))
