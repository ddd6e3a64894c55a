"""Rows of text, their token ids, and padded batches. The small world lives in `rlhf_course.data.world`."""

from rlhf_course.data.collators import collate_preferences, collate_prompts, collate_sft
from rlhf_course.data.preferences import (
    load_preferences,
    load_rows,
    preference_rows,
    split_train_eval,
    tokenize_preferences,
    unpair_preferences,
)
from rlhf_course.data.rows import Rows
from rlhf_course.data.tokenize import encode_prompt, encode_prompt_completion, tokenize_prompts, tokenize_sft

__all__ = [
    "Rows",
    "collate_preferences",
    "collate_prompts",
    "collate_sft",
    "encode_prompt",
    "encode_prompt_completion",
    "load_preferences",
    "load_rows",
    "preference_rows",
    "split_train_eval",
    "tokenize_preferences",
    "tokenize_prompts",
    "tokenize_sft",
    "unpair_preferences",
]
