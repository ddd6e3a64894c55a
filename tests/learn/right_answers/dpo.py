"""Right answers to the exercises of `dpo`, written otherwise than the package does."""

import torch
from torch.nn import functional as F


def sequence_by_where(logps, mask):
    return torch.where(mask.bool(), logps, torch.zeros_like(logps)).sum(-1)


def sequence_by_loop(logps, mask):
    return torch.stack([row[kept].sum() for row, kept in zip(logps, mask > 0)])


def dpo_by_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    policy_gap = policy_chosen_logps - policy_rejected_logps
    ref_gap = ref_chosen_logps - ref_rejected_logps
    return F.softplus(-beta * (policy_gap - ref_gap)).mean()


def dpo_by_cross_entropy(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    chosen = beta * (policy_chosen_logps - ref_chosen_logps)
    rejected = beta * (policy_rejected_logps - ref_rejected_logps)
    scores = torch.stack([chosen, rejected], dim=1)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def rewards_distributed(policy_logps, ref_logps, beta):
    return beta * policy_logps - beta * ref_logps


def rewards_in_place_of_a_copy(policy_logps, ref_logps, beta):
    return torch.sub(policy_logps, ref_logps).mul(beta)


RIGHT_ANSWERS = {
    "dpo.sequence_logps": [sequence_by_where, sequence_by_loop],
    "dpo.dpo_loss": [dpo_by_ratios, dpo_by_cross_entropy],
    "dpo.implicit_rewards": [rewards_distributed, rewards_in_place_of_a_copy],
}
