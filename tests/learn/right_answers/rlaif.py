"""Right answers to the exercises of `rlaif`, written otherwise than the package does."""

import torch


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


RIGHT_ANSWERS = {
    "rlaif.debiased_preference": [debiased_by_stack, debiased_around_a_half],
    "rlaif.clamp_soft_labels": [clamp_by_where, clamp_by_minimum],
    "rlaif.critique_and_revise": [loop_by_recursion, loop_by_history],
}
