"""From scores of whole completions to what each token should be praised or blamed for.

Advantages, returns and shaped rewards are constants to the losses that use them: they are worked out without
gradient. Shapes: B completions, T token positions; masks are 1 on real completion tokens.
"""

import torch
from torch import Tensor

from rlhf_course._checks import (
    as_mask,
    check_choice,
    check_count,
    check_number,
    check_same_shape,
    check_tensor,
)
from rlhf_course.kl import kl_estimate


@torch.no_grad()
def kl_shaped_rewards(scores: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """PPO's reward for each token: −β·(log π − log π_ref), and the score on top at the last real token.

    The reward model reads whole answers, so its score arrives once, at the end; the KL penalty (the
    estimator k1) is paid token by token. Summed over a row this is score − β·log(π(y|x)/π_ref(y|x))
    (Stiennon et al. 2020, §3.4; Ouyang et al. 2022, §3.5).

    Here k1 is part of the reward, without gradient, and not a loss term. Weighting each token's ∇log π by
    all of the reward still to come (γ = λ = 1), on samples from π, then gives in expectation exactly the
    gradient of E[score] − β·KL(π‖π_ref) over whole sequences.

    Args:
        scores: (B,) one number per completion.
        logps: (B, T) log π of the sampled tokens, when they were sampled.
        ref_logps: (B, T) log π_ref of the same tokens.
        mask: (B, T). A row without a real token gets rewards of 0, its score too.
        beta: β, at least 0.

    Returns:
        (B, T), 0 on padding, without gradient.
    """
    check_tensor("scores", scores, ndim=1, floating=True)
    check_tensor("logps", logps, ndim=2, floating=True)
    check_tensor("ref_logps", ref_logps, ndim=2, floating=True)
    check_same_shape(logps=logps, ref_logps=ref_logps)
    _check_rows("scores", scores, logps)
    mask = as_mask("mask", mask, logps)
    check_number("beta", beta, low=0)

    rewards = (-beta * kl_estimate(logps, ref_logps, "k1")).masked_fill(~mask, 0.0)
    tokens_to_come = mask.flip(-1).cumsum(-1).flip(-1)  # this one included: it is 1 at the last real token
    is_last = mask & (tokens_to_come == 1)
    return torch.where(is_last, rewards + scores.unsqueeze(-1), rewards)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), from the last token backwards.

        δ_t = r_t + γ·V_{t+1} − V_t           how much better this step went than the critic expected
        A_t = δ_t + γλ·A_{t+1}                … and all the steps after it, each trusted λ times less
        R_t = A_t + V_t                       the critic's target

    λ = 0 trusts the critic (A = δ); λ = 1 trusts the rewards (A = reward still to come − V). After the
    last real token there is nothing: V = A = 0, whether or not the completion ended with EOS. Positions with
    mask 0 are passed over.

    Args:
        rewards: (B, T).
        values: (B, T) the critic's V_t, of the state **before** token t.
        mask: (B, T).
        gamma: γ in [0, 1]. RLHF uses 1: the score at the end counts in full for the first token.
        lam: λ in [0, 1].

    Returns:
        advantages, returns: (B, T) each, 0 on padding, without gradient. Not whitened: whiten the advantages
        afterwards, so that the returns stay in the units of the reward.
    """
    check_tensor("rewards", rewards, ndim=2, floating=True)
    check_tensor("values", values, ndim=2, floating=True)
    check_same_shape(rewards=rewards, values=values)
    mask = as_mask("mask", mask, rewards)
    check_number("gamma", gamma, low=0, high=1)
    check_number("lam", lam, low=0, high=1)

    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask[:, t], advantages[:, t], next_advantage)
    returns = advantages + values
    return advantages.masked_fill(~mask, 0.0), returns.masked_fill(~mask, 0.0)


@torch.no_grad()
def group_advantages(rewards: Tensor, num_generations: int, scale_rewards: str = "group") -> Tensor:
    """GRPO's advantages: how much better than the group's other answers (DeepSeekMath, 2024, §4.1.2).

        A_i = (r_i − mean) / (std + 1e-4)

    mean is over the prompt's group of G answers: the group is the baseline, so no critic is needed. A group
    of equal rewards gives exactly 0: nothing is learnt from it. `frac_reward_zero_std` counts such groups.

    Args:
        rewards: (prompts × G,), the G answers to one prompt side by side.
        num_generations: G, at least 2.
        scale_rewards: what std is of, always unbiased (n − 1): "group", the prompt's group; "batch", all
            rewards; "none" does not divide (Dr. GRPO, Liu et al. 2025: dividing makes the easiest and the
            hardest prompts, whose std is small, count the most).

    Returns:
        (prompts × G,), without gradient.
    """
    check_choice("scale_rewards", scale_rewards, ("group", "batch", "none"))
    groups = _groups(rewards, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if scale_rewards == "group":
        centred = centred / (groups.std(dim=1, keepdim=True) + 1e-4)
    elif scale_rewards == "batch":
        centred = centred / (rewards.std() + 1e-4)
    return centred.flatten()


@torch.no_grad()
def rloo_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """Leave-one-out advantages: each reward minus the mean of the *others* (RLOO, Ahmadian et al. 2024).

        A_i = r_i − Σ_{j≠i} r_j / (G − 1)

    The baseline does not contain the answer's own reward, which keeps the policy gradient unbiased.

    Args:
        rewards: (prompts × G,), the G answers to one prompt side by side.
        num_generations: G, at least 2.

    Returns:
        (prompts × G,), without gradient. A group of equal rewards gives exactly 0.
    """
    groups = _groups(rewards, num_generations)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).flatten()


@torch.no_grad()
def frac_reward_zero_std(rewards: Tensor, num_generations: int) -> Tensor:
    """The fraction, 0 to 1, of groups with equal rewards, which give no policy gradient (TRL's metric)."""
    return (_groups(rewards, num_generations) == 0).all(dim=1).float().mean()


def _groups(rewards: Tensor, num_generations: int) -> Tensor:
    """(prompts, G), each group counted from its first reward, which makes equal rewards exactly 0.

    No advantage notices the shift: only differences within a group count.
    """
    check_tensor("rewards", rewards, ndim=1, floating=True)
    check_count("num_generations", num_generations, low=2)
    count = rewards.numel()
    if count == 0 or count % num_generations:
        raise ValueError(f"rewards must hold whole groups of num_generations = {num_generations}, got {count} rewards")
    groups = rewards.reshape(-1, num_generations)
    return groups - groups[:, :1]


def _check_rows(name: str, x: Tensor, like: Tensor) -> None:
    if len(x) != len(like):
        raise ValueError(f"{name} must have one entry per row, {len(like)}, got {len(x)}")
