"""The lab of lesson 07, moved through its controls."""

import re
from math import exp

import pytest

from rlhf_course.learn.labs.value_function import ValueFunction

NUMBERS = re.compile(
    r"has the value ([\d.]+) of at most [\d.]+, and its log-probability is pulled by ([+-][\d.]+); with thumbs down "
    r"its value is ([\d.]+) of at most [\d.]+, and the pull is ([+-]\d\.\d+)\."
)


def read(view, **values):
    for name, value in values.items():
        view.widgets[name].value = value
    sentence = view.render()[1]
    return [float(x) for x in NUMBERS.search(sentence).groups()], sentence


def test_value_and_pull_are_those_of_the_formula():
    view = ValueFunction()
    for log_ratio, z, up, down in ((2.0, 4.0, 1.0, 1.0), (-6.0, 0.0, 1.0, 2.0), (10.0, 4.0, 0.5, 1.5)):
        got, _ = read(view, log_ratio=log_ratio, z=z, desirable=up, undesirable=down)
        beta = view.widgets["beta"].value
        s = 1 / (1 + exp(-beta * (log_ratio - z)))
        slope = beta * s * (1 - s)
        assert got == pytest.approx([up * s, up * slope, down * (1 - s), -down * slope], abs=6e-4)


def test_the_pull_is_largest_at_z_and_fades_on_both_sides():
    view = ValueFunction()
    pulls = [read(view, log_ratio=r, z=4.0, beta=1.0)[0][1] for r in (-10.0, 1.0, 4.0, 7.0, 18.0)]
    assert pulls[2] == max(pulls) == pytest.approx(0.25, abs=1e-3)
    assert pulls[1] == pytest.approx(pulls[3], abs=1e-3)
    assert pulls[0] < 0.001 and pulls[4] < 0.001


def test_loss_aversion_is_told_by_the_weights():
    view = ValueFunction()
    assert "no loss aversion" in view.render()[1]
    _, sentence = read(view, undesirable=2.0)
    assert "Thumbs down weigh 2.0 times as much: that is loss aversion" in sentence
    _, sentence = read(view, desirable=3.0, undesirable=1.5)
    assert "Thumbs up weigh 2.0 times as much: gains weigh more" in sentence
    _, sentence = read(view, desirable=0.0)
    assert "Only thumbs down count" in sentence


def test_it_says_on_which_side_of_z_the_answer_stands():
    view = ValueFunction()
    for log_ratio, words in ((2.0, "2.0 nats below z"), (4.0, "exactly z"), (9.0, "5.0 nats above z")):
        assert words in read(view, log_ratio=log_ratio, z=4.0)[1]


def test_it_draws_the_same_figure_again():
    assert bytes(ValueFunction().image.value) == bytes(ValueFunction().image.value)
