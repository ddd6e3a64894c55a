"""Direct preference optimisation (Rafailov et al. 2023): train the policy on comparisons, without a reward model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_course._checks import check_choice, check_number
from rlhf_course.data.collators import collate_preferences
from rlhf_course.data.preferences import tokenize_preferences
from rlhf_course.logprobs import sequence_logps
from rlhf_course.losses.dpo import dpo_loss
from rlhf_course.losses.ipo import ipo_loss
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.sft import to_device
from rlhf_course.trainers.support import disable_dropout


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


class DPOTrainer(Trainer):
    """Raises the chosen completion's log-ratio to the reference above the rejected one's.

    Rows: `prompt`, `chosen`, `rejected`. The reference's log-probabilities are worked out once, before the first step;
    after that no reference model is needed.

    `loss_fn(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)`, (B,) each.
    """

    config_class = DPOConfig
    loss_settings = ("loss_type", "label_smoothing", "reference_free")
    shown = ("loss", "rewards/accuracies")

    def prepare_rows(self, dataset):
        rows = tokenize_preferences(dataset, self.tokenizer, self.args.max_length)
        for row in rows:
            row["length"] = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        return rows

    def setup(self):
        disable_dropout(self.model)
        self.model.to(self.accelerator.device)
        self.policy_logps = self.accelerator.prepare(CompletionLogps(self.model))
        # Until the first step, the model is its own reference.
        self.reference_logps = self.policy_logps
        if self.ref_model is not None:
            self.reference_logps = CompletionLogps(self.ref_model.to(self.accelerator.device).eval())

    @torch.no_grad()
    def precompute_reference(self) -> None:
        """Write the reference's log-probabilities into all rows. They never change, so once is enough."""
        for rows in (self.train_rows, self.eval_rows or []):
            by_length = sorted(rows, key=lambda row: row["length"])
            size = self.args.per_device_train_batch_size
            for start in range(0, len(by_length), size):
                part = by_length[start : start + size]
                with self.accelerator.autocast():  # at the policy's precision
                    chosen_logps, rejected_logps = self.pair_logps(self.reference_logps, part)
                for row, chosen, rejected in zip(part, chosen_logps.tolist(), rejected_logps.tolist()):
                    row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
        self.reference_logps = self.ref_model = None

    def pair_logps(self, policy_logps, rows) -> tuple[Tensor, Tensor]:
        """log π of the chosen and of the rejected completions, (B,) each, from one forward pass over both."""
        batch = to_device(collate_preferences(rows, self.tokenizer.pad_token_id), self.accelerator.device)
        batch.pop("margin", None)
        logps = sequence_logps(policy_logps(**batch), batch["completion_mask"][:, 1:])
        return logps.chunk(2)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        if "ref_chosen_logps" not in rows[0]:  # before the first step of all
            self.precompute_reference()
        chosen, rejected = self.pair_logps(self.policy_logps, rows)
        ref_chosen = torch.tensor([row["ref_chosen_logps"] for row in rows], device=chosen.device)
        ref_rejected = torch.tensor([row["ref_rejected_logps"] for row in rows], device=chosen.device)
        loss = self.pair_loss(chosen, rejected, ref_chosen, ref_rejected, rows)

        chosen_rewards = self.args.beta * (chosen - ref_chosen).detach()
        rejected_rewards = self.args.beta * (rejected - ref_rejected).detach()
        return loss, {
            "rewards/chosen": chosen_rewards.mean(),
            "rewards/rejected": rejected_rewards.mean(),
            "rewards/margins": (chosen_rewards - rejected_rewards).mean(),
            "rewards/accuracies": (chosen_rewards > rejected_rewards).float().mean(),
            "logps/chosen": chosen.mean(),
            "logps/rejected": rejected.mean(),
        }

    def pair_loss(self, chosen, rejected, ref_chosen, ref_rejected, rows) -> Tensor:
        """The learner's loss, IPO on averages, or a member of DPO's family."""
        args, logps = self.args, (chosen, rejected, ref_chosen, ref_rejected)
        if self.loss_fn is not None:
            return self.loss_fn(*logps, args.beta)
        if args.loss_type == "ipo":
            lengths = (
                torch.tensor([len(row[f"{c}_ids"]) for row in rows], device=chosen.device)
                for c in ("chosen", "rejected")
            )
            return ipo_loss(*logps, args.beta, **dict(zip(("chosen_lengths", "rejected_lengths"), lengths)))
        return dpo_loss(
            *logps,
            args.beta,
            loss_type=args.loss_type,
            label_smoothing=args.label_smoothing,
            reference_free=args.reference_free,
        )

    def extra_state(self):
        return {
            "reference": [
                [(row["ref_chosen_logps"], row["ref_rejected_logps"]) for row in rows if "ref_chosen_logps" in row]
                for rows in (self.train_rows, self.eval_rows or [])
            ]
        }

    def load_extra_state(self, state):
        for rows, saved in zip((self.train_rows, self.eval_rows or []), state["reference"]):
            for row, (chosen, rejected) in zip(rows, saved):
                row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
