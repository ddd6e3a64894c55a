"""Gao et al.'s laws: fitted back from their own points, and the peak where the slope is 0."""

from math import exp, inf, isinf

import numpy as np
import pytest

from rlhf_course.overoptimization import fit_overoptimization, peak_distance, predicted_gold

LAWS = [("bon", 0.8, 0.07), ("bon", 2.0, -0.1), ("rl", 1.3, 0.6), ("rl", 0.4, 0.9)]


@pytest.mark.parametrize(("method", "alpha", "beta"), LAWS)
def test_the_fit_finds_the_law_that_made_the_points(method, alpha, beta):
    d = np.array([0.0, 0.3, 0.9, 2.0, 4.5, 8.0])
    assert fit_overoptimization(d, predicted_gold(d, alpha, beta, method), method) == pytest.approx((alpha, beta))


@pytest.mark.parametrize(("method", "alpha", "beta"), [law for law in LAWS if law[2] > 0])
def test_gold_is_lower_on_both_sides_of_the_peak(method, alpha, beta):
    peak = peak_distance(alpha, beta, method)
    before, top, after = predicted_gold([0.9 * peak, peak, 1.1 * peak], alpha, beta, method)
    assert before < top > after


def test_known_peaks():
    assert peak_distance(1.0, 0.1, "bon") == pytest.approx(5.0)
    assert peak_distance(1.5, 0.5, "rl") == pytest.approx(exp(2))
    assert isinf(peak_distance(1.0, 0.0, "rl")) and peak_distance(1.0, -0.2, "bon") == inf
    assert peak_distance(-1.0, 0.5, "bon") == 0


def test_the_initial_policy_has_gained_nothing():
    assert predicted_gold([0.0], 1.0, 0.5, "rl") == [0.0]


@pytest.mark.parametrize(
    ("distance", "gold", "method", "message"),
    [
        ([1.0, 2.0], [1.0], "bon", "one length"),
        ([-1.0, 2.0], [1.0, 2.0], "bon", "at least 0"),
        ([1.0, np.nan], [1.0, 2.0], "bon", "finite"),
        ([0.0, 2.0, 2.0], [0.0, 1.0, 1.1], "rl", "two different"),
        ([1.0, 2.0], [1.0, 2.0], "ppo", "method"),
    ],
)
def test_what_cannot_be_fitted_is_refused(distance, gold, method, message):
    with pytest.raises(ValueError, match=message):
        fit_overoptimization(distance, gold, method)
