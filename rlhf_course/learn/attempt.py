"""The learner's side of an exercise: write it under `@exercise`, then `check`, `hint`, `solution`.

**Whose code runs?** One rule, without exceptions to remember:

- *Calling* the function runs what the learner wrote, right or wrong. While the stub still raises
  `exercise.NotAttempted`, the course's reference runs in its place, so that Run All reaches the end. Code that raises,
  or returns nothing, stops the cell that calls it, and a printed line names the exercise and the way on.
- *Training* a model with it goes through `usable(function)`: the learner's own function once it passes its
  checks, the reference until then. One printed line says which of the two it is.
"""

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from rlhf_course.learn import progress
from rlhf_course.learn.catalogue import find_exercise
from rlhf_course.learn.grading import NOT_ATTEMPTED, PASSED, NotAttempted, grade
from rlhf_course.learn.topics import UnknownName

_hints_given: dict[str, int] = {}


def exercise(exercise_id: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as the answer to an exercise.

    The marked function carries `exercise_id` and, as `attempt`, the function as it was written.

    Raises:
        UnknownName: no such exercise; the nearest ids are offered.
        TypeError: written without an id.
    """
    if not isinstance(exercise_id, str):
        raise TypeError('exercise takes an id: @exercise("topic.name")')
    reference = find_exercise(exercise_id).reference

    def mark(attempt: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(attempt)
        def function(*args, **kwargs):
            __tracebackhide__ = True  # IPython shows the calling cell and the learner's line, and not this
            try:
                found = attempt(*args, **kwargs)
                if found is None:  # never right; left alone, it would raise somewhere in the lesson's own code
                    raise TypeError(f"{attempt.__name__} returned None: is there a `return` on every path?")
                return found
            except NotAttempted:
                return reference(*args, **kwargs)
            except Exception as error:
                _tell_the_way_on(exercise_id, error)
                raise

        function.exercise_id = exercise_id
        function.attempt = attempt
        return function

    return mark


#: A stub reads `raise exercise.NotAttempted`: there is nothing more to import.
exercise.NotAttempted = NotAttempted


def check(function: Callable[..., Any]) -> None:
    """Check an exercise's function and print how it went, the outcome in the first line."""
    if problem := _not_an_exercise(function):
        print(problem)
        return
    result = grade(function.exercise_id, function)
    print(result.message)
    if result.outcome == NOT_ATTEMPTED:
        return
    notice = progress.record_exercise(function.exercise_id, passed=result.outcome == PASSED)
    if notice:
        print(notice)


def usable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function to train with: the learner's own if it passes its checks, else the course's reference.

    Prints one line that says which. Lessons write `RewardTrainer(…, loss_fn=usable(reward_loss))`.
    """
    if problem := _not_an_exercise(function):
        raise TypeError(problem)
    result = grade(function.exercise_id, function)
    if result.outcome == PASSED:
        print(f"✓ from here on your own {function.__name__} is used")
        return function.attempt
    state = "is not written yet" if result.outcome == NOT_ATTEMPTED else "does not pass its checks yet"
    print(f"○ your {function.__name__} {state}: the course's own version is used")
    return find_exercise(function.exercise_id).reference


def hint(exercise_id: str) -> None:
    """Print the next hint, from the idea towards the line. After the last one they start again."""
    try:
        hints = find_exercise(exercise_id).hints
    except UnknownName as error:
        print(error)
        return
    given = _hints_given.get(exercise_id, 0) % len(hints)
    _hints_given[exercise_id] = given + 1
    print(f"Hint {given + 1} of {len(hints)}: {hints[given]}")
    if given + 1 == len(hints):
        print(f'That was the last one. solution("{exercise_id}") shows the answer and its reason.')


def solution(exercise_id: str) -> None:
    """Print an answer to the exercise and the reason it is so."""
    try:
        found = find_exercise(exercise_id)
    except UnknownName as error:
        print(error)
        return
    print(textwrap.dedent(inspect.getsource(found.solution)))
    print(textwrap.fill(f"Why: {found.reason}", width=100))


def _tell_the_way_on(exercise_id: str, error: Exception) -> None:
    """Print whose code stops this cell, and how to go on: once, though one exercise may call another."""
    if not getattr(error, "way_on_told", False):
        error.way_on_told = True
        print(f"! {exercise_id}: this cell calls your code, and it raised {type(error).__name__}.")
        print("  Repair it, run its cell again, then this one. Or put `raise exercise.NotAttempted` above your code:")
        print("  the course's own version then runs in its place.")


def _not_an_exercise(function: Any) -> str | None:
    if hasattr(function, "exercise_id"):
        return None
    if callable(function):
        name = getattr(function, "__name__", "this function")
        return f'{name} has no @exercise("…") above its def: run the cell that defines it, then check again.'
    kind = type(function).__name__
    return f"check takes the function that stands under @exercise, without brackets; got {kind}."
