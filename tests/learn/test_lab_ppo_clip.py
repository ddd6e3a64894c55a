"""The first lab of lesson 05: what its sentence says, and that its controls move it."""

import re

import pytest
from matplotlib.figure import Figure

from rlhf_course.learn.labs.ppo_clip import PPOClip


@pytest.fixture(scope="module")
def view():
    return PPOClip()


def reading(view, ratio, advantage, epsilon=0.2):
    return view.draw(Figure(), ratio=ratio, advantage=advantage, epsilon=epsilon)


@pytest.mark.parametrize(
    "ratio, advantage, push",
    [(1.5, 1.0, None), (0.5, 1.0, "up"), (1.5, -1.0, "down"), (0.5, -1.0, None), (1.1, 2.0, "up"), (0.9, -2.0, "down")],
)
def test_the_gradient_stops_where_the_ratio_has_gone_as_the_advantage_asks(view, ratio, advantage, push):
    sentence = reading(view, ratio, advantage)
    if push is None:
        assert "the gradient is off" in sentence
    else:
        assert f"log-probability {push} with" in sentence
        assert float(re.search(r"= (\d\.\d\d)\.$", sentence)[1]) == pytest.approx(ratio * abs(advantage), abs=6e-3)


def test_epsilon_decides_where_it_stops(view):
    assert "past 1.20: the gradient is off" in reading(view, 1.35, 0.8, 0.2)
    assert "The gradient is on" in reading(view, 1.35, 0.8, 0.4)


def test_an_advantage_of_nothing_pushes_nothing(view):
    assert "nothing to push" in reading(view, 1.3, 0.0)


def test_it_opens_on_the_clear_answer_of_the_worked_example(view):
    assert "advantage +0.8 is likelier" in view.reading.value


def test_a_slider_draws_it_anew_and_back_again():
    view = PPOClip()
    before, sentence = bytes(view.image.value), view.reading.value
    view.widgets["advantage"].value = -0.8
    assert bytes(view.image.value) != before and "pushes its log-probability down" in view.reading.value
    view.widgets["advantage"].value = 0.8
    assert bytes(view.image.value) == before and view.reading.value == sentence
