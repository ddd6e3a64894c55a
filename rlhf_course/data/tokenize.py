"""From text to token ids, with the boundary between prompt and completion in the right place.

A text is a string, or a list of chat messages (`{"role": …, "content": …}`), which the tokenizer's own chat
template writes out.
"""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf_course._checks import check_count
from rlhf_course.data.rows import Rows, dropped_before

Messages = list[dict[str, str]]

#: Why tokenising leaves a row out.
TOO_LONG = "no completion token within max_length"
PROMPT_TOO_LONG = "the prompt is longer than max_length"


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages) -> list[int]:
    """The ids of a prompt that waits for its completion: the first half of `encode_prompt_completion`.

    Chat messages get the template's opening of the assistant's turn.
    """
    if is_messages("prompt", prompt):
        return _encode(tokenizer, _render(tokenizer, prompt, add_generation_prompt=True))
    return _with_bos(tokenizer, _encode(tokenizer, prompt))


def encode_prompt_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, completion: str | Messages, ended: bool = True
) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of its completion, which ends in exactly one end-of-sequence token if it `ended`.

    The two texts are encoded joined, as a model saw text in pre-training: in most vocabularies " yes" is one
    token inside a sentence. Where the tokenizer merges letters across the boundary, so that the joined ids do
    not begin with the prompt's, the two are encoded one by one: a prompt must get the same ids whatever
    answer follows.

    Args:
        tokenizer: any tokenizer of transformers with an end-of-sequence token. If it starts texts with a BOS
            token, the prompt gets one, and no second one if its text has it already.
        prompt: a string, or chat messages (with the template's opening of the assistant's turn after them).
        completion: of the prompt's kind; chat messages must end with one of role "assistant".
        ended: False for a text that was cut off: it gets no end-of-sequence token, unless it would be empty.

    Returns:
        (prompt_ids, completion_ids), two lists of integers. `prompt_ids` equals `encode_prompt(...)`.

    Raises:
        TypeError: if one is a string and the other is not, or either is neither string nor messages.
        ValueError: for a tokenizer without an end-of-sequence token, or without a chat template where one is
            needed, or with a template that writes a prompt differently once an answer follows.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("tokenizer must have an eos_token: a completion could not be told from an unfinished one")
    chat = is_messages("prompt", prompt)
    if is_messages("completion", completion) != chat:
        kinds = ("a string", "messages")
        raise TypeError(
            f"completion must be of the prompt's kind: prompt is {kinds[chat]}, completion {kinds[not chat]}"
        )

    prompt_ids = encode_prompt(tokenizer, prompt)
    if chat:
        if not completion or completion[-1]["role"] != "assistant":
            raise ValueError("completion must end with a message of role 'assistant'")
        opening = _render(tokenizer, prompt, add_generation_prompt=True)
        whole = _render(tokenizer, [*prompt, *completion], add_generation_prompt=False)
        if not whole.startswith(opening):
            raise ValueError(
                "the tokenizer's chat template writes the prompt differently once an answer follows: "
                "write prompt and completion out as strings"
            )
        text, joined_ids = whole[len(opening) :], _encode(tokenizer, whole)
    else:
        text, joined_ids = completion, _with_bos(tokenizer, _encode(tokenizer, prompt + completion))

    boundary = len(prompt_ids)
    unmerged = joined_ids[:boundary] == prompt_ids
    completion_ids = joined_ids[boundary:] if unmerged else _encode(tokenizer, text)
    if chat and eos in completion_ids:
        # Many templates write a line break after the end of a turn. The answer ends before it.
        end = len(completion_ids) - completion_ids[::-1].index(eos)
        if not tokenizer.decode(completion_ids[end:]).strip():
            completion_ids = completion_ids[:end]
    if completion_ids[-1:] == [eos]:
        completion_ids.pop()
    if ended or not completion_ids:
        completion_ids.append(eos)
    return prompt_ids, completion_ids


def tokenize_sft(rows: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
    """Rows of `prompt` and `completion`, or of `messages` (the last one is the completion), as token ids.

    Prompt and completion are cut together, at the end, to `max_length` tokens; a row with no completion token
    left is dropped and counted.

    Returns:
        The rows, with `prompt_ids` and `completion_ids` added, lists of integers.
    """
    check_count("max_length", max_length, low=2)
    kept, dropped = [], dropped_before(rows)
    for row in rows:
        if "messages" in row and "completion" not in row:
            messages = row["messages"]
            if not is_messages("messages", messages) or not messages:
                raise TypeError(f"messages must be a list of chat messages, got {type(messages).__name__}")
            row = {**row, "prompt": messages[:-1], "completion": messages[-1:]}
        prompt, completion = required(row, "prompt"), required(row, "completion")
        prompt_ids, completion_ids = encode_prompt_completion(tokenizer, prompt, completion)
        room = max_length - len(prompt_ids)
        if room < 1:
            dropped[TOO_LONG] += 1
        else:
            kept.append({**row, "prompt_ids": prompt_ids, "completion_ids": completion_ids[:room]})
    return Rows(kept, dropped)


def tokenize_prompts(rows: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
    """Rows of `prompt` with its ids added as `prompt_ids`; other columns stay.

    A prompt of more than `max_length` tokens is dropped and counted: cut short, it would ask something else.
    """
    check_count("max_length", max_length, low=1)
    kept, dropped = [], dropped_before(rows)
    for row in rows:
        prompt_ids = encode_prompt(tokenizer, required(row, "prompt"))
        if len(prompt_ids) > max_length:
            dropped[PROMPT_TOO_LONG] += 1
        else:
            kept.append({**row, "prompt_ids": prompt_ids})
    return Rows(kept, dropped)


def is_messages(name: str, text: Any) -> bool:
    """True for chat messages, False for a string. Raises TypeError for anything else."""
    if isinstance(text, str):
        return False
    if isinstance(text, list) and all(
        isinstance(message, dict) and "role" in message and "content" in message for message in text
    ):
        return True
    raise TypeError(
        f"{name} must be a string, or a list of messages with 'role' and 'content', got {type(text).__name__}"
    )


def required(row: dict[str, Any], column: str) -> Any:
    """`row[column]`, or a ValueError that lists the columns there are."""
    if column not in row:
        raise ValueError(f"each row must have the column {column!r}, got {', '.join(map(repr, row))}")
    return row[column]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _with_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Put the BOS token in front where the tokenizer itself would, unless the text has brought it along."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == [bos]:
        return ids
    adds_bos = list(tokenizer("a").input_ids[:1]) == [bos]
    return [bos, *ids] if adds_bos else ids


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: give strings in place of chat messages")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
