"""Online DPO (Guo et al. 2024): DPO on pairs of the policy's own answers, judged as they are written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_number
from rlhf_course.logprobs import sequence_logps
from rlhf_course.trainers.dpo import DPOConfig, pair_loss, pair_metrics
from rlhf_course.trainers.online import OnlineTrainer
from rlhf_course.trainers.rollout import Rollout, score_rollout
from rlhf_course.trainers.support import check_loss


@dataclass(kw_only=True)
class OnlineDPOConfig(DPOConfig):
    """Settings of `OnlineDPOTrainer`: `DPOConfig`'s, and how answers are sampled. The defaults suit the tiny model.

    Attributes:
        per_device_train_batch_size: prompts a device works on at once, each with two answers.
        max_new_tokens: longest answer, in tokens.
        temperature: of sampling; the logits are divided by it everywhere.
        missing_eos_penalty: taken off the score of an answer that does not end within `max_new_tokens`.
    """

    lr_scheduler_type: str = "constant"
    max_steps: int = 125
    logging_steps: int = 1
    max_new_tokens: int = 48
    temperature: float = 1.0
    missing_eos_penalty: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self.check_counts("max_new_tokens")
        check_number("temperature", self.temperature, low=0, low_open=True)
        if self.missing_eos_penalty is not None:
            check_number("missing_eos_penalty", self.missing_eos_penalty, low=0)


class OnlineDPOTrainer(OnlineTrainer):
    """DPO whose pairs are never stale: two answers of today's policy, a judge's choice, one step, and new answers.

    Rows: `prompt`. `reward_funcs` is the judge: a RewardModel (or ensemble) with the policy's tokenizer, or a function
    `(prompts, completions) -> list of numbers`; of two answers the one with the higher score is the chosen one. (Gumbel
    noise on the scores makes a labeler of it who chooses by Bradley–Terry.) A pair of equal scores says nothing and is
    left out. With `ref_model` left out, the reference is the model as it is now; of a LoRA model, the model without its
    adapter.

    `loss_fn` is `DPOTrainer`'s.
    """

    config_class = OnlineDPOConfig
    loss_settings = ("loss_type", "label_smoothing", "reference_free")
    shown = ("loss", "objective/scores")

    def __init__(
        self,
        model: nn.Module,
        ref_model: nn.Module | None = None,
        reward_funcs: Any = None,
        args: OnlineDPOConfig | None = None,
        train_dataset=(),
        eval_dataset=None,
        processing_class: Any = None,
        loss_fn: Callable[..., Tensor] | None = None,
        compute_metrics: Callable | None = None,
    ):
        if not callable(reward_funcs):
            raise TypeError(
                "reward_funcs must be a RewardModel or a function of prompts and completions, "
                f"got {type(reward_funcs).__name__}"
            )
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
        self.prepare_models([self.reward_funcs])

    # ------------------------------------------------------------------ the algorithm

    def step(self, batch) -> dict[str, Tensor]:
        """One step: two answers to each prompt, the judge's choice, and DPO's loss on the pairs that it decided."""
        rollout = self.rollout(batch, self.mine, ("sampling", self.global_step))
        scores = rollout.scores.view(-1, 2)
        best = 2 * torch.arange(len(scores), device=scores.device) + (scores[:, 1] > scores[:, 0])
        pairs = torch.stack([best, best ^ 1])  # rows of the chosen and of the rejected answers, (2, B)
        decided = scores[:, 0] != scores[:, 1]

        # Processes average what they find: shares are of the mean process's pairs.
        count = self.accelerator.reduce(decided.sum().float(), reduction="mean").clamp(min=1)
        metrics: dict[str, Tensor] = {}
        for part in torch.arange(len(scores), device=scores.device).split(self.args.per_device_train_batch_size):
            loss, found = self.dpo_loss(rollout[pairs[:, part].flatten()], decided[part])
            share = decided[part].sum() / count
            self.backward(loss, share)
            for name, value in {"loss": loss.detach(), **found}.items():
                metrics[name] = metrics.get(name, 0.0) + value * share
        return {**metrics, "grad_norm": self.update(), **self.rollout_metrics(rollout)}

    def dpo_loss(self, part: Rollout, decided: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a rollout's decided pairs, all chosen answers first; a loss of 0 if there is none."""
        logps = sequence_logps(self.completion_logps(self.policy_logps, part), part.mask)
        if not decided.any():
            return 0 * logps.sum(), {}
        ref_logps = sequence_logps(part.ref_logps, part.mask)
        columns = (*logps.chunk(2), *ref_logps.chunk(2), *part.mask.sum(dim=1).chunk(2))
        *four, chosen_lengths, rejected_lengths = (column[decided] for column in columns)
        loss = pair_loss(four, (chosen_lengths, rejected_lengths), self.args, self.loss_fn)
        check_loss(loss)
        return loss, pair_metrics(*four, self.args.beta)

    # ------------------------------------------------------------------ its parts

    @torch.no_grad()
    def rollout(self, rows, mine: slice = slice(None), stream: tuple = ("rollout",)) -> Rollout:
        """Two answers to each prompt of `rows[mine]`, side by side, with the judge's scores and the reference's words.

        `stream` names the random stream, under the run's seed.
        """
        with self.accelerator.autocast():
            rollout = self.sample(rows, mine, stream, self.args.max_new_tokens, num_generations=2)
            rollout.scores = score_rollout(self.reward_funcs, rollout, self.tokenizer).float()
            if self.args.missing_eos_penalty is not None:
                rollout.scores = rollout.scores - self.args.missing_eos_penalty * ~rollout.ended
            rollout.ref_logps = self.log_reference(rollout)
        return rollout

    def rollout_metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What there is to say about pairs of answers before anything is learnt from them."""
        scores = rollout.scores.view(-1, 2)
        return {
            "objective/scores": scores.mean(),
            "objective/scores_margin": (scores[:, 0] - scores[:, 1]).abs().mean(),
            "objective/kl": sequence_logps(rollout.logps - rollout.ref_logps, rollout.mask).mean(),
            "frac_tied": (scores[:, 0] == scores[:, 1]).float().mean(),
            "completions/mean_length": rollout.mask.sum(dim=1).float().mean(),
            "completions/ended": rollout.ended.float().mean(),
        }

    def measure(self, rows, place):
        """Answers to held-out prompts, drawn with the same random numbers at every evaluation."""
        return self.rollout_metrics(self.rollout(rows, stream=("evaluation", place)))
