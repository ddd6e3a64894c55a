"""Right answers to the exercises of `ppo`, written otherwise than the package does."""

import torch


def shaped_by_loop(scores, logps, ref_logps, mask, beta):
    rewards = torch.zeros_like(logps)
    for i, row in enumerate(mask.bool()):
        places = row.nonzero().flatten()
        rewards[i, places] = beta * (ref_logps[i, places] - logps[i, places])
        rewards[i, places[-1]] += scores[i]
    return rewards


def shaped_by_scatter(scores, logps, ref_logps, mask, beta):
    rewards = torch.where(mask.bool(), -beta * (logps - ref_logps), 0.0)
    return rewards.scatter_add(1, mask.long().sum(1, keepdim=True) - 1, scores[:, None])


def gae_by_sums(rewards, values, mask, gamma, lam):
    found, width = torch.zeros_like(rewards), rewards.shape[1]
    kept = torch.where(mask.bool(), values, 0.0)
    after = torch.cat([kept[:, 1:], torch.zeros_like(kept[:, :1])], dim=1)
    deltas = torch.where(mask.bool(), rewards + gamma * after - values, 0.0)
    for t in range(width):
        found[:, t] = sum((gamma * lam) ** (k - t) * deltas[:, k] for k in range(t, width))
    return found * mask, (found + values) * mask


def gae_row_by_row(rewards, values, mask, gamma, lam):
    found, targets = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for i in range(len(rewards)):
        later = later_value = 0.0
        for t in reversed(range(int(mask[i].sum()))):
            later = rewards[i, t] + gamma * later_value - values[i, t] + gamma * lam * later
            later_value = values[i, t]
            found[i, t], targets[i, t] = later, later + values[i, t]
    return found, targets


def whiten_by_selection(x, mask):
    chosen = x[mask.bool()]
    spread = (chosen.var() + 1e-8).sqrt() if len(chosen) > 1 else torch.tensor(1e-4)
    return torch.where(mask.bool(), (x - chosen.mean()) / spread, 0.0)


def whiten_by_moments(x, mask):
    kept = torch.where(mask.bool(), x, 0.0).double()
    n = mask.sum()
    mean = kept.sum() / n
    squares = torch.where(mask.bool(), (kept - mean) ** 2, 0.0)
    return ((kept - mean) / (squares.sum() / (n - 1) + 1e-8) ** 0.5 * mask).to(x.dtype)


def clip_by_quadrants(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = torch.exp(logps - old_logps)
    limit = torch.where(advantages > 0, ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon))
    return (-(limit * advantages) * mask).sum() / mask.sum()


def clip_by_maximum(logps, old_logps, advantages, mask, epsilon=0.2):
    kept = mask.bool()
    ratio, chosen = torch.exp(logps - old_logps)[kept], advantages[kept]
    return torch.maximum(-chosen * ratio, -chosen * ratio.clip(1 - epsilon, 1 + epsilon)).mean()


def value_by_selection(values, old_values, returns, mask, cliprange_value=0.2):
    kept = mask.bool()
    moved = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    return torch.maximum((values - returns) ** 2, (moved - returns) ** 2)[kept].mean() / 2


def value_by_stack(values, old_values, returns, mask, cliprange_value=0.2):
    moved = torch.minimum(torch.maximum(values, old_values - cliprange_value), old_values + cliprange_value)
    errors = torch.stack([values - returns, moved - returns]).square().amax(0)
    return (errors * mask).sum() / (2 * mask.sum())


RIGHT_ANSWERS = {
    "ppo.kl_shaped_rewards": [shaped_by_loop, shaped_by_scatter],
    "ppo.gae": [gae_by_sums, gae_row_by_row],
    "ppo.masked_whiten": [whiten_by_selection, whiten_by_moments],
    "ppo.ppo_clip_loss": [clip_by_quadrants, clip_by_maximum],
    "ppo.ppo_value_loss": [value_by_selection, value_by_stack],
}
