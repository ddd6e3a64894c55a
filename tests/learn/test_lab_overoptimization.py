"""The lab of lesson 10 over stored runs: every control moves its own panel, and the sentence says what is drawn."""

import pytest

from rlhf_course.learn.labs.overoptimization import LAB


@pytest.fixture(scope="module")
def view():
    return LAB()


@pytest.mark.parametrize(
    ("control", "value", "says"),
    [
        ("beta", 0.1, "PPO at β = 0.1"),
        ("n", 16, "Best of 16"),
        ("rankings", 5_000, "GRPO, 5,000 rankings"),
        ("members", 2, "2 noisy judges"),
    ],
)
def test_a_control_draws_another_figure(view, control, value, says):
    before = bytes(view.image.value)
    view.widgets[control].value = value
    assert bytes(view.image.value) != before
    assert says in view.reading.value


def test_without_a_price_gold_turns_and_at_a_tenth_it_does_not(view):
    view.widgets["beta"].value = 0.0
    assert "PPO at β = 0, mean of three seeds" in view.reading.value and "gold peaks at" in view.reading.value
    view.widgets["beta"].value = 0.1
    assert "gold has not turned" in view.reading.value.split("Best of")[0]
