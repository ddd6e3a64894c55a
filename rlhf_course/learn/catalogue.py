"""What an exercise is. An author adds one by writing one `Exercise` in `exercises/<topic>.py`.

    Exercise(
        id="reward_model.reward_loss",
        reference=losses.reward_loss,     # the package's function: what is right is decided by it
        answer=reward_loss,               # a short version of it, as a learner would write it, for `solution`
        cases=reward_loss_cases,          # stream → list of Case; the first is small enough to be read
        differentiate=(0, 1),             # positions of the arguments whose gradients are compared too
        mistakes=[Mistake("reversed", lambda c, r: -logsigmoid(r - c).mean(), "Your loss falls when …")],
        hints=["the idea", …, "the line"],
        reason="why the solution is what it is",
    )

A case is one check: the value is compared with the reference's, then the gradients, then whether the inputs
are as they were. A mistake is a wrong implementation that people really write; it is recognised by what it
computes, never by how it is spelt.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Generator

from rlhf_course.learn.topics import TOPICS, unknown
from rlhf_course.seeding import torch_stream


@dataclass(frozen=True)
class Case:
    """Inputs on which a learner's function must agree with the reference.

    Attributes:
        name: what these inputs are, as it stands in a message: "a batch of one".
        args: the positional arguments.
        gradient: False leaves the gradients of this case out (where a correct formula may have none).
        tolerance: |got − expected| ≤ tolerance · (1 + |expected|) for values; None: 1e-4, or 1e-2 where
            one of the two is in half precision.
    """

    name: str
    args: tuple[Any, ...]
    gradient: bool = True
    tolerance: float | None = None


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that people really write, and the sentence that helps whoever wrote it.

    `message` points at the idea and does not give the answer away.
    """

    name: str
    function: Callable[..., Any]
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise; the module's docstring shows how one is written.

    Attributes:
        reference: decides what is right; it also runs wherever the learner has not written the function yet.
        cases: from a random stream (always the same for one exercise) to its cases.
        normalise: applied to every result before it is compared (sorting, where order does not matter).
    """

    id: str
    reference: Callable[..., Any]
    cases: Callable[[Generator], list[Case]]
    mistakes: Sequence[Mistake]
    hints: Sequence[str]
    reason: str
    answer: Callable[..., Any] | None = None
    differentiate: tuple[int, ...] = ()
    normalise: Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        """The function's name: `reward_loss` in `reward_model.reward_loss`."""
        return self.id.rsplit(".", 1)[-1]

    @property
    def solution(self) -> Callable[..., Any]:
        """The function whose source `solution` shows."""
        return self.answer or self.reference

    def make_cases(self) -> list[Case]:
        """The exercise's cases, the same ones every time."""
        return self.cases(torch_stream(0, "exercise", self.id))


@cache
def exercises() -> dict[str, Exercise]:
    """Every exercise of the course by its id, in the order of the lessons."""
    found: dict[str, Exercise] = {}
    for topic in TOPICS:
        module = f"{__package__}.exercises.{topic}"
        if importlib.util.find_spec(module):
            found |= {exercise.id: exercise for exercise in importlib.import_module(module).EXERCISES}
    return found


def find_exercise(exercise_id: str) -> Exercise:
    """The exercise with this id, or an `UnknownName` that offers the nearest ones."""
    if exercise_id not in exercises():
        raise unknown("exercise", exercise_id, exercises())
    return exercises()[exercise_id]
