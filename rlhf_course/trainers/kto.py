"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024): learn from thumbs up and thumbs down, without pairs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_number
from rlhf_course.data.collators import collate_sft
from rlhf_course.data.rows import Rows, dropped_before
from rlhf_course.data.tokenize import TOO_LONG, encode_prompt_completion, required
from rlhf_course.logprobs import sequence_logps
from rlhf_course.losses.kto import kto_loss
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.precomputed import PrecomputedReferenceTrainer
from rlhf_course.trainers.support import to_device


@dataclass(kw_only=True)
class KTOConfig(TrainingConfig):
    """Settings of `KTOTrainer`, under TRL's names. The defaults suit the tiny model.

    A step needs at least two rows, `per_device_train_batch_size × gradient_accumulation_steps`: its point of comparison
    is a mean over them.

    Attributes:
        beta: β, how dearly distance from the reference is paid for.
        desirable_weight: λ_D, what a completion with thumbs up counts for.
        undesirable_weight: λ_U, the same for thumbs down. With unequal numbers of the two, n_D and n_U, the paper
            (version 1) wants λ_D·n_D : λ_U·n_U between 1:1 and 4:3.
    """

    learning_rate: float = 2e-4
    warmup_steps: int = 10
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_number("beta", self.beta, low=0, low_open=True)
        check_number("desirable_weight", self.desirable_weight, low=0)
        check_number("undesirable_weight", self.undesirable_weight, low=0)
        rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if rows < 2:
            raise ValueError(
                "per_device_train_batch_size × gradient_accumulation_steps must be at least 2, got 1: KTO compares "
                "each example with a mean over its batch"
            )


class KTOTrainer(PrecomputedReferenceTrainer):
    """Raises the log-ratio of desirable completions above a common point of comparison, and lowers undesirable ones'.

    Rows: `prompt`, `completion`, `label` (true for thumbs up), and optionally `ended`, false for a completion that was
    cut off; `data.unpair_preferences` makes them of comparisons. The two kinds need not be equally many, nor belong to
    the same prompts.

    The point of comparison z estimates the policy's KL from the reference: the mean log-ratio of *mismatched*
    completions, each put behind another row's prompt. It is worked out once a step, for the whole batch and without
    gradient, so that a batch means the same however it is cut.

    `loss_fn(policy_logps, ref_logps, labels, kl, beta)`: (B,) each, labels bool, and kl one number, the mean before it
    is clamped at 0.
    """

    config_class = KTOConfig
    loss_settings = ("desirable_weight", "undesirable_weight")
    reference_columns = ("ref_logps", "ref_mismatched_logps")
    shown = ("loss", "rewards/margins")

    def prepare_rows(self, dataset):
        return tokenize_thumbs(dataset, self.tokenizer, self.args.max_length)

    # ------------------------------------------------------------------ the algorithm

    def step(self, batch) -> dict[str, Tensor]:
        """One update: the batch's point of comparison first, then the loss of its rows against it."""
        self.look_at(batch, self.micro_batches(batch))
        return super().step(batch)

    @torch.no_grad()
    def look_at(self, batch, parts: Iterable) -> None:
        """Set `kl`, the mean log-ratio of a batch's mismatched completions, and `desirable`, its share of thumbs up."""
        log_ratios = []
        for rows in parts:
            _, ref_mismatched = self.reference(rows)
            log_ratios.append(self.logps(self.policy_logps, rows, "mismatched_ids") - ref_mismatched)
        self.kl = self.accelerator.gather(torch.cat(log_ratios)).mean()
        self.desirable = sum(row["label"] for row in batch) / len(batch)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        args = self.args
        ref_logps, _ = self.reference(rows)
        logps = self.logps(self.policy_logps, rows, "completion_ids")
        labels = torch.tensor([row["label"] for row in rows], device=logps.device)
        if self.loss_fn is not None:
            loss = self.loss_fn(logps, ref_logps, labels, self.kl, args.beta)
        else:
            weights = {"desirable_weight": args.desirable_weight, "undesirable_weight": args.undesirable_weight}
            loss = kto_loss(logps, ref_logps, labels, self.kl, args.beta, **weights)
        return loss, self.metrics(logps.detach(), ref_logps, labels)

    def evaluate(self) -> dict[str, float]:
        if self.eval_rows:
            size = self.args.per_device_train_batch_size
            self.look_at(self.eval_rows, (self.eval_rows[i : i + size] for i in range(0, len(self.eval_rows), size)))
        return super().evaluate()

    # ------------------------------------------------------------------ its parts

    def logps(self, policy_logps: nn.Module, rows, column: str) -> Tensor:
        """log π of each row's "completion_ids" or "mismatched_ids" behind its prompt, (B,)."""
        pairs = [{"prompt_ids": row["prompt_ids"], "completion_ids": row[column]} for row in rows]
        batch = to_device(collate_sft(pairs, self.tokenizer.pad_token_id), self.accelerator.device)
        return sequence_logps(policy_logps(**batch), batch["completion_mask"][:, 1:])

    def row_logps(self, policy_logps, rows) -> tuple[Tensor, Tensor]:
        """log π of the rows' own and of their mismatched completions, (B,) each, from one forward pass over both."""
        own = [{**row, "row_ids": row["completion_ids"]} for row in rows]
        mismatched = [{**row, "row_ids": row["mismatched_ids"]} for row in rows]
        return self.logps(policy_logps, own + mismatched, "row_ids").chunk(2)

    def metrics(self, logps: Tensor, ref_logps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """TRL's metrics. A mean over one kind counts 0 in a batch that has none of it."""
        of_chosen = labels / max(self.desirable, 1e-9)
        of_rejected = ~labels / max(1 - self.desirable, 1e-9)
        rewards = self.args.beta * (logps - ref_logps)
        return {
            "kl": self.kl.clamp(min=0),
            "rewards/chosen": (rewards * of_chosen).mean(),
            "rewards/rejected": (rewards * of_rejected).mean(),
            "rewards/margins": (rewards * (of_chosen - of_rejected)).mean(),
            "logps/chosen": (logps * of_chosen).mean(),
            "logps/rejected": (logps * of_rejected).mean(),
        }


def tokenize_thumbs(dataset, tokenizer, max_length: int) -> Rows:
    """Rows of `prompt`, `completion` and `label` with `prompt_ids`, `completion_ids`, `mismatched_ids` and `length`.

    `mismatched_ids` is the completion of the next row that asks something else (of the next row, where all ask the
    same): never the row's own.
    """
    rows = Rows(dropped=dropped_before(dataset))
    for row in dataset:
        prompt, completion, label = (required(row, name) for name in ("prompt", "completion", "label"))
        if label not in (True, False):
            raise ValueError(f"label must be true (thumbs up) or false (thumbs down), got {label!r}")
        prompt_ids, completion_ids = encode_prompt_completion(tokenizer, prompt, completion, row.get("ended", True))
        if len(prompt_ids) >= max_length:
            rows.dropped[TOO_LONG] += 1
            continue
        ids = {"prompt_ids": prompt_ids, "completion_ids": completion_ids[: max_length - len(prompt_ids)]}
        rows.append({**row, "label": bool(label), **ids})
    if len(rows) == 1:
        raise ValueError("train_dataset must have at least two rows, got one: KTO puts each completion behind another")
    several_prompts = len({tuple(row["prompt_ids"]) for row in rows}) > 1
    for i, row in enumerate(rows):
        step = 1
        while several_prompts and rows[(i + step) % len(rows)]["prompt_ids"] == row["prompt_ids"]:
            step += 1
        other = rows[(i + step) % len(rows)]["completion_ids"]
        row["mismatched_ids"] = other[: max_length - len(row["prompt_ids"])]
        row["length"] = len(row["prompt_ids"]) + max(len(row["completion_ids"]), len(row["mismatched_ids"]))
    return rows
