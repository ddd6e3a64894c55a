"""Right answers to the exercises of `sft`, written otherwise than the package does."""

import torch
from torch.nn import functional as F


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


RIGHT_ANSWERS = {
    "sft.selective_log_softmax": [log_softmax_then_gather, minus_cross_entropy, shifted_by_the_maximum],
    "sft.completion_mask": [mask_by_loop, mask_as_difference],
    "sft.sft_loss": [sft_where, sft_fill, sft_select],
}
