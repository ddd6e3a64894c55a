"""Kahneman–Tversky optimisation: learn from thumbs up and thumbs down, without pairs."""

import torch
from torch import Tensor

from rlhf_course._checks import as_mask, check_number, check_same_shape, check_tensor
from rlhf_course.losses._reduce import reduce_examples


def kto_loss(
    policy_logps: Tensor,
    ref_logps: Tensor,
    labels: Tensor,
    kl: Tensor | float,
    beta: float = 0.1,
    *,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Judge each completion against a common reference point z (Ethayarajh et al. 2024).

        desirable      λ_D·(1 − σ(β(r − z)))        r = log π − log π_ref, of the completion
        undesirable    λ_U·(1 − σ(β(z − r)))        z = max(0, KL), a constant

    z estimates KL(π‖π_ref) as the batch's mean log-ratio over **mismatched** completions, each under another
    example's prompt; the caller works it out. Here it is clamped at 0 and detached: it shifts the point of
    comparison and gets no gradient.

    Args:
        policy_logps: (B,) log π of the completions, summed over their tokens.
        ref_logps: (B,) the frozen reference's.
        labels: (B,) True (1) where the completion is desirable, False (0) where it is not.
        kl: one number in nats, a tensor with one element or a float: the mean mismatched log-ratio.
        beta: β, above 0.
        desirable_weight: λ_D, at least 0.
        undesirable_weight: λ_U, at least 0. The paper (version 1) keeps λ_D·n_D : λ_U·n_U between 1:1 and
            4:3, n being the counts of each kind. Equal weights have no loss aversion in them.
        reduction: "mean" (over all examples of both kinds), "sum" or "none".

    Returns:
        The loss, from 0 to the larger weight; (B,) with "none".
    """
    check_tensor("policy_logps", policy_logps, ndim=1, floating=True)
    check_tensor("ref_logps", ref_logps, ndim=1, floating=True)
    check_same_shape(policy_logps=policy_logps, ref_logps=ref_logps)
    labels = as_mask("labels", labels, policy_logps)
    check_number("beta", beta, low=0, low_open=True)
    check_number("desirable_weight", desirable_weight, low=0)
    check_number("undesirable_weight", undesirable_weight, low=0)
    if not isinstance(kl, Tensor):
        kl = torch.tensor(float(check_number("kl", kl)))
    if kl.numel() != 1:
        raise ValueError(f"kl must be one number for the whole batch, got shape {tuple(kl.shape)}")

    z = kl.detach().to(policy_logps).reshape(()).clamp(min=0)
    gap = policy_logps - ref_logps - z
    # 1 − σ(a) is σ(−a), which stays exact where σ(a) rounds to 1.
    desirable = desirable_weight * torch.sigmoid(-beta * gap)
    undesirable = undesirable_weight * torch.sigmoid(beta * gap)
    return reduce_examples(torch.where(labels, desirable, undesirable), reduction)
