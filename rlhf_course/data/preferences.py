"""Human (or other) comparisons as rows of `prompt`, `chosen`, `rejected`, whatever format they come in.

Formats, told apart by their columns:

* `prompt`, `chosen`, `rejected`: strings, or lists of chat messages (TRL's format);
* `chosen`, `rejected` alone, as whole lists of chat messages: the last message is the answer, the rest the
  prompt (trl-lib/ultrafeedback_binarized);
* `chosen`, `rejected` alone, as dialogues in which turns begin with "\\n\\nHuman:" and "\\n\\nAssistant:":
  split after the last "\\n\\nAssistant:" (Anthropic/hh-rlhf);
* `instruction`, `input`, `chosen`, `rejected`: the first two make the prompt.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf_course._checks import check_count, check_number
from rlhf_course._hub import hub_or_cache
from rlhf_course.data.rows import Rows, dropped_before
from rlhf_course.data.tokenize import TOO_LONG, encode_prompt_completion, is_messages, required
from rlhf_course.seeding import numpy_stream

#: Why a comparison is left out.
PROMPTS_DIFFER = "the prompts differ"
ANSWERS_EQUAL = "the two answers are equal"
EQUAL_WHEN_CUT = "the two are equal after truncation"
NO_LAST_TURN = "the dialogue does not end with the assistant's turn"

_FILES = (".json", ".jsonl", ".jsonl.gz")
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def load_preferences(name_or_path: str | Path, split: str = "train", data_dir: str | Path | None = None) -> Rows:
    """Comparisons from a file or from the Hub.

    Rows whose two prompts differ, or whose two answers are equal, say nothing about preferences: they are
    dropped and counted.

    Args:
        name_or_path: a file that ends in .json (a list of rows), .jsonl or .jsonl.gz (a row a line), or the
            name of a dataset on the Hub, such as "Anthropic/hh-rlhf".
        split: the Hub dataset's split; a file has one, "train".
        data_dir: for the Hub, the part of the dataset ("harmless-base"); for a file, the folder it is in.

    Returns:
        A list of dicts with `prompt`, `chosen`, `rejected` (and the columns they came with). Its `.report` is
        a sentence on what was dropped, `.dropped` the counts.

    Raises:
        OSError: for a file that is not there, or a dataset that cannot be reached.
        ValueError: for a damaged or empty file, or a row without the columns, with the file and the line.
    """
    return _clean(_numbered_rows(name_or_path, split, data_dir))


def load_rows(name_or_path: str | Path, split: str = "train", data_dir: str | Path | None = None) -> Rows:
    """Rows with whatever columns they have, from a file or from the Hub: arguments and errors of `load_preferences`."""
    return Rows(row for row, _ in _numbered_rows(name_or_path, split, data_dir))


def _numbered_rows(name_or_path: str | Path, split: str, data_dir: str | Path | None) -> Iterator[tuple[Any, str]]:
    """Rows, each with its place for an error."""
    source = str(name_or_path)
    path = Path(data_dir or "") / source
    if not source.endswith(_FILES) and not path.exists():
        yield from ((row, f"{source}, row {i}") for i, row in enumerate(_from_hub(source, split, data_dir), start=1))
        return
    if path.is_dir() or not source.endswith(_FILES):
        raise ValueError(f"{path} is not a file that ends in {', '.join(_FILES)}")
    if split != "train":
        raise ValueError(f"a file has one split, 'train', got split={split!r} for {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    numbered = list(_read_json(path) if source.endswith(".json") else _read_json_lines(path))
    if not numbered:
        raise ValueError(f"{path} holds no rows")
    yield from ((row, f"{path}, {place}") for place, row in numbered)


def preference_rows(rows: Iterable[dict[str, Any]], source: str = "rows") -> Rows:
    """Rows of any format above as `prompt`, `chosen`, `rejected`; what says nothing is dropped and counted.

    Args:
        rows: a list of dicts or a datasets.Dataset.
        source: what to call it in an error.
    """
    cleaned = _clean((row, f"{source}, row {i}") for i, row in enumerate(rows, start=1))
    cleaned.dropped.update(dropped_before(rows))
    return cleaned


def tokenize_preferences(rows: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
    """Rows of any format above as token ids.

    Each text, prompt with answer, is cut at its end to `max_length` tokens. Pairs that are equal then, and
    those whose prompt leaves no room, are dropped and counted.

    Returns:
        The rows, with `prompt_ids`, `chosen_ids` and `rejected_ids` added, lists of integers. An answer ends
        in the end-of-sequence token unless it was cut, here or before: a row may say in `ended`, two booleans, whether
        its chosen and its rejected answer came to their end.
    """
    check_count("max_length", max_length, low=2)
    rows = preference_rows(rows)
    kept, dropped = [], dropped_before(rows)
    for row in rows:
        chosen_ended, rejected_ended = row.get("ended", (True, True))
        prompt_ids, chosen_ids = encode_prompt_completion(tokenizer, row["prompt"], row["chosen"], chosen_ended)
        _, rejected_ids = encode_prompt_completion(tokenizer, row["prompt"], row["rejected"], rejected_ended)
        room = max_length - len(prompt_ids)
        chosen_ids, rejected_ids = chosen_ids[: max(room, 0)], rejected_ids[: max(room, 0)]
        if room < 1:
            dropped[TOO_LONG] += 1
        elif chosen_ids == rejected_ids:
            dropped[EQUAL_WHEN_CUT] += 1
        else:
            ids = {"prompt_ids": prompt_ids, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids}
            kept.append({**row, **ids})
    return Rows(kept, dropped)


def unpair_preferences(rows: Iterable[dict[str, Any]]) -> Rows:
    """Each comparison as two rows of `prompt`, `completion` and `label`, all chosen answers first: what KTO takes.

    Args:
        rows: of any format above, with or without `ended`, two booleans, whether the chosen and the rejected answer
            came to their end.
    """
    rows = preference_rows(rows)
    halves = (("chosen", True, 0), ("rejected", False, 1))
    return Rows(
        (
            {
                "prompt": row["prompt"],
                "completion": row[column],
                "label": label,
                "ended": row.get("ended", (True, True))[place],
            }
            for column, label, place in halves
            for row in rows
        ),
        rows.dropped,
    )


def split_train_eval(rows: Iterable[dict[str, Any]], eval_size: float | int = 0.1, seed: int = 0) -> tuple[Rows, Rows]:
    """Split rows so that no prompt is in both parts: held out means a question never trained on.

    Args:
        rows: rows with `prompt`.
        eval_size: a share of the rows between 0 and 1 (float), or a number of rows (int). Prompts move whole,
            so the evaluation part may get more rows, by less than the rows of one prompt.
        seed: the prompts held out are drawn by the stream `("train/eval split",)` of it.

    Returns:
        (train, eval), each in the order of `rows`.
    """
    rows = list(rows)
    if isinstance(eval_size, float):
        wanted = len(rows) * check_number("eval_size", eval_size, low=0, high=1, low_open=True, high_open=True)
    else:
        wanted = check_count("eval_size", eval_size, low=1)
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        prompt = required(row, "prompt")
        key = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
        groups.setdefault(key, []).append(i)

    by_prompt = list(groups.values())
    held_out: set[int] = set()
    for group in numpy_stream(seed, "train/eval split").permutation(len(by_prompt)):
        if len(held_out) >= wanted:
            break
        held_out.update(by_prompt[group])
    if len(held_out) == len(rows):
        raise ValueError(
            f"eval_size={eval_size} leaves nothing to train on: there are {len(rows)} rows of {len(groups)} prompts"
        )
    train = Rows(row for i, row in enumerate(rows) if i not in held_out)
    return train, Rows(row for i, row in enumerate(rows) if i in held_out)


def _clean(numbered: Iterable[tuple[Any, str]]) -> Rows:
    """From (row, its place for an error) to rows in one format."""
    rows = Rows()
    for row, place in numbered:
        try:
            outcome = _as_preference(row)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}: {error}") from None
        if isinstance(outcome, str):
            rows.dropped[outcome] += 1
        else:
            rows.append(outcome)
    return rows


def _as_preference(row: Any) -> dict[str, Any] | str:
    """The row with `prompt`, `chosen`, `rejected`, or the reason to drop it."""
    if not isinstance(row, dict):
        raise TypeError(f"a row must be a dict of columns, got {type(row).__name__}")
    chosen, rejected = required(row, "chosen"), required(row, "rejected")
    if is_messages("chosen", chosen) != is_messages("rejected", rejected):
        raise TypeError("chosen and rejected must both be strings or both messages")
    prompt = row.get("prompt")
    if prompt is None and "instruction" in row:
        prompt = _instruction_prompt(row["instruction"], row.get("input") or "")
    elif isinstance(chosen, list) and not isinstance(prompt, list):
        # Whole conversations. (A prompt given as a string beside them is their first message again.)
        if any(not messages or messages[-1]["role"] != "assistant" for messages in (chosen, rejected)):
            return NO_LAST_TURN
        prompt, other_prompt = chosen[:-1], rejected[:-1]
        chosen, rejected = chosen[-1:], rejected[-1:]
        if prompt != other_prompt:
            return PROMPTS_DIFFER
    elif prompt is None:
        if _ASSISTANT not in chosen and _ASSISTANT not in rejected:
            required(row, "prompt")
            raise ValueError("prompt must be a string or messages, got None")
        (prompt, chosen), (other_prompt, rejected) = _split_dialogue(chosen), _split_dialogue(rejected)
        if prompt != other_prompt:
            return PROMPTS_DIFFER
        if _HUMAN in chosen or _HUMAN in rejected:
            return NO_LAST_TURN
    if is_messages("prompt", prompt) != isinstance(chosen, list):
        raise TypeError("prompt and answers must all be strings or all be messages")
    if chosen == rejected:
        return ANSWERS_EQUAL
    return {**row, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _split_dialogue(text: str) -> tuple[str, str]:
    end = text.rfind(_ASSISTANT) + len(_ASSISTANT)
    return text[:end], text[end:]


def _instruction_prompt(instruction: str, extra: str) -> str:
    if not isinstance(instruction, str) or not isinstance(extra, str):
        raise TypeError("instruction and input must be strings")
    context = f"### Input:\n{extra}\n\n" if extra else ""
    return f"### Instruction:\n{instruction}\n\n{context}### Response:\n"


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of rows, got {type(rows).__name__}")
    for i, row in enumerate(rows, start=1):
        yield f"row {i}", row


def _read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: no valid JSON ({error.msg})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged after line {number} ({type(error).__name__})") from None


def _from_hub(name: str, split: str, data_dir: str | Path | None) -> Iterable[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise OSError(f"no file {name!r}, and data sets of the Hub need a package more: pip install datasets") from None
    with hub_or_cache() as online:
        try:
            return load_dataset(name, split=split, data_dir=None if data_dir is None else str(data_dir))
        except Exception as error:  # datasets raises a dozen kinds
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if not online:
                reason = "the Hub cannot be reached, and its cache here does not have it"
            raise OSError(f"no file and no data set on the Hub could be loaded as {name!r}: {reason}") from None
