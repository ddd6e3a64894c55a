"""What offline preference methods share: a frozen reference whose log-probabilities are worked out once."""

from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers.base import Rows, Trainer
from rlhf_course.trainers.support import disable_dropout


class PrecomputedReferenceTrainer(Trainer):
    """A trainer that writes the reference's log-probabilities into its rows before the first step.

    They never change, so once is enough; after that no reference model is needed. With `ref_model` left out, the
    reference is the model as it is before the first step.
    """

    #: The columns that hold them, in the order of `row_logps`.
    reference_columns: tuple[str, ...] = ()

    def row_logps(self, policy_logps: nn.Module, rows: Rows) -> tuple[Tensor, ...]:
        """What the reference has to say about some rows: a (B,) tensor for each of the columns."""
        raise NotImplementedError

    def setup(self):
        disable_dropout(self.model)
        self.model.to(self.accelerator.device)
        self.policy_logps = self.prepared(CompletionLogps(self.model))
        # Until the first step, the model is its own reference.
        self.reference_logps = self.policy_logps
        if self.ref_model is not None:
            self.reference_logps = CompletionLogps(self.ref_model.to(self.accelerator.device).eval())

    @torch.no_grad()
    def precompute_reference(self) -> None:
        """Write the reference's log-probabilities into all rows."""
        for rows in (self.train_rows, self.eval_rows or []):
            by_length = sorted(rows, key=lambda row: row["length"])
            size = self.args.per_device_train_batch_size
            for start in range(0, len(by_length), size):
                part = by_length[start : start + size]
                with self.accelerator.autocast():  # at the policy's precision
                    columns = [logps.tolist() for logps in self.row_logps(self.reference_logps, part)]
                for row, values in zip(part, zip(*columns)):
                    row.update(zip(self.reference_columns, values))
        self.reference_logps = self.ref_model = None

    def reference(self, rows: Rows) -> list[Tensor]:
        """The reference's columns of some rows, (B,) each; all rows' are worked out when they are first asked for."""
        if self.reference_columns[0] not in rows[0]:
            self.precompute_reference()
        columns = ([row[name] for row in rows] for name in self.reference_columns)
        return [torch.tensor(column, device=self.accelerator.device) for column in columns]

    def extra_state(self) -> dict[str, Any]:
        return {
            "reference": [
                [
                    tuple(row[name] for name in self.reference_columns)
                    for row in rows
                    if self.reference_columns[0] in row
                ]
                for rows in (self.train_rows, self.eval_rows or [])
            ]
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        for rows, saved in zip((self.train_rows, self.eval_rows or []), state["reference"]):
            for row, values in zip(rows, saved):
                row.update(zip(self.reference_columns, values))
