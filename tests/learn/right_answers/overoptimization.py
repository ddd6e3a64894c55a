"""Right answers to the exercises of `overoptimization`, written otherwise than the package does."""

import math

import torch


def fit_by_normal_equations(distance, gold, method):
    bend = distance**2 if method == "bon" else torch.where(distance > 0, distance * distance.clamp(min=1e-300).log(), 0)
    a, b, c = (distance**2).sum(), (distance * bend).sum(), (bend**2).sum()
    u, v = (distance * gold).sum(), (bend * gold).sum()
    determinant = a * c - b * b
    return ((c * u - b * v) / determinant).item(), -((a * v - b * u) / determinant).item()


def fit_by_pinv(distance, gold, method):
    bend = distance.square() if method == "bon" else torch.special.xlogy(distance, distance)
    return tuple((torch.linalg.pinv(torch.stack([distance, -bend], 1)) @ gold).tolist())


def peak_by_cases(alpha, beta, method):
    if not beta > 0:
        return float("inf")
    if method == "rl":
        return math.e ** (alpha / beta) / math.e
    return 0.5 * alpha / beta


def peak_by_table(alpha, beta, method):
    formula = {"bon": lambda x: x / 2, "rl": lambda x: math.exp(x - 1)}[method]
    return formula(alpha / beta) if beta > 0 else math.inf


def ensemble_by_moments(scores, method, weight):
    mean = sum(scores) / len(scores)
    if method == "wco":
        return scores.min(dim=0).values
    return mean - (weight * ((scores**2).mean(0) - mean**2) if method == "uwo" else 0)


def ensemble_by_columns(scores, method, weight):
    combine = {
        "mean": lambda column: column.mean(),
        "wco": lambda column: column.min(),
        "uwo": lambda column: column.mean() - weight * (column - column.mean()).square().mean(),
    }[method]
    return torch.stack([combine(column) for column in scores.unbind(1)])


RIGHT_ANSWERS = {
    "overoptimization.fit_overoptimization": [fit_by_normal_equations, fit_by_pinv],
    "overoptimization.peak_distance": [peak_by_cases, peak_by_table],
    "overoptimization.ensemble_reward": [ensemble_by_moments, ensemble_by_columns],
}
