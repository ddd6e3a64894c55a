"""The laws of overoptimization: how gold reward goes with the distance that optimisation has come (Gao et al. 2022).

Distance is d = √KL(π ‖ π_init), in √nats, because gold reward is close to straight in d near the start. Gold is counted
from the initial policy's: R(0) = 0.
"""

from collections.abc import Sequence
from math import exp, inf

import numpy as np

from rlhf_course._checks import check_choice, check_number

METHODS = ("bon", "rl")


def fit_overoptimization(distance: Sequence[float], gold: Sequence[float], method: str) -> tuple[float, float]:
    """The α and β of R(d) that fit best, by least squares (Gao et al. 2022, section 3).

    Args:
        distance: (N,) d = √KL ≥ 0, at least two different ones above 0.
        gold: (N,) gold reward minus the initial policy's.
        method: "bon" for best-of-n, R(d) = d(α − βd); "rl" for reinforcement learning, R(d) = d(α − β log d).

    Returns:
        α, how steeply gold rises at first; β, how soon that ends.

    Raises:
        ValueError: for lists of other shapes, a negative distance, or too few distances to tell α from β.
    """
    check_choice("method", method, METHODS)
    d, r = np.asarray(distance, float), np.asarray(gold, float)
    if d.ndim != 1 or d.shape != r.shape:
        raise ValueError(f"distance and gold must be two lists of one length, got shapes {d.shape} and {r.shape}")
    if not (np.isfinite(d).all() and np.isfinite(r).all() and (d >= 0).all()):
        raise ValueError("distance must be finite and at least 0, and gold finite")
    if len(np.unique(d[d > 0])) < 2:
        raise ValueError("distance must hold at least two different values above 0: one cannot tell α from β")
    bend = d * d if method == "bon" else d * np.log(np.where(d > 0, d, 1.0))
    alpha, minus_beta = np.linalg.lstsq(np.stack([d, bend], axis=1), r, rcond=None)[0]
    return float(alpha), float(-minus_beta)


def predicted_gold(distance: Sequence[float], alpha: float, beta: float, method: str) -> np.ndarray:
    """R(d) of the law, (N,): gold reward minus the initial policy's."""
    check_choice("method", method, METHODS)
    d = np.asarray(distance, float)
    return d * (alpha - beta * (d if method == "bon" else np.log(np.where(d > 0, d, 1.0))))


def peak_distance(alpha: float, beta: float, method: str) -> float:
    """The d at which the law's gold is highest: α / 2β for "bon", exp(α/β − 1) for "rl".

    Where β is 0 or less the law never turns: infinity. Where α is 0 or less it falls from the start under "bon": 0.
    """
    check_choice("method", method, METHODS)
    check_number("alpha", alpha)
    check_number("beta", beta)
    if beta <= 0:
        return inf
    return max(alpha / (2 * beta), 0.0) if method == "bon" else exp(alpha / beta - 1)
