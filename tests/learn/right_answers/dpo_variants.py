"""Right answers to the exercises of `dpo_variants`, written otherwise than the package does."""

import torch


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


RIGHT_ANSWERS = {
    "dpo_variants.ipo_loss": [ipo_expanded, ipo_by_mse],
    "dpo_variants.cdpo_loss": [cdpo_by_cross_entropy, cdpo_by_softplus],
    "dpo_variants.kto_loss": [kto_by_signs, kto_by_kinds],
}
