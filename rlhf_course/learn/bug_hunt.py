"""Probes for lesson 05's bug hunt: four small questions to a loss of PPO with a KL term, each with a known answer.

Each probe asks about one thing alone, so that one slip fails one probe, whatever else is wrong.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_SCORES = torch.tensor([1.0, -1.0])  # mean 0, so with the batch's mean as baseline the advantages are 1 and −1


def examine(loss_fn: Callable[..., Tensor]) -> None:
    """Put the probes to a loss, and print what each found beside what it should have found.

    Args:
        loss_fn: `(logps, old_logps, ref_logps, scores, completion_mask, epsilon=0.2, beta=0.05)` → the loss, with
            log-probabilities (B, L − 1) of tokens 1 … L − 1, scores (B,), and the mask (B, L) of tokens 0 … L − 1.
    """
    for number, probe in enumerate(PROBES, 1):
        try:
            found, expected = probe(loss_fn)
        except Exception as error:  # the learner is in the middle of a repair
            print(f"! {number} {probe.__doc__} raised {type(error).__name__}: {error}")
            continue
        print(f"{'✓' if found == expected else '✗'} {number} {probe.__doc__}")
        print(f"      {found}" + ("" if found == expected else f", and should: {expected}"))


def _which_tokens_learn(loss_fn) -> tuple[str, str]:
    """Which tokens learn? (a prompt of 3, answers of 3 and of 2)"""
    completion_mask = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]])
    logps = torch.zeros(2, 5, requires_grad=True)
    loss_fn(logps, torch.zeros(2, 5), torch.full((2, 5), -1.0), _SCORES, completion_mask).backward()
    names = [["", "", "1st", "2nd", "3rd"], ["", "", "1st", "2nd", "padding"]]
    names = [[name or "prompt" for name in row] for row in names]
    learning = [[name for name, g in zip(*row) if g != 0] for row in zip(names, logps.grad)]
    return "; ".join(", ".join(row) or "none" for row in learning), "1st, 2nd, 3rd; 1st, 2nd"


def _where_is_the_gradient_off(loss_fn) -> tuple[str, str]:
    """In which quadrants does the push end?"""
    ratios = torch.tensor([[1.5, 0.5], [1.5, 0.5]])
    logps = ratios.log().requires_grad_()
    loss_fn(logps, torch.zeros(2, 2), torch.zeros(2, 2), _SCORES, torch.ones(2, 3), beta=0.0).backward()
    names = [["good and likelier", "good and rarer"], ["bad and likelier", "bad and rarer"]]
    ended = [name for row in zip(names, logps.grad) for name, g in zip(*row) if g == 0]
    return ", ".join(ended) or "in none", "good and likelier, bad and rarer"


def _does_a_longer_prompt_change_it(loss_fn) -> tuple[str, str]:
    """The same answers behind a prompt that is three tokens longer: how much larger is the loss?"""
    logps, mask = torch.tensor([[1.1, 0.9, 1.05], [0.95, 0.9, 1.0]]).log(), torch.tensor([[0, 1, 1, 1]] * 2)
    losses = []
    for longer in (0, 3):
        wide = torch.nn.functional.pad(logps, (longer, 0))
        wide_mask = torch.nn.functional.pad(mask, (longer, 0))
        losses.append(loss_fn(wide, torch.zeros_like(wide), wide - 0.5, _SCORES, wide_mask).item())
    return f"{losses[1] / losses[0]:.2f} times", "1.00 times"


def _does_the_price_pull(loss_fn) -> tuple[str, str]:
    """β = 1, all scores equal, the policy has drifted from 0.2 to 0.6: what pulls it back?"""
    theta = torch.tensor(0.6).logit().requires_grad_()
    drawn = torch.tensor([0] * 4 + [1] * 6)  # ten answers, just as often as the policy gives them: an expectation
    logps = torch.stack([logsigmoid(-theta), logsigmoid(theta)])[drawn][:, None]
    ref_logps = torch.tensor([0.8, 0.2]).log()[drawn][:, None]
    loss = loss_fn(logps, logps.detach(), ref_logps, torch.zeros(10), torch.ones(10, 2), beta=1.0)
    (pull,) = torch.autograd.grad(loss, theta)
    exact = 0.6 * 0.4 * (theta.detach() - torch.tensor(0.2).logit())  # of KL(π‖π_ref)
    return f"a gradient of {round(pull.item(), 3) + 0.0:.3f}", f"a gradient of {exact:.3f}"


PROBES = (_which_tokens_learn, _where_is_the_gradient_off, _does_a_longer_prompt_change_it, _does_the_price_pull)
