"""Every exercise of the course: the stub, right answers in several spellings, and every listed mistake."""

import inspect

import pytest
from right_answers import RIGHT_ANSWERS
from torch import Tensor

from rlhf_course.learn.catalogue import exercises
from rlhf_course.learn.grading import NotAttempted, grade

IDS = list(exercises())
MISTAKES = [(id, mistake) for id, exercise in exercises().items() for mistake in exercise.mistakes]


def stub(*args):
    raise NotAttempted


@pytest.mark.parametrize("id", IDS)
def test_a_stub_is_not_attempted(id):
    result = grade(id, stub)
    assert (result.outcome, result.passed) == ("not attempted", 0)
    assert result.message == f"○ {id}: not attempted yet"


@pytest.mark.parametrize("id", IDS)
def test_the_reference_and_the_shown_solution_pass(id):
    exercise = exercises()[id]
    for function in (exercise.reference, exercise.solution):
        result = grade(id, function)
        assert result.outcome == "passed", result.message
        assert result.message == f"✓ {id}: {result.total} of {result.total} checks"


@pytest.mark.parametrize("id", IDS)
def test_right_answers_pass_however_they_are_written(id):
    assert len(RIGHT_ANSWERS[id]) >= 2
    for function in RIGHT_ANSWERS[id]:
        result = grade(id, function)
        assert result.outcome == "passed", f"{function.__name__}: {result.message}"


@pytest.mark.parametrize(("id", "mistake"), MISTAKES, ids=[f"{id}: {m.name}" for id, m in MISTAKES])
def test_every_mistake_fails_with_its_own_message(id, mistake):
    result = grade(id, mistake.function)
    assert result.outcome in ("failed", "raised")
    assert result.passed < result.total
    assert result.mistake == mistake.name, result.message
    assert mistake.message in " ".join(result.message.split())


@pytest.mark.parametrize("id", IDS)
def test_an_exercise_is_complete(id):
    exercise = exercises()[id]
    assert len(exercise.mistakes) >= 4
    assert len({mistake.message for mistake in exercise.mistakes}) == len(exercise.mistakes)
    assert 2 <= len(exercise.hints) <= 4
    assert len(exercise.reason) > 80
    assert len(exercise.make_cases()) >= 4
    assert exercise.name == exercise.solution.__name__ == id.split(".")[1]
    assert len(inspect.getsource(exercise.solution).splitlines()) <= 15


@pytest.mark.parametrize("id", IDS)
def test_grading_is_deterministic(id):
    mistake = exercises()[id].mistakes[0]
    assert grade(id, mistake.function).message == grade(id, mistake.function).message


@pytest.mark.parametrize("id", IDS)
def test_changing_the_inputs_in_place_fails(id):
    exercise = exercises()[id]

    def spoils_its_inputs(*args):
        result = exercise.solution(*args)
        for arg in args:
            if hasattr(arg, "zero_") and not arg.requires_grad:
                arg.zero_()
            elif isinstance(arg, list):
                arg.clear()
        return result

    if not any(isinstance(arg, list | Tensor) for arg in exercise.make_cases()[0].args):
        pytest.skip("its inputs cannot be changed")
    result = grade(id, spoils_its_inputs)
    assert result.outcome == "failed"
    assert "never in place" in result.message


@pytest.mark.parametrize("id", [id for id in IDS if exercises()[id].differentiate])
def test_a_detached_value_fails(id):
    result = grade(id, lambda *args: exercises()[id].solution(*args).detach())
    assert result.outcome == "failed"
    assert "is 0 everywhere" in result.message
