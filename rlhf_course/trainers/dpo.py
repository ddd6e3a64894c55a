"""Direct preference optimisation (Rafailov et al. 2023): train the policy on comparisons, without a reward model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_course._checks import check_choice, check_number
from rlhf_course.data.collators import collate_preferences
from rlhf_course.data.preferences import tokenize_preferences
from rlhf_course.logprobs import sequence_logps
from rlhf_course.losses.dpo import dpo_loss
from rlhf_course.losses.ipo import ipo_loss
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.precomputed import PrecomputedReferenceTrainer
from rlhf_course.trainers.support import to_device


@dataclass(kw_only=True)
class DPOConfig(TrainingConfig):
    """Settings of `DPOTrainer`. The defaults suit the tiny model; a real one wants a rate of 1e-6 or so.

    Attributes:
        beta: β, how dearly distance from the reference is paid for.
        loss_type: "sigmoid" (DPO), "hinge", "robust", or "ipo" (which averages over tokens, as TRL does).
        label_smoothing: the share of labels taken to be flipped (conservative DPO; with "robust", Chowdhury et al.).
        reference_free: leave the reference out.
    """

    learning_rate: float = 2e-4
    warmup_steps: int = 10
    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_number("beta", self.beta, low=0, low_open=True)
        check_choice("loss_type", self.loss_type, ("sigmoid", "hinge", "robust", "ipo"))
        check_number("label_smoothing", self.label_smoothing, low=0, high=0.5, high_open=True)
        if self.loss_type in ("hinge", "ipo") and self.label_smoothing:
            raise ValueError(f"loss_type {self.loss_type!r} has no label_smoothing, got {self.label_smoothing}")
        if self.loss_type == "ipo" and self.reference_free:
            raise ValueError("loss_type 'ipo' has no reference_free form")


class DPOTrainer(PrecomputedReferenceTrainer):
    """Raises the chosen completion's log-ratio to the reference above the rejected one's.

    Rows: `prompt`, `chosen`, `rejected`. The reference's log-probabilities are worked out once, before the first step;
    after that no reference model is needed.

    `loss_fn(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)`, (B,) each.
    """

    config_class = DPOConfig
    loss_settings = ("loss_type", "label_smoothing", "reference_free")
    reference_columns = ("ref_chosen_logps", "ref_rejected_logps")
    shown = ("loss", "rewards/accuracies")

    def prepare_rows(self, dataset):
        rows = tokenize_preferences(dataset, self.tokenizer, self.args.max_length)
        for row in rows:
            row["length"] = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        return rows

    def row_logps(self, policy_logps, rows) -> tuple[Tensor, Tensor]:
        """log π of the chosen and of the rejected completions, (B,) each, from one forward pass over both."""
        batch = to_device(collate_preferences(rows, self.tokenizer.pad_token_id), self.accelerator.device)
        batch.pop("margin", None)
        logps = sequence_logps(policy_logps(**batch), batch["completion_mask"][:, 1:])
        return logps.chunk(2)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        ref_chosen, ref_rejected = self.reference(rows)
        chosen, rejected = self.row_logps(self.policy_logps, rows)
        loss = self.pair_loss(chosen, rejected, ref_chosen, ref_rejected, rows)
        return loss, pair_metrics(chosen, rejected, ref_chosen, ref_rejected, self.args.beta)

    def pair_loss(self, chosen, rejected, ref_chosen, ref_rejected, rows) -> Tensor:
        """The learner's loss, or the one that the settings name."""
        lengths = [torch.tensor([len(row[f"{c}_ids"]) for row in rows]) for c in ("chosen", "rejected")]
        return pair_loss((chosen, rejected, ref_chosen, ref_rejected), lengths, self.args, self.loss_fn)


def pair_loss(logps: Sequence[Tensor], lengths: Sequence[Tensor], args: DPOConfig, loss_fn: Callable | None) -> Tensor:
    """The learner's loss, IPO on averages, or a member of DPO's family.

    Args:
        logps: the four log-probabilities of a pair, in the losses' order, (B,) each.
        lengths: tokens of the chosen and of the rejected completions, (B,) each; IPO alone asks for them.
    """
    if loss_fn is not None:
        return loss_fn(*logps, args.beta)
    if args.loss_type == "ipo":
        chosen_lengths, rejected_lengths = (tokens.to(logps[0].device) for tokens in lengths)
        return ipo_loss(*logps, args.beta, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    return dpo_loss(
        *logps,
        args.beta,
        loss_type=args.loss_type,
        label_smoothing=args.label_smoothing,
        reference_free=args.reference_free,
    )


def pair_metrics(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> dict[str, Tensor]:
    """Means of the implicit rewards and log-probabilities of some pairs, under TRL's names."""
    chosen_rewards = beta * (chosen - ref_chosen).detach()
    rejected_rewards = beta * (rejected - ref_rejected).detach()
    return {
        "rewards/chosen": chosen_rewards.mean(),
        "rewards/rejected": rejected_rewards.mean(),
        "rewards/margins": (chosen_rewards - rejected_rewards).mean(),
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float().mean(),
        "logps/chosen": chosen.detach().mean(),
        "logps/rejected": rejected.detach().mean(),
    }
