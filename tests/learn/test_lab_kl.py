"""The labs of lesson 04, moved through their controls."""

import re

import pytest

from rlhf_course.learn.labs.kl_estimators import KLEstimators
from rlhf_course.learn.labs.tilted_policy import TiltedPolicy


def reading(view, **values):
    for name, value in values.items():
        view.widgets[name].value = value
    return view.render()[1]


def number(sentence, pattern):
    return float(re.search(pattern + r"(−?\d+\.\d+)", sentence).group(1))


def test_a_cheaper_nat_moves_the_policy_further_for_a_higher_score():
    view = TiltedPolicy()
    sentences = [reading(view, beta=beta) for beta in (10.0, 0.3, 0.02)]
    kls = [number(s, "this price is ") for s in sentences]
    scores = [number(s, "score is ") for s in sentences]
    assert kls == sorted(kls)
    assert scores == sorted(scores)
    assert kls[0] < 0.01


def test_the_truth_turns_where_the_hack_gets_affordable():
    view = TiltedPolicy()
    golds = [number(reading(view, beta=beta), "gold reward ") for beta in (10.0, 0.02, 0.005)]
    assert golds[1] > golds[0] + 1
    assert golds[2] < 0.1
    assert "“fact four times, closing”" in reading(view, beta=0.005)


def test_the_estimators_against_the_exact_divergence():
    view = KLEstimators()
    for distance in (0.2, 1.0):
        sentence = reading(view, distance=distance, samples=256)
        truth = distance**2 / 2
        assert number(sentence, "exact KL is ") == pytest.approx(truth, abs=6e-4)
        assert number(sentence, "k1 averages ") == pytest.approx(truth, rel=0.05, abs=2e-3)
        assert number(sentence, "k3 averages ") == pytest.approx(truth, rel=0.05, abs=2e-3)
    assert number(sentence, "k2 averages ") > 1.2 * truth, "k2 is biased where the two are far apart"


def spreads(sentence):
    return [float(x) for x in re.findall(r"off by (\d+\.\d+) either way", sentence)]


def test_k3_is_the_quieter_one_only_while_the_two_are_near():
    view = KLEstimators()
    k1, _, k3 = spreads(reading(view, distance=0.2, samples=64))
    assert k3 < k1 / 4
    k1, _, k3 = spreads(reading(view, distance=2.0, samples=64))
    assert k3 > k1


def test_both_draw_the_same_figure_again():
    for lab in (TiltedPolicy, KLEstimators):
        assert bytes(lab().image.value) == bytes(lab().image.value)
