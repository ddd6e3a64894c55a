"""Right answers to every exercise, each written in its own way: all of them must pass."""

import math

import torch
from torch.nn import functional as F


def sigmoid_by_tanh(x):
    return 0.5 * (torch.tanh(x / 2) + 1)


def sigmoid_by_cases(x):
    small = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))


def models_by_table(method):
    none = dict.fromkeys(["policy", "reference", "reward_model", "value_model"])
    return {
        "sft": {**none, "policy": "train"},
        "reward_model": {**none, "reward_model": "train"},
        "ppo": {"policy": "train", "reference": "frozen", "reward_model": "frozen", "value_model": "train"},
        "dpo": {**none, "policy": "train", "reference": "frozen"},
        "grpo": {**none, "policy": "train", "reference": "frozen", "reward_model": "frozen"},
    }[method]


def models_by_questions(method):
    rl = method in {"ppo", "grpo"}
    return {
        "value_model": "train" if method == "ppo" else None,
        "reward_model": "train" if method == "reward_model" else "frozen" if rl else None,
        "reference": "frozen" if rl or method == "dpo" else None,
        "policy": None if method == "reward_model" else "train",
    }


def log_softmax_then_gather(logits, ids):
    return logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def minus_cross_entropy(logits, ids):
    flat = F.cross_entropy(logits.float().flatten(0, -2), ids.flatten(), reduction="none")
    return -flat.view(ids.shape)


def shifted_by_the_maximum(logits, ids):
    x = logits.double()
    x = x - x.max(-1, keepdim=True).values
    one_hot = F.one_hot(ids, x.shape[-1])
    return ((x * one_hot).sum(-1) - x.exp().sum(-1).log()).float()


def mask_by_loop(prompt_lengths, total_lengths, width):
    mask = torch.zeros(len(prompt_lengths), width, dtype=torch.long, device=prompt_lengths.device)
    for row, (start, end) in enumerate(zip(prompt_lengths.tolist(), total_lengths.tolist())):
        mask[row, start:end] = 1
    return mask


def mask_as_difference(prompt_lengths, total_lengths, width):
    position = torch.arange(width, device=prompt_lengths.device).float()
    real = (position < total_lengths.view(-1, 1)).float()
    return real - (position < prompt_lengths.view(-1, 1)).float()


def sft_where(logps, mask):
    mask = mask.bool()
    return -torch.where(mask, logps, torch.zeros_like(logps)).sum() / mask.sum()


def sft_fill(logps, mask):
    count = mask.sum()
    return (-logps).masked_fill(mask == 0, 0.0).sum() / count


def sft_select(logps, mask):
    return torch.masked_select(logps, mask > 0).neg().mean()


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


def groups_by_loop(rewards, num_generations):
    parts = []
    for group in rewards.split(num_generations):
        variance = (group - group.mean()).square().sum() / (num_generations - 1)
        parts.append((group - group.mean()) / (variance.sqrt() + 1e-4))
    return torch.cat(parts)


def groups_repeated(rewards, num_generations):
    table = rewards.view(-1, num_generations)
    mean, std = (x.repeat_interleave(num_generations) for x in (table.mean(1), table.std(1)))
    return (rewards - mean) / (std + 1e-4)


def rloo_by_loop(rewards, num_generations):
    out = []
    for i, reward in enumerate(rewards.tolist()):
        first = i // num_generations * num_generations
        others = [rewards[j].item() for j in range(first, first + num_generations) if j != i]
        out.append(reward - sum(others) / len(others))
    return torch.tensor(out)


def rloo_by_the_mean(rewards, num_generations):
    table = rewards.view(-1, num_generations)
    return ((table - table.mean(1, keepdim=True)) * num_generations / (num_generations - 1)).reshape(-1)


def grpo_by_quadrants(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = torch.exp(logps - old_logps)
    praised = (advantages > 0).unsqueeze(1).expand_as(ratio)
    bounded = torch.where(praised, ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon))
    return -(bounded * advantages.unsqueeze(1))[mask.bool()].mean()


def grpo_by_maximum(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = (logps - old_logps).exp()
    blame = -advantages.view(-1, 1)
    worst = torch.max(blame * ratio, blame * torch.clamp(ratio, 1 - epsilon, 1 + epsilon))
    return worst.masked_fill(mask == 0, 0.0).sum() / mask.sum()


def aggregate_by_weights(token_loss, mask, loss_type, max_completion_length):
    mask = mask.float()
    rows = mask.shape[0]
    weights = {
        "grpo": mask / (rows * mask.sum(1, keepdim=True).clamp(min=1)),
        "dr_grpo": mask / (rows * max_completion_length),
        "dapo": mask / mask.sum(),
        "bnpo": mask / mask.sum(),
    }[loss_type]
    return (weights * token_loss).sum()


def aggregate_by_loop(token_loss, mask, loss_type, max_completion_length):
    answers = [losses[kept] for losses, kept in zip(token_loss, mask.bool())]
    if loss_type == "grpo":
        return sum(a.mean() if len(a) else a.sum() for a in answers) / len(answers)
    if loss_type == "dr_grpo":
        return sum(a.sum() for a in answers) / len(answers) / max_completion_length
    return torch.cat(answers).mean()


def debiased_by_stack(p_first, p_first_swapped):
    return torch.stack([p_first, 1 - p_first_swapped]).mean(0)


def debiased_around_a_half(p_first, p_first_swapped):
    return 0.5 + (p_first - p_first_swapped) / 2


def clamp_by_where(probs, low, high):
    probs = torch.where(probs < low, torch.full_like(probs, low), probs)
    return torch.where(probs > high, torch.full_like(probs, high), probs)


def clamp_by_minimum(probs, low, high):
    return torch.minimum(torch.maximum(probs, torch.tensor(low)), torch.tensor(high))


def loop_by_recursion(answer, principles, critic, reviser):
    if not principles:
        return answer
    found = critic(answer, principles[0])
    better = reviser(answer, found) if found else answer
    return loop_by_recursion(better, principles[1:], critic, reviser)


def loop_by_history(answer, principles, critic, reviser):
    drafts = [answer]
    for principle in principles:
        if (found := critic(drafts[-1], principle)) is not None:
            drafts.append(reviser(drafts[-1], found))
    return drafts[-1]


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


def ipo_expanded(c, r, ref_c, ref_r, beta=0.1):
    h, target = c - r - ref_c + ref_r, 0.5 / beta
    return (h * h - 2 * target * h + target**2).sum() / len(h)


def ipo_by_mse(c, r, ref_c, ref_r, beta=0.1):
    margin = (c - ref_c) - (r - ref_r)
    return torch.nn.functional.mse_loss(margin, torch.full_like(margin, 1 / (2 * beta)))


def cdpo_by_cross_entropy(c, r, ref_c, ref_r, beta=0.1, label_smoothing=0.1):
    logits = beta * ((c - r) - (ref_c - ref_r))
    targets = torch.full_like(logits, 1 - label_smoothing)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def cdpo_by_softplus(c, r, ref_c, ref_r, beta=0.1, label_smoothing=0.1):
    h = beta * ((c - ref_c) - (r - ref_r))
    return (torch.nn.functional.softplus(-h) + label_smoothing * h).mean()


def kto_by_signs(policy, ref, labels, kl, beta=0.1):
    sign = 2 * labels.to(policy.dtype) - 1
    with torch.no_grad():
        z = max(kl.item(), 0.0)
    return torch.sigmoid(-sign * beta * ((policy - ref) - z)).mean()


def kto_by_kinds(policy, ref, labels, kl, beta=0.1):
    z = torch.relu(kl.detach())
    value = torch.sigmoid(beta * (policy - ref - z))
    up, down = (1 - value[labels]).sum(), torch.sigmoid(-beta * (z - policy + ref))[~labels].sum()
    return (up + down) / len(policy)


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
    "start_here.sigmoid": [sigmoid_by_tanh, sigmoid_by_cases],
    "pipeline.models_in_memory": [models_by_table, models_by_questions],
    "sft.selective_log_softmax": [log_softmax_then_gather, minus_cross_entropy, shifted_by_the_maximum],
    "sft.completion_mask": [mask_by_loop, mask_as_difference],
    "sft.sft_loss": [sft_where, sft_fill, sft_select],
    "reward_model.preference_probability": [probability_by_formula, probability_by_softmax],
    "reward_model.reward_loss": [reward_loss_softplus, reward_loss_cross_entropy, reward_loss_bce],
    "reward_model.last_token_index": [last_by_loop, last_by_flip, last_by_cumsum],
    "reward_model.pairs_from_ranking": [pairs_by_loops, pairs_from_the_end],
    "kl.kl_estimate": [kl_by_cases, kl_by_ratio],
    "kl.tilted_policy": [tilt_by_maximum, tilt_by_logsumexp],
    "kl.best_of_n_kl": [best_of_n_rearranged, best_of_n_in_torch],
    "kl.adaptive_beta": [controller_in_torch, controller_by_cases],
    "ppo.kl_shaped_rewards": [shaped_by_loop, shaped_by_scatter],
    "ppo.gae": [gae_by_sums, gae_row_by_row],
    "ppo.masked_whiten": [whiten_by_selection, whiten_by_moments],
    "ppo.ppo_clip_loss": [clip_by_quadrants, clip_by_maximum],
    "ppo.ppo_value_loss": [value_by_selection, value_by_stack],
    "dpo.sequence_logps": [sequence_by_where, sequence_by_loop],
    "dpo.dpo_loss": [dpo_by_ratios, dpo_by_cross_entropy],
    "dpo.implicit_rewards": [rewards_distributed, rewards_in_place_of_a_copy],
    "dpo_variants.ipo_loss": [ipo_expanded, ipo_by_mse],
    "dpo_variants.cdpo_loss": [cdpo_by_cross_entropy, cdpo_by_softplus],
    "dpo_variants.kto_loss": [kto_by_signs, kto_by_kinds],
    "grpo.group_advantages": [groups_by_loop, groups_repeated],
    "grpo.rloo_advantages": [rloo_by_loop, rloo_by_the_mean],
    "grpo.grpo_loss": [grpo_by_quadrants, grpo_by_maximum],
    "grpo.aggregate_token_loss": [aggregate_by_weights, aggregate_by_loop],
    "rlaif.debiased_preference": [debiased_by_stack, debiased_around_a_half],
    "rlaif.clamp_soft_labels": [clamp_by_where, clamp_by_minimum],
    "rlaif.critique_and_revise": [loop_by_recursion, loop_by_history],
    "overoptimization.fit_overoptimization": [fit_by_normal_equations, fit_by_pinv],
    "overoptimization.peak_distance": [peak_by_cases, peak_by_table],
    "overoptimization.ensemble_reward": [ensemble_by_moments, ensemble_by_columns],
}
