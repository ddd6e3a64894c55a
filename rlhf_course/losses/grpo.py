"""Group-relative policy optimisation: PPO's clip, the group as the baseline, four ways to average."""

from torch import Tensor

from rlhf_course._checks import (
    as_mask,
    check_choice,
    check_count,
    check_number,
    check_same_shape,
    check_tensor,
)
from rlhf_course.logprobs import masked_mean, masked_sum
from rlhf_course.losses._reduce import reduce_tokens
from rlhf_course.losses.ppo import clipped_objective, importance_ratio, masked_k3

LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo")


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    *,
    ref_logps: Tensor | None = None,
    beta: float = 0.0,
    epsilon_high: float | None = None,
    loss_type: str = "dapo",
    max_completion_length: int | None = None,
    num_items_in_batch: int | Tensor | None = None,
) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε_high)·A) + β·ρ·k3, averaged as `aggregate_token_loss` says.

    Every token of a completion has the completion's advantage (`advantages.group_advantages`). DeepSeekMath
    (2024, equation 3) adds β·k3 without the ratio ρ = π/π_old: that has the gradient of the reverse
    divergence, KL(π_ref‖π). With ρ, each visited state's KL(π‖π_ref) gets its right gradient, at later
    steps on the same samples too; what a token does to the states after it is missed in either form.

    Args:
        logps: (B, T) log π of the sampled tokens.
        old_logps: (B, T) log π_old, of the policy that sampled them. A constant: no gradient.
        advantages: (B,), one per completion, or (B, T). A constant.
        mask: (B, T), 1 on completion tokens.
        epsilon: ε, above 0 and below 1: how far below 1 the ratio is rewarded for going.
        ref_logps: (B, T) log π_ref, needed if β > 0. A constant.
        beta: β, at least 0. Without a KL term no reference model is needed.
        epsilon_high: ε_high, above 0; None for ε. A larger one ("clip higher", DAPO, Yu et al. 2025) leaves
            unlikely tokens more room to rise.
        loss_type: "dapo", "grpo", "bnpo" or "dr_grpo".
        max_completion_length: the constant of "dr_grpo", needed there.
        num_items_in_batch: completion tokens of the whole global batch, for "dapo" only.

    Returns:
        The loss. A completion whose advantage is 0 adds nothing to its policy part.
    """
    check_tensor("logps", logps, ndim=2, floating=True)
    check_tensor("old_logps", old_logps, ndim=2, floating=True)
    check_tensor("advantages", advantages, ndim=(1, 2), floating=True)
    if advantages.ndim == 1 and len(advantages) == len(logps):
        advantages = advantages.unsqueeze(-1).expand_as(logps)
    check_same_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    mask = as_mask("mask", mask, logps)
    check_number("epsilon", epsilon, low=0, high=1, low_open=True, high_open=True)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    check_number("epsilon_high", epsilon_high, low=0, low_open=True)
    check_number("beta", beta, low=0)

    ratio = importance_ratio(logps, old_logps, mask)
    token_loss = clipped_objective(ratio, advantages, mask, epsilon, epsilon_high)
    if beta > 0:
        if ref_logps is None:
            raise ValueError(f"ref_logps must be given with beta above 0, got None and beta {beta}")
        check_tensor("ref_logps", ref_logps, ndim=2, floating=True)
        check_same_shape(logps=logps, ref_logps=ref_logps)
        token_loss = token_loss + beta * ratio * masked_k3(logps, ref_logps, mask)
    return aggregate_token_loss(
        token_loss, mask, loss_type, max_completion_length, num_items_in_batch=num_items_in_batch
    )


def aggregate_token_loss(
    token_loss: Tensor,
    mask: Tensor,
    loss_type: str = "dapo",
    max_completion_length: int | None = None,
    *,
    num_items_in_batch: int | Tensor | None = None,
) -> Tensor:
    """One number from the losses ℓ of tokens, in four ways that weigh long completions differently.

        grpo      mean over completions of (Σ_t ℓ / its length)    a long answer's tokens each count less
        bnpo      Σ ℓ / tokens in this batch                       all tokens alike, within the batch at hand
        dapo      Σ ℓ / tokens in the whole global batch           all tokens alike, in every micro-batch
        dr_grpo   Σ ℓ / (completions × max_completion_length)      a constant: no length has a part in it

    (Shao et al. 2024; TRL; Yu et al. 2025; Liu et al. 2025.) Without gradient accumulation "dapo" is "bnpo".

    Args:
        token_loss: (B, T).
        mask: (B, T), 1 on completion tokens. An empty completion adds 0.
        loss_type: "dapo", "grpo", "bnpo" or "dr_grpo".
        max_completion_length: tokens, at least 1; read by "dr_grpo" only and needed there.
        num_items_in_batch: completion tokens of the whole global batch; for "dapo" only, by default this
            batch's. The other three have a denominator of their own, and refuse it.
    """
    check_tensor("token_loss", token_loss, ndim=2, floating=True)
    mask = as_mask("mask", mask, token_loss)
    check_choice("loss_type", loss_type, LOSS_TYPES)
    if num_items_in_batch is not None and loss_type != "dapo":
        raise ValueError(f"num_items_in_batch must be None with loss_type {loss_type!r}: only 'dapo' uses it")
    if loss_type == "grpo":
        return masked_mean(token_loss, mask, dim=-1).mean()
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("max_completion_length must be given with loss_type 'dr_grpo', got None")
        check_count("max_completion_length", max_completion_length, low=1)
        return masked_sum(token_loss, mask) / (len(token_loss) * max_completion_length)
    return reduce_tokens(token_loss, mask, num_items_in_batch)
