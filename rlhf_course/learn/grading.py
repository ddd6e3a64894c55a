"""Grading: run a function on an exercise's cases, compare it with the reference, name the mistake it makes.

A mistake is recognised by behaviour: it is the one in the catalogue that computes what the learner's function
computes, on the first case that fails and on at least half of all that fail.
"""

import copy
import inspect
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlhf_course.learn.catalogue import Case, Exercise, Mistake, find_exercise
from rlhf_course.learn.compare import describe, difference

PASSED, FAILED, RAISED, NOT_ATTEMPTED = "passed", "failed", "raised", "not attempted"


class NotAttempted(Exception):
    """What a stub raises until its learner writes it (torch raises NotImplementedError itself)."""


@dataclass(frozen=True)
class Grade:
    """The result of a check as data.

    Attributes:
        outcome: "passed", "failed", "raised" or "not attempted".
        passed, total: how many checks hold, out of how many.
        mistake: the recognised mistake's name, or None.
        message: what `check` prints; its first line is the outcome.
    """

    outcome: str
    passed: int
    total: int
    mistake: str | None
    message: str


@dataclass
class _Observation:
    """What a function did with a case: named results in the order they are compared, or what it raised."""

    parts: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


@dataclass
class _Problem:
    """Lines that say what is wrong with a case (none where nothing is), and what it raised, if that is it."""

    lines: list[str]
    error: Exception | None = None


def grade(exercise_id: str, function: Callable[..., Any]) -> Grade:
    """Check `function` as an answer to an exercise; `check` prints what this returns.

    Args:
        exercise_id: for example "reward_model.reward_loss".
        function: called positionally. One made by `@exercise` is looked into: the learner's code is graded.

    Raises:
        UnknownName: no such exercise; the nearest ids are offered.
        TypeError: `function` cannot be called.
    """
    exercise = find_exercise(exercise_id)
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    function = getattr(function, "attempt", function)

    cases = exercise.make_cases()
    cases.append(_again(cases[0]))
    expected = [_observe(exercise, exercise.reference, case) for case in cases]
    if broken := next((seen.error for seen in expected if seen.error), None):
        raise broken
    got = [_observe(exercise, function, case) for case in cases]
    total = len(cases)
    if any(isinstance(seen.error, NotAttempted) for seen in got):
        return Grade(NOT_ATTEMPTED, 0, total, None, f"○ {exercise.id}: not attempted yet")

    problems = [_problem(*seen, case) for *seen, case in zip(expected, got, cases)]
    failing = [index for index, problem in enumerate(problems) if problem.lines]
    passed = total - len(failing)
    if not failing:
        return Grade(PASSED, passed, total, None, f"✓ {exercise.id}: {passed} of {total} checks")

    mistake = _recognise(exercise, cases, got, failing)
    first = failing[0]
    error = problems[first].error
    lines = [f"✗ {exercise.id}: {passed} of {total} checks"]
    if error:
        lines = [f"! {exercise.id}: your code raised {type(error).__name__}: {_first_line(error)}"]
    if mistake:
        lines.append(textwrap.fill(mistake.message, 100, initial_indent="  ", subsequent_indent="  "))
    lines.append(f"  The first case that {'raised' if error else 'fails'}, {cases[first].name}:")
    lines += [f"    {line}" for line in _describe_inputs(exercise, cases[first])]
    lines += [f"    {line}" for line in problems[first].lines]
    if error and (source := _line_that_raised(error, function)):
        lines.append(f"    in the line  {source}")
    name = mistake.name if mistake else None
    return Grade(RAISED if error else FAILED, passed, total, name, "\n".join(lines))


def _again(case: Case) -> Case:
    """The first case once more: the answer must not depend on earlier calls, nor on the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = tuple(arg.to(device) if isinstance(arg, Tensor) else arg for arg in case.args)
    where = " on the GPU" if device == "cuda" else ""
    return replace(case, name=f"{case.name}, once more{where}", args=args)


def _observe(exercise: Exercise, function: Callable[..., Any], case: Case) -> _Observation:
    """Run `function` on copies of the inputs: its value, what it did to the inputs, its gradients."""
    seen = _Observation()
    args = copy.deepcopy(case.args)
    try:
        seen.parts["the value"] = _normalised(exercise, function(*args))
        for name, arg in zip(_argument_names(exercise), args):
            seen.parts[f"the input {name} after the call"] = arg
        if case.gradient and exercise.differentiate:
            seen.parts |= _gradients(exercise, function, case)
    except Exception as error:
        seen.error = error
    return seen


def _normalised(exercise: Exercise, value: Any) -> Any:
    try:
        return exercise.normalise(value) if exercise.normalise else value
    except Exception:  # a result of the wrong kind is compared as it is
        return value


def _gradients(exercise: Exercise, function: Callable[..., Any], case: Case) -> dict[str, Tensor]:
    args = list(copy.deepcopy(case.args))
    leaves = {index: args[index].requires_grad_() for index in exercise.differentiate}
    value = function(*args)
    grads = [None] * len(leaves)
    if isinstance(value, Tensor) and value.requires_grad:
        weights = torch.linspace(1, 2, value.numel(), device=value.device).reshape(value.shape)
        grads = torch.autograd.grad((value * weights).sum(), list(leaves.values()), allow_unused=True)
    names = _argument_names(exercise)
    return {
        f"the gradient with respect to {names[index]}": torch.zeros_like(leaf) if grad is None else grad
        for (index, leaf), grad in zip(leaves.items(), grads)
    }


def _problem(expected: _Observation, got: _Observation, case: Case) -> _Problem:
    """What is wrong with a case, looking at the value first, then the inputs, then the gradients."""
    for part, wanted in expected.parts.items():
        if part not in got.parts:
            return _Problem([f"expected  {describe(expected.parts['the value'])}"], got.error)
        found = got.parts[part]
        where = difference(wanted, found, case.tolerance if part == "the value" else None)
        if not where:
            continue
        if part == "the value":
            lines = [f"expected  {describe(wanted)}", f"got       {describe(found)}"]
            one_number = all(isinstance(x, Tensor) and x.ndim == 0 for x in (wanted, found))
            return _Problem(lines if one_number else [*lines, where])
        if part.startswith("the input"):
            return _Problem([f"{part} is not what it was: work on a copy, never in place"])
        if not found.any():
            where = "is 0 everywhere: was the value detached, or made a plain number by .item()?"
        return _Problem([f"the value is right; {part}:", where])
    return _Problem([])


def _agree(one: _Observation, other: _Observation, tolerance: float | None) -> bool:
    if one.error or other.error:
        return type(one.error) is type(other.error)
    return not any(
        difference(value, other.parts[part], tolerance if part == "the value" else None)
        for part, value in one.parts.items()
    )


def _recognise(exercise: Exercise, cases: list[Case], got: list[_Observation], failing: list[int]) -> Mistake | None:
    best, most = None, (0, 0)
    for mistake in exercise.mistakes:
        seen = [_observe(exercise, mistake.function, case) for case in cases]
        same = [_agree(a, b, case.tolerance) for a, b, case in zip(seen, got, cases)]
        explained = sum(same[index] for index in failing)
        if same[failing[0]] and 2 * explained >= len(failing) and (explained, sum(same)) > most:
            best, most = mistake, (explained, sum(same))
    return best


def _argument_names(exercise: Exercise) -> list[str]:
    return list(inspect.signature(exercise.solution).parameters)


def _describe_inputs(exercise: Exercise, case: Case) -> list[str]:
    names = _argument_names(exercise)[: len(case.args)]
    width = max(map(len, names))
    return [f"{name:<{width}} = {describe(arg)}" for name, arg in zip(names, case.args)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _line_that_raised(error: Exception, function: Callable[..., Any]) -> str | None:
    """The learner's own line, also where the exception came from deeper inside a library."""
    filename = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return own[-1].line if own else None
