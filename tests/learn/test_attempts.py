"""`exercise`, `check`, `hint`, `solution` and `usable`, as a learner meets them."""

import pytest
import torch
from torch.nn.functional import softplus

from rlhf_course import capstone
from rlhf_course.evaluation import wilson_interval
from rlhf_course.learn import check, exercise, grade, hint, progress, solution, usable
from rlhf_course.learn.attempt import _hints_given
from rlhf_course.learn.catalogue import exercises
from rlhf_course.learn.topics import UnknownName
from rlhf_course.losses import reward_loss as reference

CHOSEN, REJECTED = torch.tensor([3.7, 0.0]), torch.tensor([2.1, 1.0])


@exercise("reward_model.reward_loss")
def unwritten(chosen_rewards, rejected_rewards):
    """The docstring."""
    raise exercise.NotAttempted


@exercise("reward_model.reward_loss")
def wrong_sign(chosen_rewards, rejected_rewards):
    return softplus(chosen_rewards - rejected_rewards).mean()


@exercise("reward_model.reward_loss")
def right(chosen_rewards, rejected_rewards):
    return softplus(rejected_rewards - chosen_rewards).mean()


@exercise("reward_model.reward_loss")
def raising(chosen_rewards, rejected_rewards):
    gap = chosen_rewards - rejected_rewards
    return gap.no_such_method()


def test_while_unwritten_the_reference_runs(capsys):
    assert unwritten.__name__ == "unwritten"
    assert unwritten.__doc__ == "The docstring."
    assert torch.equal(unwritten(CHOSEN, REJECTED), reference(CHOSEN, REJECTED))
    check(unwritten)
    assert capsys.readouterr().out == "○ reward_model.reward_loss: not attempted yet\n"
    assert progress.load()["exercises"] == {}


def test_a_call_runs_the_learners_code_right_or_wrong():
    assert not torch.allclose(wrong_sign(CHOSEN, REJECTED), reference(CHOSEN, REJECTED))
    with pytest.raises(AttributeError):
        raising(CHOSEN, REJECTED)


def test_a_call_of_code_that_raises_names_the_exercise_and_the_way_on(capsys):
    @exercise("kl.kl_estimate")
    def calls_another(logps, ref_logps, estimator):
        return raising(logps, ref_logps)

    with pytest.raises(AttributeError, match="no_such_method"):
        calls_another(CHOSEN, REJECTED, "k1")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "! reward_model.reward_loss: this cell calls your code, and it raised AttributeError."
    assert "put `raise exercise.NotAttempted` above your code" in rest[0]
    assert len(rest) == 2, "told once, where it raised"


def test_a_call_of_code_that_returns_nothing_stops_at_once_and_not_in_the_lessons_own_code(capsys):
    @exercise("reward_model.reward_loss")
    def nothing(chosen_rewards, rejected_rewards):
        pass

    with pytest.raises(TypeError, match="nothing returned None: is there a `return`"):
        nothing(CHOSEN, REJECTED)
    assert capsys.readouterr().out.startswith("! reward_model.reward_loss: this cell calls your code, ")
    check(nothing)
    assert "it returned None" in capsys.readouterr().out


def test_no_exercise_asks_for_none():
    for entry in exercises().values():
        assert all(entry.reference(*case.args) is not None for case in entry.make_cases()), entry.id


def test_training_uses_the_learners_function_once_it_passes(capsys):
    assert usable(right) is right.attempt
    assert "your own right is used" in capsys.readouterr().out
    for function, state in (
        (unwritten, "is not written"),
        (wrong_sign, "does not pass"),
        (raising, "not pass"),
    ):
        assert usable(function) is reference
        line = capsys.readouterr().out
        assert state in line
        assert line.count("\n") == 1
    with pytest.raises(TypeError, match="@exercise"):
        usable(softplus)


def test_the_wrong_sign_is_told_as_an_idea(capsys):
    check(wrong_sign)
    first, idea, *rest = capsys.readouterr().out.splitlines()
    assert first == "✗ reward_model.reward_loss: 0 of 7 checks"
    assert "falls when the rejected answer scores higher" in idea
    text = "\n".join(rest)
    assert "chosen_rewards   = [3.7, 1]  (shape (2,), float32)" in text
    assert "expected  0.578989" in text
    assert progress.load()["exercises"]["reward_model.reward_loss"] == {"passed": False, "attempts": 1}


def test_code_that_raises_is_shown_with_its_inputs_and_line(capsys):
    check(raising)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("! reward_model.reward_loss: your code raised AttributeError: 'Tensor' object")
    text = "\n".join(rest)
    assert "rejected_rewards = [2.1, 1.5]" in text
    assert "in the line  return gap.no_such_method()" in text


def test_a_pass_is_remembered(capsys):
    check(right)
    assert capsys.readouterr().out == "✓ reward_model.reward_loss: 7 of 7 checks\n"
    assert progress.has_passed("exercises", "reward_model.reward_loss")


@pytest.mark.parametrize(
    ("id", "function", "mistake"),
    [
        ("reward_model.reward_loss", lambda c, r: -(r - c).sigmoid().log().mean(), "reversed"),
        ("reward_model.reward_loss", lambda c, r: (c - r).sigmoid().log().mean(), "missing minus"),
        ("reward_model.reward_loss", lambda c, r: (1 + (r - c).exp()).log().mean(), "logarithm of a sigmoid"),
        ("reward_model.preference_probability", lambda c, r: 1 / (1 + (c - r).exp()), "reversed"),
        ("reward_model.last_token_index", lambda mask: mask.int().argmax(-1), "first real token"),
        ("sft.sft_loss", lambda logps, mask: -(logps * mask).mean(), "mean over padding"),
        ("sft.sft_loss", lambda logps, mask: (logps * mask).sum() / mask.sum(), "sign"),
        (
            "sft.selective_log_softmax",
            lambda x, ids: x.softmax(-1).log().gather(-1, ids[..., None])[..., 0],
            "logarithm of a softmax",
        ),
    ],
)
def test_a_mistake_is_recognised_however_it_is_spelt(id, function, mistake):
    assert grade(id, function).mistake == mistake


def test_of_several_mistakes_in_one_result_the_first_is_named():
    def rate_for_wins_and_characters(before, after, judge, prompts):
        old, new = [before(prompt) for prompt in prompts], [after(prompt) for prompt in prompts]
        rate = sum(judge(*b) > judge(*a) for a, b in zip(zip(prompts, old), zip(prompts, new))) / len(prompts)
        low, high = wilson_interval(rate, len(prompts))
        return {"win_rate": rate, "low": low, "high": high, "n": len(prompts), "length_before": 1, "length_after": 1}

    result = grade("capstone.evaluate", rate_for_wins_and_characters)
    assert result.mistake == "a rate in place of wins"
    assert "key 'low'" in result.message


def test_an_entry_of_the_wrong_kind_is_named():
    result = grade("capstone.evaluate", lambda *args: dict(capstone.evaluate(*args), low=(0.3, 0.9)))
    assert "key 'low': expected a number, got tuple" in result.message


def test_what_the_listed_mistakes_warn_of_is_not_shown(recwarn, capfd):
    def double(scores, method, weight):
        return 2 * scores.mean(dim=0)

    def nothing_learnt(distance, gold, method):
        return 0.0, 0.0

    assert grade("overoptimization.ensemble_reward", double).outcome == "failed"
    assert grade("overoptimization.fit_overoptimization", nothing_learnt).outcome == "failed"
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_an_unlisted_wrong_answer_fails_with_the_values():
    result = grade("reward_model.reward_loss", lambda c, r: ((c - r) ** 3).mean())
    assert (result.outcome, result.mistake) == ("failed", None)
    assert "expected  0.578989" in result.message
    assert "got       1.9855" in result.message


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda c, r: None, "returned None"),
        (lambda c, r: [1.0], "expected a tensor, got list"),
        (lambda c, r: c.min(dim=0), "take its .values"),
        (lambda c, r: c - r, "expected shape (), got (2,)"),
        (lambda c, r: reference(c, r).item(), "the value is right; the gradient"),
    ],
)
def test_results_of_the_wrong_kind_are_named(function, text):
    result = grade("reward_model.reward_loss", function)
    assert result.outcome == "failed"
    assert text in result.message


def test_a_real_not_implemented_error_is_not_taken_for_a_stub():
    def raises(c, r):
        raise NotImplementedError("torch has no kernel for this")

    assert grade("reward_model.reward_loss", raises).outcome == "raised"


def test_an_answer_that_depends_on_earlier_calls_fails():
    calls = []

    def remembers(c, r):
        calls.append(1)
        return reference(c, r) + (0 if len(calls) < 12 else 1)

    result = grade("reward_model.reward_loss", remembers)
    assert result.outcome == "failed"
    assert "once more" in result.message


@pytest.mark.parametrize(("thing", "text"), [(3, "got int"), (None, "got NoneType"), (softplus, "no @exercise")])
def test_check_on_something_else_says_what_it_takes(thing, text, capsys):
    check(thing)
    out = capsys.readouterr().out
    assert text in out
    assert out.count("\n") == 1


def test_hints_go_from_the_idea_to_the_line(capsys):
    _hints_given.clear()
    for number in (1, 2, 3, 4, 1):
        hint("reward_model.reward_loss")
        out = capsys.readouterr().out
        assert out.startswith(f"Hint {number} of 4: ")
        assert ("last one" in out) == (number == 4)


def test_the_solution_comes_with_its_reason(capsys):
    solution("reward_model.reward_loss")
    out = capsys.readouterr().out
    assert out.startswith("def reward_loss(chosen_rewards, rejected_rewards):")
    assert "Why: The votes' likelihood" in out


def test_an_unknown_id_offers_the_nearest(capsys):
    with pytest.raises(UnknownName, match=r"Did you mean 'reward_model\.reward_loss'"):
        exercise("reward_model.reward_los")
    with pytest.raises(UnknownName, match=r"sft\.sft_loss"):
        grade("sft_loss", reference)
    with pytest.raises(TypeError, match="takes an id"):
        exercise(reference)
    for function in (hint, solution):
        function("dpo.reward_loss")
        assert "reward_model.reward_loss" in capsys.readouterr().out
    with pytest.raises(TypeError, match="callable"):
        grade("reward_model.reward_loss", 3)
