"""Right answers to the exercises of `start_here`, written otherwise than the package does."""

import torch


def sigmoid_by_tanh(x):
    return 0.5 * (torch.tanh(x / 2) + 1)


def sigmoid_by_cases(x):
    small = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + small), small / (1 + small))


RIGHT_ANSWERS = {
    "start_here.sigmoid": [sigmoid_by_tanh, sigmoid_by_cases],
}
