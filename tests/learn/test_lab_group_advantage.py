"""The lab of lesson 08, moved through its controls without a browser."""

import pytest

from rlhf_course.learn.labs.group_advantage import GroupAdvantage


def reading(**values):
    view = GroupAdvantage()
    for name, value in values.items():
        view.widgets[name].value = value
    return view.reading.value


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("group", "first 1.0 → +0.87, second 0.0 → -0.87, third 0.0 → -0.87, fourth 1.0 → +0.87"),
        ("none", "first 1.0 → +0.50, second 0.0 → -0.50"),
        ("rloo", "first 1.0 → +0.67, second 0.0 → -0.67"),
    ],
)
def test_a_rule_that_two_of_four_pass(kind, told):
    assert told in reading(first=1.0, second=0.0, third=0.0, fourth=1.0, kind=kind)


@pytest.mark.parametrize("kind", ["group", "none", "rloo"])
def test_a_group_of_equal_rewards_is_said_to_teach_nothing(kind):
    said = reading(**dict.fromkeys(("first", "second", "third", "fourth"), 0.7), kind=kind)
    assert "→ +0.00" in said and "learns nothing" in said


def test_the_worked_example_stands_first_and_a_slider_redraws():
    view = GroupAdvantage()
    assert "first 2.1" in view.reading.value and "second 3.7 → +1.4" in view.reading.value
    before = bytes(view.image.value)
    view.widgets["second"].value = 2.1
    assert bytes(view.image.value) != before
