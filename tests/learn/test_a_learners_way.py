"""From a learner's keyboard into a trained model, and what a learner reads when the folder for progress is no good."""

import pytest
import torch
from torch.nn.functional import softplus

from rlhf_course.data.world import world_tokenizer
from rlhf_course.learn import check, exercise, progress, usable
from rlhf_course.learn.quiz_widget import QuizView, bank
from rlhf_course.losses import reward_loss as reference
from rlhf_course.models import RewardModel
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.trainers import RewardConfig, RewardTrainer

STEPS = 3
PAIRS = [
    {"prompt": "<bos> explain black hole . <sep>", "chosen": "it is trapped light .", "rejected": rejected}
    for rejected in ("a quasilinear .", "it is aligned atoms .", "hope that helps .", "the kernel .")
]


def exercise_of(body, calls):
    """`body` under @exercise, as in lesson 03; each call leaves a mark in `calls`."""

    @exercise("reward_model.reward_loss")
    def reward_loss(chosen_rewards, rejected_rewards):
        calls.append(len(chosen_rewards))
        return body(chosen_rewards, rejected_rewards)

    return reward_loss


def train(loss_fn):
    """The reward head's weights after a few steps on `loss_fn`."""
    args = RewardConfig(max_steps=STEPS, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True)
    model = RewardModel.from_policy(new_tiny_model(0), seed=0)
    trainer = RewardTrainer(model, args=args, train_dataset=PAIRS, processing_class=world_tokenizer(), loss_fn=loss_fn)
    trainer.train()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def unwritten(chosen, rejected):
    raise exercise.NotAttempted


def test_the_function_that_passed_is_the_one_that_trains(capsys):
    calls = []
    mine = exercise_of(lambda chosen, rejected: softplus(rejected - chosen).mean(), calls)
    check(mine)
    loss_fn = usable(mine)
    calls.clear()
    weights = train(loss_fn)
    assert calls == [len(PAIRS)] * STEPS
    assert torch.allclose(weights, train(reference), atol=1e-6)
    assert "✓ from here on your own reward_loss is used" in capsys.readouterr().out


@pytest.mark.parametrize("body", [lambda chosen, rejected: softplus(chosen - rejected).mean(), unwritten])
def test_a_function_that_does_not_pass_trains_nothing(body):
    calls = []
    loss_fn = usable(exercise_of(body, calls))
    calls.clear()
    weights = train(loss_fn)
    assert calls == []
    assert torch.equal(weights, train(reference))


# ---------------------------------------------------------------------- a folder that is no good


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A home in which nothing can be written, whoever runs this: where its folder should be there is a file."""
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path / "a file" / "home"))


def test_a_check_that_cannot_be_saved_says_so_once_and_counts(unwritable, capsys):
    mine = exercise_of(lambda chosen, rejected: softplus(rejected - chosen).mean(), [])
    check(mine)
    verdict, notice = capsys.readouterr().out.splitlines()
    assert verdict == "✓ reward_model.reward_loss: 7 of 7 checks"
    assert "Progress cannot be saved" in notice and "RLHF_COURSE_HOME" in notice
    check(mine)
    assert capsys.readouterr().out.splitlines() == [verdict]
    assert progress.has_passed("exercises", "reward_model.reward_loss")


def answer_rightly(quiz_id):
    view = QuizView(bank()[quiz_id])
    view.choice.value = next(number for number, option in view.question.numbered.items() if option.correct)
    view.button.click()
    return view.feedback.value


def test_a_quiz_that_cannot_be_saved_says_so_under_its_answer(unwritable):
    feedback = answer_rightly("reward_model.shift")
    assert "✓ Right" in feedback
    assert "Progress cannot be saved" in feedback
    assert progress.has_passed("quizzes", "reward_model.shift")


def test_a_damaged_file_is_mentioned_under_the_check_and_kept(home, capsys):
    home.mkdir()
    (home / "progress.json").write_text('{"exercises": {"sft.sft_loss": {"passed": tr')
    check(exercise_of(lambda chosen, rejected: softplus(rejected - chosen).mean(), []))
    verdict, notice = capsys.readouterr().out.splitlines()
    assert verdict.startswith("✓") and "progress.damaged-1.json" in notice
    assert (home / "progress.damaged-1.json").exists()
    assert "could not be read" not in answer_rightly("reward_model.shift")
    assert progress.has_passed("exercises", "reward_model.reward_loss")
