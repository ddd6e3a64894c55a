"""Comparisons for a chat model: from any source, drawn whole, in three parts that share no prompt."""

import os
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from rlhf_course.capstone.settings import Settings
from rlhf_course.data import Rows, load_preferences, tokenize_preferences
from rlhf_course.data.tokenize import Messages
from rlhf_course.seeding import numpy_stream

#: The comparisons, by their name on the Hub, and the environment variable that names others: a file, or another name.
DATA = "trl-lib/ultrafeedback_binarized"
DATA_VARIABLE = "RLHF_COURSE_PREFERENCES"


class Pairs(NamedTuple):
    """Comparisons in three parts that share no prompt: for DPO, for the judge, and for neither."""

    train: Rows
    judge: Rows
    held_out: Rows


def load_rows() -> Rows:
    """The comparisons of `DATA`, or of what `RLHF_COURSE_PREFERENCES` names.

    Raises:
        OSError: where they cannot be had, with what to do about it, in one sentence.
    """
    named = os.environ.get(DATA_VARIABLE)
    try:
        return load_preferences(named or DATA)
    except OSError as error:
        advice = f"{DATA_VARIABLE} names it" if named else f"connect to it, or let {DATA_VARIABLE} name a file"
        raise OSError(f"{error} ({advice})") from None


def choose_pairs(rows: Sequence[dict[str, Any]], tokenizer, settings: Settings, seed: int = 0) -> Pairs:
    """Draw the comparisons of a run, as chat messages and token ids, one for each prompt.

    Only comparisons that fit into `max_length` whole are drawn: an answer whose end was cut away is judged by a
    beginning that nobody compared.

    Raises:
        ValueError: where too few are left.
    """
    sizes = (settings.train_pairs, settings.judge_pairs, settings.held_out_pairs)
    chosen, seen = Rows(), set()
    for place in numpy_stream(seed, "capstone pairs").permutation(len(rows)):
        row = as_chat(rows[place])
        if (asked := question(row["prompt"])) in seen:
            continue
        # A token more than fits: what is cut to that length was too long.
        for pair in tokenize_preferences([row], tokenizer, settings.max_length + 1):  # one, or none
            longest = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
            if len(pair["prompt_ids"]) + longest <= settings.max_length:
                chosen.append(pair)
                seen.add(asked)
        if len(chosen) == sum(sizes):
            break
    else:
        raise ValueError(
            f"{sum(sizes)} comparisons of at most {settings.max_length} tokens are wanted, there are {len(chosen)}: "
            "raise max_length, or lower train_pairs, judge_pairs and held_out_pairs"
        )
    ends = [0, *accumulate(sizes)]
    return Pairs(*(Rows(chosen[start:end]) for start, end in pairwise(ends)))


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    """A comparison as one of chat messages, the form a chat model was trained in.

    `Human:` and `Assistant:` turns become messages of their own, `instruction` and `input` the message of a user.
    """
    if not isinstance(row["prompt"], str):
        return row
    asked, *turns = re.split(r"\n\n(Human|Assistant):", row["prompt"])
    if "instruction" in row:
        asked = "\n\n".join(text for text in (row["instruction"], row.get("input")) if text)
    roles = {"Human": "user", "Assistant": "assistant"}
    prompt = [_message(roles[who], text) for who, text in zip(turns[::2], turns[1::2]) if text.strip()]
    answers = {name: [_message("assistant", row[name])] for name in ("chosen", "rejected")}
    return {**row, "prompt": prompt or [_message("user", asked)], **answers}


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text.strip()}


def question(prompt: Messages) -> str:
    """What a prompt asks last, to show it or to look it up."""
    return prompt[-1]["content"]
