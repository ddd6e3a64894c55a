"""The lab of lesson 11, and the bill behind it, worked out by hand."""

import pytest

from rlhf_course.costs import METHODS, PARTS, PEAK, SAMPLING_USE, TRAINING_USE, Plan, cost, costs
from rlhf_course.learn.labs.cost import Cost

SMALL = Plan(prompts=100, answers_each=3, human_label=2.0, ai_label=0.5, billions=1, tokens=10, rl_answers=1_000)
TOKEN = 1e9 * 10 / 3600 * SMALL.gpu_hour  # one operation a weight on one answer, in USD times operations a second


def reading(**values):
    view = Cost()
    for name, value in values.items():
        view.widgets[name].value = value
    return view.reading.value


def test_labels_by_hand():
    """Three answers are in order after two comparisons; a model is asked twice about each."""
    assert {method: cost(method, SMALL)["labels"] for method in METHODS} == {
        "PPO": 400,
        "DPO": 400,
        "GRPO": 400,
        "RLAIF": 200,
        "GRPO, rules": 0,
    }
    assert SMALL.pairs == 300


@pytest.mark.parametrize(
    ("method", "sampled", "learnt"),
    [
        ("PPO", 1_300, 6 * 300 + (6 + 6 + 2 + 2) * 1_000),
        ("DPO", 300, 6 * 600 + 2 * 300),
        ("GRPO", 1_300, 6 * 300 + (6 + 2 + 2) * 1_000),
        ("RLAIF", 1_300, 6 * 300 + (6 + 6 + 2 + 2) * 1_000),
        ("GRPO, rules", 1_000, (6 + 2) * 1_000),
    ],
)
def test_computing_by_hand(method, sampled, learnt):
    found = cost(method, SMALL)
    assert found["sampling"] == pytest.approx(2 * sampled * TOKEN / (PEAK * SAMPLING_USE))
    assert found["training"] == pytest.approx(learnt * TOKEN / (PEAK * TRAINING_USE))


def test_a_critic_is_what_ppo_pays_more_than_grpo():
    ppo, grpo = cost("PPO", Plan()), cost("GRPO", Plan())
    assert ppo["training"] > grpo["training"] and ppo["labels"] == grpo["labels"]
    assert ppo["sampling"] == grpo["sampling"]


def test_at_the_prices_it_opens_with_labels_are_nearly_everything():
    for method in ("PPO", "DPO", "GRPO"):
        found = cost(method, Plan())
        assert found["labels"] > 0.99 * sum(found.values())


def test_long_answers_of_a_large_model_turn_the_bill_round():
    found = cost("PPO", Plan(billions=405, tokens=8_000, rl_answers=10_000_000))
    assert found["labels"] < 0.2 * sum(found.values())


def test_a_plan_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="answers_each must be at least 2"):
        Plan(answers_each=1)
    with pytest.raises(ValueError, match="gpu_hour must be at least 0"):
        Plan(gpu_hour=-1.0)
    with pytest.raises(ValueError, match="'PPO', 'DPO'"):
        cost("TRPO", Plan())


def test_the_lab_reads_every_bill_aloud_and_a_box_redraws():
    view = Cost()
    for method, parts in costs(Plan()).items():
        assert f"{method} {sum(parts[part] for part in PARTS):,.0f}" in view.reading.value
    before = bytes(view.image.value)
    view.widgets["human_label"].value = 0.05
    assert bytes(view.image.value) != before
    assert "99,621" not in view.reading.value


def test_the_lab_bears_a_plan_that_costs_nothing():
    assert "Labels are 0 % of" in reading(prompts=0, rl_answers=0)


def test_the_slider_changes_the_number_of_comparisons():
    assert "labels 33,207" in reading(answers_each=2) and "labels 265,656" in reading(answers_each=9)
