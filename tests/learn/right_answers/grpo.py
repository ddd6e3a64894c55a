"""Right answers to the exercises of `grpo`, written otherwise than the package does."""

import torch


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


RIGHT_ANSWERS = {
    "grpo.group_advantages": [groups_by_loop, groups_repeated],
    "grpo.rloo_advantages": [rloo_by_loop, rloo_by_the_mean],
    "grpo.grpo_loss": [grpo_by_quadrants, grpo_by_maximum],
    "grpo.aggregate_token_loss": [aggregate_by_weights, aggregate_by_loop],
}
