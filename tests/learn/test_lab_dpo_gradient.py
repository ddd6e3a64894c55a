"""The lab of lesson 06, moved through its controls."""

import re
from math import exp

import pytest

from rlhf_course.learn.labs.dpo_gradient import DPOGradient


def pull(view, margin, beta):
    view.widgets["margin"].value, view.widgets["beta"].value = margin, beta
    sentence = view.render()[1]
    return float(re.search(r"= (\d+\.\d+), ", sentence).group(1)), sentence


def test_a_pair_pulls_with_beta_times_how_wrong_the_policy_is():
    view = DPOGradient()
    for margin, beta in ((0.0, 0.1), (-20.0, 0.1), (5.0, 1.0), (30.0, 0.05)):
        got, _ = pull(view, margin, beta)
        beta = view.widgets["beta"].value
        assert got == pytest.approx(beta / (1 + exp(beta * margin)), abs=6e-4)


def test_it_opens_on_the_two_answers_of_lesson_03():
    sentence = DPOGradient().render()[1]
    assert "+1.59 apart" in sentence and "83.1 %" in sentence


def test_a_wrong_pair_feels_almost_beta_and_a_sure_one_nothing():
    view = DPOGradient()
    assert "98 % of the most" in pull(view, -4.0, 1.0)[1]
    assert "2 % of the most" in pull(view, 4.0, 1.0)[1]
    assert "50 % of the most" in pull(view, 0.0, 3.0)[1]


def test_it_draws_the_same_figure_again():
    assert bytes(DPOGradient().image.value) == bytes(DPOGradient().image.value)
