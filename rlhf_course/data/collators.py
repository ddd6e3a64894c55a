"""From tokenised rows to padded batches.

Masks come from the rows' lengths, never from `input_ids != pad`: many tokenizers pad with their
end-of-sequence token, and such a mask would drop the end of every answer. Rows are padded to the longest of
their batch.

Shapes: B rows, L tokens. All tensors are int64 on the CPU unless said otherwise.
"""

from typing import Any

import torch
from torch import Tensor

from rlhf_course.data.tokenize import required

Row = dict[str, Any]


def collate_sft(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    """Prompts and their completions, padded on the right.

    Args:
        rows: dicts with `prompt_ids` and `completion_ids`, lists of integers, as `tokenize_sft` gives them.
        pad_token_id: fills up the short rows. Any token will do.

    Returns:
        `input_ids`, `attention_mask` (1 on real tokens) and `completion_mask` (1 on the completion, its end
        included), each (B, L).
    """
    return _pad_right(
        [(required(row, "prompt_ids"), required(row, "completion_ids")) for row in _some(rows)], pad_token_id
    )


def collate_preferences(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    """All chosen completions, then all rejected ones, each behind its prompt, padded on the right.

    Args:
        rows: dicts with `prompt_ids`, `chosen_ids` and `rejected_ids`, as `tokenize_preferences` gives them;
            optionally all with a number `margin`.
        pad_token_id: fills up the short rows. Any token will do.

    Returns:
        `input_ids`, `attention_mask` and `completion_mask`, each (2B, L): row i is chosen and row B + i
        rejected for the same prompt (TRL's layout, one forward pass for both). `margin`, float32 (B,), if the
        rows have one.
    """
    pairs = [
        (required(row, "prompt_ids"), required(row, column))
        for column in ("chosen_ids", "rejected_ids")
        for row in _some(rows)
    ]
    batch = _pad_right(pairs, pad_token_id)
    with_margin = sum("margin" in row for row in rows)
    if with_margin not in (0, len(rows)):
        raise ValueError(f"either all rows or none must have a margin, got {with_margin} of {len(rows)}")
    if with_margin:
        batch["margin"] = torch.tensor([float(row["margin"]) for row in rows])
    return batch


def collate_prompts(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    """Prompts padded on the left, so that every completion starts in the same column.

    Args:
        rows: dicts with `prompt_ids`, as `tokenize_prompts` gives them.
        pad_token_id: fills up the short rows. Any token will do.

    Returns:
        `input_ids` and `attention_mask`, each (B, L).
    """
    prompts = [required(row, "prompt_ids") for row in _some(rows)]
    input_ids = torch.full((len(prompts), max(map(len, prompts))), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, ids in enumerate(prompts):
        if not ids:
            raise ValueError(f"prompt_ids of row {i} is empty: there is nothing to continue")
        input_ids[i, -len(ids) :] = torch.tensor(ids)
        attention_mask[i, -len(ids) :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _pad_right(pairs: list[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids = torch.full((len(pairs), longest), pad_token_id, dtype=torch.int64)
    attention_mask, completion_mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    for i, (prompt, completion) in enumerate(pairs):
        if not completion:
            raise ValueError(f"row {i} has an empty completion; at least its end-of-sequence token is expected")
        end = len(prompt) + len(completion)
        input_ids[i, :end] = torch.tensor([*prompt, *completion])
        attention_mask[i, :end] = 1
        completion_mask[i, len(prompt) : end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}


def _some(rows: list[Row]) -> list[Row]:
    if not rows:
        raise ValueError("rows must hold at least one row: there is no empty batch")
    return rows
