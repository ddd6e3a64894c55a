"""Proximal policy optimisation: the clipped policy and value losses, and the clip with a KL term."""

import torch
from torch import Tensor

from rlhf_course._checks import as_mask, check_number, check_same_shape, check_tensor
from rlhf_course.kl import kl_estimate
from rlhf_course.logprobs import masked_mean
from rlhf_course.losses._reduce import reduce_tokens


def ppo_clip_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    epsilon: float = 0.2,
    *,
    num_items_in_batch: int | Tensor | None = None,
) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε)·A), the mean over tokens; ρ = π/π_old (Schulman et al. 2017, eq. 7).

    The minimum is pessimistic: it takes the gain away, never the harm. So the gradient stops in two of the
    four quadrants only, where the ratio has already gone the way that the advantage asks:

                 ρ < 1 − ε      ρ > 1 + ε
        A > 0    still pushes   stops
        A < 0    stops          still pushes

    Args:
        logps: (B, T), or any shape, log π of the sampled tokens.
        old_logps: the same shape, log π_old, of the policy that sampled them. A constant: no gradient.
        advantages: the same shape. A constant too.
        mask: the same shape, 1 on completion tokens; None if all are real.
        epsilon: ε, above 0 and below 1.
        num_items_in_batch: completion tokens of the whole global batch, to divide the sum by (see
            `sft_loss`).

    Returns:
        The loss. Its gradient at ρ = 1 is the policy gradient, −mean(A·∇log π).
    """
    mask = _check_tokens(logps, mask, old_logps=old_logps, advantages=advantages)
    check_number("epsilon", epsilon, low=0, high=1, low_open=True, high_open=True)
    ratio = importance_ratio(logps, old_logps, mask)
    return reduce_tokens(clipped_objective(ratio, advantages, mask, epsilon, epsilon), mask, num_items_in_batch)


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor | None = None,
    cliprange_value: float = 0.2,
) -> Tensor:
    """½·max((V − R)², (clip(V, V_old ± c) − R)²), averaged over tokens (as in Ziegler et al. 2019's code).

    The critic, like the policy, gains nothing by moving more than c from where it was when the batch was
    sampled; the maximum, like the minimum there, is the pessimistic choice.

    Args:
        values: (B, T), or any shape, V now.
        old_values: the same shape, V when the batch was sampled. A constant.
        returns: the same shape, R, the targets. A constant.
        mask: the same shape, 1 on completion tokens; None if all are real.
        cliprange_value: c, above 0, in units of the reward.

    Returns:
        The loss, in units of the reward squared. Trainers weigh it by `vf_coef` (0.1).
    """
    mask = _check_tokens(values, mask, name="values", old_values=old_values, returns=returns)
    check_number("cliprange_value", cliprange_value, low=0, low_open=True)
    old_values, returns = old_values.detach(), returns.detach()
    values, old_values, returns = (x.masked_fill(~mask, 0.0) for x in (values, old_values, returns))
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * masked_mean(torch.maximum((values - returns).square(), (clipped - returns).square()), mask)


def ppo_rlhf_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    advantages: Tensor,
    mask: Tensor | None = None,
    epsilon: float = 0.2,
    beta: float = 0.05,
) -> Tensor:
    """The clipped loss plus a KL term whose gradient is right: clip + β·mean(ρ·k3), with ρ = π/π_old.

    The widely copied β·mean(log π − log π_ref) has an expected gradient of exactly zero on samples from the
    policy: it holds nothing back. ρ·k3 (`kl.kl_estimate`) has, in expectation over π_old, the value and the
    gradient of KL(π‖π_ref), at the first step and at later ones on the same samples. That holds for one
    action, or for a whole sequence taken as one. Token by token it is each visited state's own KL: the
    effect of a token on later states is missed, and what states are visited is π_old's doing. PPO as
    trained has the KL in the reward instead (`advantages.kl_shaped_rewards`), where nothing is missed.

    Args:
        logps: (B, T), or any shape, log π of the sampled tokens.
        old_logps: the same shape, log π_old, of the policy that sampled them. A constant: no gradient.
        ref_logps: the same shape, log π_ref. A constant.
        advantages: the same shape; without a KL penalty in them, or it would count twice. A constant.
        mask: the same shape, 1 on completion tokens; None if all are real.
        epsilon: ε of the clip, above 0 and below 1.
        beta: β, at least 0, the weight of the KL.
    """
    mask = _check_tokens(logps, mask, old_logps=old_logps, ref_logps=ref_logps, advantages=advantages)
    check_number("epsilon", epsilon, low=0, high=1, low_open=True, high_open=True)
    check_number("beta", beta, low=0)
    ratio = importance_ratio(logps, old_logps, mask)
    policy_loss = clipped_objective(ratio, advantages, mask, epsilon, epsilon)
    return masked_mean(policy_loss + beta * ratio * masked_k3(logps, ref_logps, mask), mask)


def importance_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """ρ = π/π_old, and 1 on padding, which is taken out before the exponential can overflow."""
    return (logps - old_logps.detach()).masked_fill(~mask, 0.0).exp()


def clipped_objective(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A) of each token, 0 on padding."""
    advantages = advantages.detach().masked_fill(~mask, 0.0)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def masked_k3(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """k3 of each token, 0 on padding."""
    logps, ref_logps = (x.masked_fill(~mask, 0.0) for x in (logps, ref_logps.detach()))
    return kl_estimate(logps, ref_logps, "k3")


def _check_tokens(first: Tensor, mask: Tensor | None, name: str = "logps", **others: Tensor) -> Tensor:
    """Refuse what is not tensors of real numbers of one shape, and return the mask as bools."""
    for key, x in {name: first, **others}.items():
        check_tensor(key, x, floating=True)
    check_same_shape(**{name: first, **others})
    return torch.ones_like(first, dtype=torch.bool) if mask is None else as_mask("mask", mask, first)
