"""The losses on tokens: SFT, PPO, GRPO."""

import math

import pytest
import references as ref
import torch

from rlhf_course.losses import (
    aggregate_token_loss,
    grpo_loss,
    ppo_clip_loss,
    ppo_rlhf_loss,
    ppo_value_loss,
    sft_loss,
)
from rlhf_course.seeding import torch_stream

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
LOSS_TYPES = ["dapo", "grpo", "bnpo", "dr_grpo"]


def normal(*shape, name="x", scale=1.0):
    return scale * torch.randn(shape, generator=torch_stream(0, "token losses", name), dtype=torch.float64)


def sample():
    """logps, old_logps, ref_logps near each other, so that some tokens are clipped and some are not."""
    logps = -normal(3, 4).abs() - 0.5
    return logps, logps + normal(3, 4, name="old", scale=0.3), logps + normal(3, 4, name="ref", scale=0.5)


def tokens(function, *tensors):
    return [[function(*xs) for xs in zip(*rows)] for rows in zip(*(x.tolist() for x in tensors))]


def close(loss, expected):
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_sft_loss_is_the_mean_over_completion_tokens():
    logps = -normal(3, 4).abs()
    kept = ref.real(logps.tolist(), MASK.tolist())
    close(sft_loss(logps, MASK), -ref.mean(kept))
    close(sft_loss(logps, MASK, num_items_in_batch=50), -math.fsum(kept) / 50)
    close(sft_loss(logps, MASK, num_items_in_batch=torch.tensor(50)), -math.fsum(kept) / 50)
    assert torch.autograd.gradcheck(lambda x: sft_loss(x, MASK), logps.requires_grad_())


@pytest.mark.parametrize("items", [0, torch.tensor(0)])
def test_a_global_batch_without_a_completion_token_gives_0(items):
    assert sft_loss(-normal(3, 4).abs(), torch.zeros(3, 4), num_items_in_batch=items).item() == 0


@pytest.mark.parametrize(("log_ratio", "expected"), [(1.0, -1.2), (-1.0, -0.367879), (0.1, -1.105171)])
def test_ppo_clip_known_answers(log_ratio, expected):
    loss = ppo_clip_loss(torch.tensor([log_ratio]), torch.zeros(1), torch.ones(1))
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_ppo_clip_loss():
    (logps, old_logps, _), advantages = sample(), normal(3, 4, name="advantages")
    expected = tokens(lambda *xs: ref.clip_token(*xs, 0.2, 0.2), logps, old_logps, advantages)
    kept = ref.real(expected, MASK.tolist())
    close(ppo_clip_loss(logps, old_logps, advantages, MASK), ref.mean(kept))
    close(ppo_clip_loss(logps, old_logps, advantages, MASK, num_items_in_batch=40), math.fsum(kept) / 40)
    everything = ref.mean(x for row in expected for x in row)
    close(ppo_clip_loss(logps, old_logps, advantages), everything)
    assert torch.autograd.gradcheck(lambda x: ppo_clip_loss(x, old_logps, advantages, MASK), logps.requires_grad_())


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    logps, advantages = (-normal(3, 4).abs()).requires_grad_(), normal(3, 4, name="advantages")
    ppo_clip_loss(logps, logps, advantages, MASK).backward()  # π_old is a constant, even where it is π itself
    torch.testing.assert_close(logps.grad, -advantages * MASK / MASK.sum())


def test_ppo_value_loss():
    values, old_values, returns = normal(3, 4), normal(3, 4, name="old"), normal(3, 4, name="returns")
    expected = tokens(lambda *xs: ref.value_token(*xs, 0.2), values, old_values, returns)
    close(ppo_value_loss(values, old_values, returns, MASK), ref.mean(ref.real(expected, MASK.tolist())))
    assert torch.autograd.gradcheck(lambda v: ppo_value_loss(v, old_values, returns, MASK), values.requires_grad_())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 0.5 * 0.9**2),  # inside the clip: the plain squared error, halved
        (0.5, 0.5 * 0.8**2),  # towards the target past the clip: no further gain, so no gradient
        (-0.5, 0.5 * 1.5**2),  # away from the target past the clip: the harm counts in full
    ],
)
def test_the_value_clip_takes_gains_and_leaves_harm(value, expected):
    value = torch.tensor([value], requires_grad=True)
    loss = ppo_value_loss(value, torch.zeros(1), torch.ones(1))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(expected))
    assert (value.grad.item() == 0) == (value.item() == 0.5)


def test_ppo_rlhf_loss():
    (logps, old_logps, ref_logps), advantages = sample(), normal(3, 4, name="advantages")
    clip = tokens(lambda *xs: ref.clip_token(*xs, 0.2, 0.2), logps, old_logps, advantages)
    kl = tokens(ref.kl_token, logps, old_logps, ref_logps)
    expected = ref.mean(ref.real(clip, MASK.tolist())) + 0.3 * ref.mean(ref.real(kl, MASK.tolist()))
    close(ppo_rlhf_loss(logps, old_logps, ref_logps, advantages, MASK, 0.2, 0.3), expected)
    assert torch.autograd.gradcheck(
        lambda x: ppo_rlhf_loss(x, old_logps, ref_logps, advantages, MASK), logps.requires_grad_()
    )


def test_ppo_rlhf_loss_with_beta_0_is_the_clip():
    (logps, old_logps, ref_logps), advantages = sample(), normal(3, 4, name="advantages")
    close(
        ppo_rlhf_loss(logps, old_logps, ref_logps, advantages, beta=0.0),
        ppo_clip_loss(logps, old_logps, advantages).item(),
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("epsilon_high", [None, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo_loss(loss_type, epsilon_high, beta):
    (logps, old_logps, ref_logps), advantages = sample(), normal(3, name="advantages")
    spread = advantages.unsqueeze(-1).expand(3, 4)
    expected = tokens(
        lambda lp, old, r, a: ref.clip_token(lp, old, a, 0.2, epsilon_high or 0.2) + beta * ref.kl_token(lp, old, r),
        *(logps, old_logps, ref_logps, spread),
    )
    options = {
        "ref_logps": ref_logps if beta else None,
        "beta": beta,
        "epsilon_high": epsilon_high,
        "loss_type": loss_type,
        "max_completion_length": 6,
    }
    want = ref.aggregate(expected, MASK.tolist(), loss_type, 6)
    close(grpo_loss(logps, old_logps, advantages, MASK, **options), want)
    close(grpo_loss(logps, old_logps, spread, MASK, **options), want)
    assert torch.autograd.gradcheck(
        lambda x: grpo_loss(x, old_logps, advantages, MASK, **options), logps.requires_grad_()
    )


def test_clip_higher_lets_good_tokens_rise_further():
    logps = torch.full((1, 1), math.log(1.25), requires_grad=True)
    arguments = (logps, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1), 0.2)
    (narrow,) = torch.autograd.grad(grpo_loss(*arguments), logps)
    (wide,) = torch.autograd.grad(grpo_loss(*arguments, epsilon_high=0.28), logps)
    assert (narrow.item(), wide.item()) == (0.0, pytest.approx(-1.25))


def test_the_four_aggregations():
    loss = torch.tensor([[1.0, 1.0, 1.0, 1.0], [6.0, 99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    close(aggregate_token_loss(loss, mask, "grpo"), (1 + 6) / 2)
    close(aggregate_token_loss(loss, mask, "bnpo"), 10 / 5)
    close(aggregate_token_loss(loss, mask, "dapo"), 10 / 5)
    close(aggregate_token_loss(loss, mask, "dapo", num_items_in_batch=20), 10 / 20)
    close(aggregate_token_loss(loss, mask, "dr_grpo", 8), 10 / 16)


X, ONES, A = torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2)
REFUSED = [
    (lambda: sft_loss(X, torch.ones(3, 2)), ValueError, r"mask must have shape \(2, 3\), got \(3, 2\)"),
    (lambda: sft_loss(X.long(), ONES), TypeError, "logps must hold floating-point"),
    (lambda: sft_loss(A, A), ValueError, "logps must have 2 dimension"),
    (lambda: sft_loss(X, ONES, num_items_in_batch=-1), ValueError, "num_items_in_batch must be a whole"),
    (lambda: sft_loss(X, ONES, num_items_in_batch="6"), TypeError, "num_items_in_batch must be a whole"),
    (lambda: sft_loss(X, ONES, num_items_in_batch=A), ValueError, "num_items_in_batch must hold one number"),
    (lambda: ppo_clip_loss(X, X, A), ValueError, r"logps \(2, 3\), old_logps \(2, 3\), advantages \(2,\)"),
    (lambda: ppo_clip_loss(X, X, X, ONES, 0.0), ValueError, "epsilon must be above 0 and below 1, got 0.0"),
    (lambda: ppo_clip_loss(X, X, X, ONES, "0.2"), TypeError, "epsilon must be a number, got str"),
    (lambda: ppo_clip_loss(X, None, X), TypeError, "old_logps must be a torch.Tensor, got NoneType"),
    (lambda: ppo_value_loss(X, X, X.T), ValueError, r"values \(2, 3\).*returns \(3, 2\)"),
    (lambda: ppo_value_loss(X, X, X, ONES, -0.2), ValueError, "cliprange_value must be above 0"),
    (lambda: ppo_rlhf_loss(X, X, X, X, ONES, 0.2, -1), ValueError, "beta must be at least 0, got -1"),
    (lambda: ppo_rlhf_loss(X, X, A, X), ValueError, r"ref_logps \(2,\)"),
    (lambda: grpo_loss(X, X, torch.zeros(3), ONES), ValueError, r"advantages \(3,\)"),
    (lambda: grpo_loss(X, X, A, None), TypeError, "mask must be a torch.Tensor, got NoneType"),
    (lambda: grpo_loss(X, X, A, ONES, beta=0.1), ValueError, "ref_logps must be given with beta above 0"),
    (lambda: grpo_loss(X, X, A, ONES, beta=0.1, ref_logps=A), ValueError, "ref_logps must have 2 dimension"),
    (lambda: grpo_loss(X, X, A, ONES, epsilon_high=0), ValueError, "epsilon_high must be above 0"),
    (lambda: grpo_loss(X, X, A, ONES, loss_type="gspo"), ValueError, "loss_type must be one of 'dapo'"),
    (
        lambda: grpo_loss(X, X, A, ONES, loss_type="dr_grpo"),
        ValueError,
        "max_completion_length must be given",
    ),
    (
        lambda: grpo_loss(X, X, A, ONES, loss_type="dr_grpo", max_completion_length=0),
        ValueError,
        "max_completion_length must be a whole number of at least 1",
    ),
    (
        lambda: grpo_loss(X, X, A, ONES, loss_type="bnpo", num_items_in_batch=6),
        ValueError,
        "num_items_in_batch must be None with loss_type 'bnpo'",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
