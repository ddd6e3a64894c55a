"""The second lab of lesson 05: what its sentence says, and that its controls move it."""

import re

import pytest
from matplotlib.figure import Figure

from rlhf_course.learn.labs.gae import GAE


@pytest.fixture(scope="module")
def view():
    return GAE()


def advantages(view, lam, score):
    """What the sentence says each of the six tokens gets."""
    told = view.draw(Figure(), lam=lam, score=score).split("Advantages: ")[1].split(". λ = 0")[0]
    found = [float(x.replace("−", "-")) for x in re.findall(r"” ([+−]\d\.\d\d)", told)]
    assert len(found) == 6
    return found


def test_at_0_only_the_last_token_hears_of_the_score_and_at_1_all_do(view):
    for lam, heard in ((0.0, [0, 0, 0, 0, 0, 1]), (1.0, [1] * 6), (0.5, [0.5 ** (5 - t) for t in range(6)])):
        low, high = advantages(view, lam, 1.0), advantages(view, lam, 2.0)
        assert [b - a for a, b in zip(low, high)] == pytest.approx(heard, abs=0.011)


def test_at_1_it_is_the_reward_still_to_come_less_the_value(view):
    rewards, values = [0, -0.05, -0.2, -0.05, 0, 2.55], [1.0, 1.0, 0.8, 2.0, 2.1, 2.0]
    expected = [sum(rewards[t:]) - values[t] for t in range(6)]
    assert advantages(view, 1.0, 2.5) == pytest.approx(expected, abs=6e-3)


def test_at_0_it_is_one_step_of_the_critic(view):
    rewards, values = [0, -0.05, -0.2, -0.05, 0, 2.55], [1.0, 1.0, 0.8, 2.0, 2.1, 2.0, 0.0]
    expected = [rewards[t] + values[t + 1] - values[t] for t in range(6)]
    assert advantages(view, 0.0, 2.5) == pytest.approx(expected, abs=6e-3)


def test_a_slider_draws_it_anew_and_back_again():
    view = GAE()
    before, sentence = bytes(view.image.value), view.reading.value
    view.widgets["lam"].value = 0.0
    assert bytes(view.image.value) != before and "next value alone" in view.reading.value
    view.widgets["lam"].value = 0.95
    assert bytes(view.image.value) == before and view.reading.value == sentence
