"""A task whose answers a program can check: sums, to be answered in a fixed form. No reward model is needed."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_course._checks import check_choice
from rlhf_course.data.tokenize import Messages
from rlhf_course.seeding import numpy_stream

#: The only form in which an answer counts: one whole number between the two tags, and nothing after it.
_FORM = re.compile(r"(?:(?!</?answer>).)*<answer>\s*(-?\d+)\s*</answer>\s*", re.DOTALL)
_LARGEST = 12
#: What goes before each question, to show the form: it is written in no other place.
_EXAMPLE = [
    {"role": "system", "content": "You add numbers."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<answer>4</answer>"},
]


def sums(split: str) -> list[dict[str, Any]]:
    """Sums of two numbers up to 12, as `prompt` (chat messages) and `answer`, in an order drawn once.

    Every pair of numbers is in one split alone, "train" or "held_out", and a + b is in the split of b + a.
    """
    check_choice("split", split, ("train", "held_out"))
    pairs = [(a, b) for a in range(1, _LARGEST + 1) for b in range(a, _LARGEST + 1) if (a, b) != (2, 2)]
    order = numpy_stream(0, "capstone sums").permutation(len(pairs)).tolist()
    half = len(order) // 2
    both_ways = [pair for i in (order[:half] if split == "train" else order[half:]) for pair in _orders(*pairs[i])]
    order = numpy_stream(0, "capstone sums", split).permutation(len(both_ways)).tolist()
    return [_sum(*both_ways[i]) for i in order]


def _orders(a: int, b: int) -> list[tuple[int, int]]:
    return [(a, b)] if a == b else [(a, b), (b, a)]


def _sum(a: int, b: int) -> dict[str, Any]:
    return {"prompt": [*_EXAMPLE, {"role": "user", "content": f"What is {a} + {b}?"}], "answer": a + b}


def format_reward(completions: Sequence[str]) -> list[float]:
    """1 for each completion that ends in one `<answer>…</answer>` with a whole number in it, and has no other; else 0.

    Anything may be said before the tags, over several lines, and white space may follow them.
    """
    return [float(_FORM.fullmatch(completion) is not None) for completion in completions]


def correct_reward(tasks: Sequence[dict[str, Any]]) -> Callable[[Sequence[Messages], Sequence[str]], list[float]]:
    """The reward function of the tasks: 1 for a completion that has the form and the right number in it, else 0.

    Args:
        tasks: rows with `prompt` and `answer`, among them every prompt that will be asked about.
    """
    answers = {task["prompt"][-1]["content"]: task["answer"] for task in tasks}

    def correct(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
        found = [_FORM.fullmatch(completion) for completion in completions]
        wanted = [answers[prompt[-1]["content"]] for prompt in prompts]
        return [float(match is not None and int(match[1]) == answer) for match, answer in zip(found, wanted)]

    return correct
