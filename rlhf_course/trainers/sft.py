"""Supervised fine-tuning (InstructGPT, stage 1), and pre-training, which is the same loss on every token."""

from dataclasses import dataclass

from torch import Tensor

from rlhf_course._checks import check_count
from rlhf_course.data.collators import collate_sft
from rlhf_course.data.rows import Rows
from rlhf_course.data.tokenize import tokenize_sft
from rlhf_course.losses.sft import sft_loss
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.support import to_device


@dataclass(kw_only=True)
class SFTConfig(TrainingConfig):
    """Settings of `SFTTrainer`. The defaults suit the tiny model; for a real one lower the learning rate.

    Attributes:
        packing: the rows are plain `text`: join them all and cut blocks of `max_length`, every token of which is
            trained on. This is pre-training.
    """

    per_device_train_batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    packing: bool = False


class SFTTrainer(Trainer):
    """Makes demonstrated completions likely.

    Rows: `prompt` and `completion`, or chat `messages`; with `packing`, `text`.
    `loss_fn(logps, mask)` takes log-probabilities and mask, both (B, T).
    """

    config_class = SFTConfig

    def prepare_rows(self, dataset):
        if self.args.packing:
            return pack(dataset, self.tokenizer, self.args.max_length)
        rows = tokenize_sft(dataset, self.tokenizer, self.args.max_length)
        for row in rows:
            row["length"] = len(row["prompt_ids"]) + len(row["completion_ids"])
        return rows

    def setup(self):
        self.model.to(self.accelerator.device)
        self.policy_logps = self.prepared(CompletionLogps(self.model))
        self.loss_fn = self.loss_fn or sft_loss

    def num_items(self, rows) -> int:
        """Completion tokens that have something before them: the loss is their mean."""
        return sum(len(row["completion_ids"]) - (not row["prompt_ids"]) for row in rows)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        batch = to_device(collate_sft(rows, self.tokenizer.pad_token_id), self.accelerator.device)
        logps = self.policy_logps(**batch)
        return self.loss_fn(logps, batch["completion_mask"][:, 1:]), {}


def pack(dataset, tokenizer, max_length: int) -> Rows:
    """Join `text` rows into one stream of tokens and cut it into blocks of `max_length`; the rest is left out."""
    check_count("max_length", max_length, low=2)
    stream = [
        token for row in dataset for token in tokenizer(row["text"], add_special_tokens=False, verbose=False).input_ids
    ]
    if len(stream) < max_length:
        raise ValueError(
            f"the texts must fill a block of max_length={max_length} tokens, got {len(stream)} tokens in all"
        )
    starts = range(0, len(stream) - max_length + 1, max_length)
    return Rows({"prompt_ids": [], "completion_ids": stream[i : i + max_length], "length": max_length} for i in starts)
