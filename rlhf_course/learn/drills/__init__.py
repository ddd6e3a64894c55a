"""Drills: questions whose numbers are made afresh, one module a topic, each with a list `DRILLS`."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from rlhf_course.learn.question import Question
from rlhf_course.learn.topics import TOPICS


@dataclass(frozen=True)
class Drill:
    """A question-maker: `make(stream)` draws new numbers and returns the question with its id."""

    id: str
    make: Callable[[Random], Question]

    def ask(self, stream: Random) -> Question:
        """A question with new numbers, drawn again where two options happen to read the same."""
        while True:
            question = self.make(stream)
            if len({option.text for option in question.options}) == len(question.options):
                return question


@cache
def drills() -> dict[str, Drill]:
    """Every drill of the course by its id, in the order of the lessons."""
    found = {}
    for topic in TOPICS:
        if importlib.util.find_spec(f"{__name__}.{topic}"):
            module = importlib.import_module(f"{__name__}.{topic}")
            found |= {drill.id: drill for drill in module.DRILLS}
    return found
