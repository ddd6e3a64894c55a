"""Grading: run a function on an exercise's cases, compare it with the reference, name the mistake it makes.

A mistake is recognised by behaviour: it is the one in the catalogue that computes what the learner's function
computes, on the first case that fails and on at least half of all that fail.
"""

import copy
import inspect
import textwrap
import traceback
import warnings
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
    """What is wrong with a case: the part that differs, lines that say so, and what it raised, if that is it."""

    part: str
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
    passed = problems.count(None)
    if passed == total:
        return Grade(PASSED, passed, total, None, f"✓ {exercise.id}: {passed} of {total} checks")

    mistake = _recognise(exercise, cases, expected, got, problems)
    case, problem = next((case, problem) for case, problem in zip(cases, problems) if problem)
    if problem.error:
        kind, text = type(problem.error).__name__, (str(problem.error).splitlines() or [""])[0]
        outcome, headline = RAISED, f"! {exercise.id}: your code raised {kind}: {text}"
    else:
        outcome, headline = FAILED, f"✗ {exercise.id}: {passed} of {total} checks"
    lines = [headline, *_explanation(exercise, function, case, problem, mistake)]
    return Grade(outcome, passed, total, mistake.name if mistake else None, "\n".join(lines))


def _explanation(
    exercise: Exercise, function: Callable[..., Any], case: Case, problem: _Problem, mistake: Mistake | None
) -> list[str]:
    """The mistake's sentence, then the first failing case: inputs, expected, got, where they differ."""
    lines = textwrap.wrap(mistake.message, 96) if mistake else []
    lines.append(f"The first case that {'raised' if problem.error else 'fails'}, {case.name}:")
    lines += [f"  {line}" for line in [*_describe_inputs(exercise, case), *problem.lines]]
    if problem.error and (source := _line_that_raised(problem.error, function)):
        lines.append(f"  in the line  {source}")
    return [f"  {line}" for line in lines]


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


def _problem(expected: _Observation, got: _Observation, case: Case) -> _Problem | None:
    """What is wrong with a case, looking at the value first, then the inputs, then the gradients."""
    for part, wanted in expected.parts.items():
        if part not in got.parts:
            return _Problem(part, [f"expected  {describe(expected.parts['the value'])}"], got.error)
        found = got.parts[part]
        where = difference(wanted, found, _tolerance(case, part))
        if not where:
            continue
        if part == "the value":
            lines = [f"expected  {describe(wanted)}", f"got       {describe(found)}"]
            one_number = all(isinstance(x, Tensor) and x.ndim == 0 for x in (wanted, found))
            return _Problem(part, lines if one_number else [*lines, where])
        if part.startswith("the input"):
            return _Problem(part, [f"{part} is not what it was: work on a copy, never in place"])
        if not found.any():
            where = "is 0 everywhere: was the value detached, or made a plain number by .item()?"
        return _Problem(part, [f"the value is right; {part}:", where])
    return None


def _tolerance(case: Case, part: str) -> float | None:
    return case.tolerance if part == "the value" else None


def _explains(
    mistake: _Observation, got: _Observation, problem: _Problem, case: Case, wanted: _Observation | None = None
) -> bool:
    """Whether the mistake does what the learner's function does where that goes wrong.

    With `wanted`, the reference's observation, entries of a dict count only up to the first that is wrong.
    """
    if problem.error:
        return type(mistake.error) is type(got.error)
    if problem.part not in mistake.parts:
        return False
    tolerance = _tolerance(case, problem.part)
    made, found = mistake.parts[problem.part], got.parts[problem.part]
    if wanted and all(isinstance(value, dict) for value in (made, found)):
        names = list(wanted.parts[problem.part])
        wrong = [difference(wanted.parts[problem.part][name], found.get(name), tolerance) for name in names]
        names = names[: next((i + 1 for i, line in enumerate(wrong) if line), len(names))]
        made, found = ({name: value[name] for name in names if name in value} for value in (made, found))
    return difference(made, found, tolerance) is None


def _recognise(
    exercise: Exercise,
    cases: list[Case],
    expected: list[_Observation],
    got: list[_Observation],
    problems: list[_Problem | None],
) -> Mistake | None:
    """The mistake that explains the most failing cases; of two, the one that fails on fewer others.

    Where none explains a whole result of several entries, the one that explains its first wrong entry: a first
    attempt is often wrong in more than one way.
    """
    failing = [index for index, problem in enumerate(problems) if problem]
    best, most = {}, {}
    for mistake in exercise.mistakes:
        with warnings.catch_warnings(action="ignore"):  # what a listed mistake warns of is no affair of the learner's
            seen = [_observe(exercise, mistake.function, case) for case in cases]
        others = sum(_problem(expected[i], seen[i], cases[i]) is not None for i in range(len(cases)) if not problems[i])
        for in_part, wanted in ((False, [None] * len(cases)), (True, expected)):
            explained = [i for i in failing if _explains(seen[i], got[i], problems[i], cases[i], wanted[i])]
            if failing[0] not in explained or 2 * len(explained) < len(failing):
                continue
            score = (len(explained), -others)
            if score > most.get(in_part, (0, -len(cases))):
                best[in_part], most[in_part] = mistake, score
    return best.get(False, best.get(True))


def _argument_names(exercise: Exercise) -> list[str]:
    return list(inspect.signature(exercise.solution).parameters)


def _describe_inputs(exercise: Exercise, case: Case) -> list[str]:
    names = _argument_names(exercise)[: len(case.args)]
    width = max(map(len, names))
    return [f"{name:<{width}} = {describe(arg)}" for name, arg in zip(names, case.args)]


def _line_that_raised(error: Exception, function: Callable[..., Any]) -> str | None:
    """The learner's own line, also where the exception came from deeper inside a library."""
    filename = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return own[-1].line if own else None
