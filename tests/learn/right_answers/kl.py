"""Right answers to the exercises of `kl`, written otherwise than the package does."""

import math

import torch


def kl_by_cases(logps, ref_logps, estimator):
    d = logps - ref_logps
    return {"k1": d, "k2": 0.5 * d.square(), "k3": torch.exp(ref_logps - logps) - 1.0 + d}[estimator]


def kl_by_ratio(logps, ref_logps, estimator):
    log_ratio = ref_logps - logps
    if estimator == "k3":
        return log_ratio.exp() - log_ratio - 1
    return -log_ratio if estimator == "k1" else log_ratio * log_ratio / 2


def tilt_by_maximum(ref_probs, rewards, beta):
    exponents = torch.log(ref_probs) + rewards / beta
    weights = torch.exp(exponents - exponents.max())
    return weights / weights.sum()


def tilt_by_logsumexp(ref_probs, rewards, beta):
    scaled = (rewards - rewards.max()) / beta + ref_probs.log()
    return torch.exp(scaled - scaled.logsumexp(0))


def best_of_n_rearranged(n):
    return math.log(n) + 1 / n - 1


def best_of_n_in_torch(n):
    n = torch.tensor(n, dtype=torch.float64)
    return n.log() - (n - 1) / n


def controller_in_torch(beta, kl, target, batch_size, horizon):
    error = torch.tensor(kl / target - 1.0).clamp(-0.2, 0.2)
    return beta * (1 + error * batch_size / horizon)


def controller_by_cases(beta, kl, target, batch_size, horizon):
    share = batch_size / horizon
    if kl > 1.2 * target:
        return beta + 0.2 * share * beta
    if kl < 0.8 * target:
        return beta - 0.2 * share * beta
    return beta + (kl - target) / target * share * beta


RIGHT_ANSWERS = {
    "kl.kl_estimate": [kl_by_cases, kl_by_ratio],
    "kl.tilted_policy": [tilt_by_maximum, tilt_by_logsumexp],
    "kl.best_of_n_kl": [best_of_n_rearranged, best_of_n_in_torch],
    "kl.adaptive_beta": [controller_in_torch, controller_by_cases],
}
