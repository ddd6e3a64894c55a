"""Traps that have caught published code, one by one.

Traps 1 and 2 are proved in test_trap_kl_gradients.py; those that concern models, data and trainers (4, 5, 6,
12, 13) stand with their tests.
"""

import math

import pytest
import references as ref
import torch

from rlhf_course.advantages import (
    frac_reward_zero_std,
    gae,
    group_advantages,
    kl_shaped_rewards,
    rloo_advantages,
)
from rlhf_course.kl import exact_kl
from rlhf_course.logprobs import (
    entropy,
    masked_mean,
    masked_var,
    masked_whiten,
    selective_log_softmax,
    sequence_logps,
)
from rlhf_course.losses import (
    aggregate_token_loss,
    grpo_loss,
    kto_loss,
    ppo_clip_loss,
    ppo_rlhf_loss,
    ppo_value_loss,
    sft_loss,
)
from rlhf_course.seeding import torch_stream


def normal(*shape, name="x", dtype=torch.float64):
    return torch.randn(shape, generator=torch_stream(0, "traps", name), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "pushes"),
    [
        (1.0, 1.5, -1.2, False),  # good and already likelier: enough
        (1.0, 0.5, -0.5, True),  # good and made unlikelier: undo it
        (-1.0, 1.5, 1.5, True),  # bad and made likelier: undo it
        (-1.0, 0.5, 0.8, False),  # bad and already unlikelier: enough
        (1.0, 1.1, -1.1, True),
        (-1.0, 0.9, 0.9, True),
    ],
)
def test_trap_03_the_clip_in_all_four_quadrants(advantage, ratio, loss, pushes):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    old, advantages, one = torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1)
    for found in (
        ppo_clip_loss(logps, old, advantages),
        ppo_rlhf_loss(logps, old, old, advantages, beta=0.0),
        grpo_loss(logps, old, advantages, one),
    ):
        (gradient,) = torch.autograd.grad(found, logps)
        assert found.item() == pytest.approx(loss)
        assert gradient.item() == pytest.approx(-advantage * ratio if pushes else 0.0)


TOKEN_LOSSES = {
    "sft": lambda x, m: sft_loss(x, m),
    "ppo clip": lambda x, m: ppo_clip_loss(x, x.detach() - 0.1, x.detach(), m),
    "ppo value": lambda x, m: ppo_value_loss(x, x.detach() - 0.1, x.detach() + 1, m),
    "ppo rlhf": lambda x, m: ppo_rlhf_loss(x, x.detach() - 0.1, x.detach() + 0.1, x.detach(), m),
    **{
        f"grpo {kind}": lambda x, m, kind=kind: grpo_loss(
            *(x, x.detach() - 0.1, x.detach(), m),
            **{"ref_logps": x.detach() + 0.1, "beta": 0.1, "loss_type": kind, "max_completion_length": 9},
        )
        for kind in ("dapo", "grpo", "bnpo", "dr_grpo")
    },
    "sequence_logps": lambda x, m: sequence_logps(x, m).sum(),
    "sequence_logps average": lambda x, m: sequence_logps(x, m, average=True).sum(),
    "masked_mean": masked_mean,
    "masked_var": masked_var,
    "masked_whiten": lambda x, m: masked_whiten(x, m).square().sum(),
    "kl_shaped_rewards": lambda x, m: kl_shaped_rewards(x.detach()[:, 0], x, x + 1, m, 0.1).sum() + 0 * x[0, 0],
    "gae": lambda x, m: gae(x, 2 * x, m)[0].sum() + gae(x, 2 * x, m)[1].sum() + 0 * x[0, 0],
}
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_trap_07_padding_is_masked_before_the_exponential(name, junk):
    function, clean = TOKEN_LOSSES[name], normal(3, 4).requires_grad_()
    dirty = torch.where(MASK == 1, clean.detach(), junk).requires_grad_()
    value = function(dirty, MASK)
    torch.testing.assert_close(value, function(clean, MASK), rtol=0, atol=0)
    value.backward()
    assert dirty.grad.isfinite().all()
    assert (dirty.grad[MASK == 0] == 0).all()


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_trap_07_a_fully_masked_batch_gives_0_and_finite_gradients(name):
    x = normal(3, 4)
    x[1:] = math.nan
    x.requires_grad_()
    value = TOKEN_LOSSES[name](x, torch.zeros(3, 4))
    value.backward()
    assert value.item() == 0
    assert x.grad.isfinite().all()


def test_trap_07_a_fully_masked_row_gives_0():
    logps, mask = normal(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert sequence_logps(logps, mask)[1] == 0
    assert sequence_logps(logps, mask, average=True)[1] == 0
    assert (kl_shaped_rewards(torch.ones(2).double(), logps, logps, mask, 0.1)[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trap_08_half_precision_logits_are_worked_out_in_float32(dtype):
    logits = 4 * normal(2, 3, 1000, dtype=dtype)
    ids = torch.randint(1000, (2, 3), generator=torch_stream(0, "traps", "ids"))
    exact = logits.double().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    out = selective_log_softmax(logits, ids)
    assert out.dtype == torch.float32
    assert (out - exact).abs().max() < 1e-5
    in_half = logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    assert (in_half.double() - exact).abs().max() > 1e-3, "what it would be without"
    assert entropy(logits).dtype == exact_kl(logits, -logits).dtype == torch.float32
    torch.testing.assert_close(entropy(logits).double(), entropy(logits.double()), rtol=1e-5, atol=0)


def test_trap_08_gradients_come_back_in_the_logits_type():
    logits = normal(2, 3, 50, dtype=torch.bfloat16).requires_grad_()
    ids = torch.zeros(2, 3, dtype=torch.long)
    selective_log_softmax(logits, ids).sum().backward()
    expected = torch.nn.functional.one_hot(ids, 50) - logits.detach().float().softmax(-1)
    torch.testing.assert_close(logits.grad, expected.bfloat16(), rtol=0.01, atol=1e-6)


def test_trap_08_float64_stays_float64():
    assert selective_log_softmax(normal(2, 7), torch.tensor([1, 2])).dtype == torch.float64


def test_trap_09_a_mean_of_micro_batch_means_is_not_the_token_mean():
    logps, mask = normal(2, 4), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    whole = sft_loss(logps, mask)
    rows = [(logps[i : i + 1], mask[i : i + 1]) for i in range(2)]
    mean_of_means = sum(sft_loss(*row) for row in rows) / 2
    by_items = sum(sft_loss(*row, num_items_in_batch=5) for row in rows)
    torch.testing.assert_close(by_items, whole)
    assert abs(mean_of_means - whole) > 0.05


def test_trap_09_dapo_is_the_whole_batchs_and_bnpo_the_micro_batchs():
    loss, mask = normal(2, 4), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    rows = [(loss[i : i + 1], mask[i : i + 1]) for i in range(2)]
    whole = aggregate_token_loss(loss, mask, "bnpo")
    torch.testing.assert_close(sum(aggregate_token_loss(*r, "dapo", num_items_in_batch=5) for r in rows), whole)
    assert abs(sum(aggregate_token_loss(*r, "bnpo") for r in rows) / 2 - whole) > 0.05


def test_trap_10_whiten_without_shifting_keeps_the_mean():
    x = 3 * normal(3, 4) + 7
    kept = ref.real(x.tolist(), MASK.tolist())
    for shift, mean in ((True, 0.0), (False, ref.mean(kept))):
        out = ref.real(masked_whiten(x, MASK, shift_mean=shift).tolist(), MASK.tolist())
        assert ref.mean(out) == pytest.approx(mean, abs=1e-12)
        assert ref.variance(out) == pytest.approx(1.0, rel=1e-6)
        assert (masked_whiten(x, MASK, shift_mean=shift)[MASK == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("equal", [0.0, 0.1, 1000.1, -3e7])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_trap_11_equal_rewards_give_exactly_nothing(dtype, equal, scale):
    rewards = torch.tensor([equal] * 7 + [1.0, 0.0, 0.5, 0.25, 2.0, 3.0, 1.5], dtype=dtype)
    for out in (group_advantages(rewards, 7, scale), rloo_advantages(rewards, 7)):
        assert (out[:7] == 0).all()
        assert out[7:].isfinite().all()
        assert (out[7:] != 0).any()
    assert frac_reward_zero_std(rewards, 7) == 0.5, "and they are counted"


def test_trap_11_equal_rewards_give_no_policy_gradient():
    logps = normal(8, 3).requires_grad_()
    advantages = group_advantages(torch.tensor([0.1] * 4 + [1.0, 0.0, 0.0, 1.0]), 4).double()
    grpo_loss(logps, logps.detach(), advantages, torch.ones(8, 3)).backward()
    assert (logps.grad[:4] == 0).all()
    assert (logps.grad[4:] != 0).all()


def test_trap_14_the_reference_point_of_kto_is_a_clamped_constant():
    policy, kl = normal(4).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 0, 1, 0])
    kto_loss(policy, normal(4, name="ref"), labels, kl).backward()
    assert kl.grad is None
    at_zero = kto_loss(policy, normal(4, name="ref"), labels, 0.0)
    torch.testing.assert_close(kto_loss(policy, normal(4, name="ref"), labels, -5.0), at_zero)
    assert abs(kto_loss(policy, normal(4, name="ref"), labels, kl) - at_zero) > 1e-6
