"""Right answers to the exercises of `reward_model`, written otherwise than the package does."""

import torch
from torch.nn import functional as F


def probability_by_formula(chosen_reward, rejected_reward):
    return 1 / (1 + torch.exp(rejected_reward - chosen_reward))


def probability_by_softmax(chosen_reward, rejected_reward):
    return torch.stack([chosen_reward, rejected_reward]).softmax(0)[0]


def reward_loss_softplus(chosen_rewards, rejected_rewards):
    return F.softplus(rejected_rewards - chosen_rewards).mean()


def reward_loss_cross_entropy(chosen_rewards, rejected_rewards):
    scores = torch.stack([chosen_rewards, rejected_rewards], dim=1)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def reward_loss_bce(chosen_rewards, rejected_rewards):
    gap = chosen_rewards - rejected_rewards
    return F.binary_cross_entropy_with_logits(gap, torch.ones_like(gap))


def last_by_loop(mask):
    return torch.tensor([max(i for i, m in enumerate(row) if m) for row in mask.tolist()], device=mask.device)


def last_by_flip(mask):
    return mask.shape[1] - 1 - mask.long().flip(1).argmax(1)


def last_by_cumsum(mask):
    return mask.long().cumsum(1).argmax(1)


def pairs_by_loops(ranking):
    return [(better, worse) for i, better in enumerate(ranking) for worse in ranking[i + 1 :]]


def pairs_from_the_end(ranking):
    pairs = []
    for j in reversed(range(len(ranking))):
        pairs += [[ranking[i], ranking[j]] for i in range(j)]
    return pairs


RIGHT_ANSWERS = {
    "reward_model.preference_probability": [probability_by_formula, probability_by_softmax],
    "reward_model.reward_loss": [reward_loss_softplus, reward_loss_cross_entropy, reward_loss_bce],
    "reward_model.last_token_index": [last_by_loop, last_by_flip, last_by_cumsum],
    "reward_model.pairs_from_ranking": [pairs_by_loops, pairs_from_the_end],
}
