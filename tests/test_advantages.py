import pytest
import references as ref
import torch

from rlhf_course import advantages as adv
from rlhf_course.seeding import torch_stream

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])


def normal(*shape, name="x"):
    return torch.randn(shape, generator=torch_stream(0, "advantages", name), dtype=torch.float64)


def test_gae_known_answer():
    rewards, values = torch.tensor([[-0.1, -0.2, 1.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    advantages, returns = adv.gae(rewards, values, torch.ones(1, 3))
    torch.testing.assert_close(advantages, torch.tensor([[0.14675, 0.365, 0.7]]))
    torch.testing.assert_close(returns, advantages + values)


def test_gae_known_returns():
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    _, returns = adv.gae(x, x, torch.ones(1, 4), gamma=0.9)
    torch.testing.assert_close(returns, torch.tensor([[0.6579225, 0.7695, 0.9, 1.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_the_discounted_sum_of_deltas(gamma, lam):
    rewards, values = normal(5, 4), normal(5, 4, name="values")
    expected = ref.gae(rewards.tolist(), values.tolist(), MASK.tolist(), gamma, lam)
    for out, want in zip(adv.gae(rewards, values, MASK, gamma, lam), expected):
        torch.testing.assert_close(out, torch.tensor(want, dtype=torch.float64))


def test_gae_with_lambda_1_is_reward_to_come_minus_value():
    rewards, values = normal(2, 6), normal(2, 6, name="values")
    advantages, returns = adv.gae(rewards, values, torch.ones(2, 6), lam=1.0)
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(advantages, to_come - values)
    torch.testing.assert_close(returns, to_come)


def test_kl_shaped_rewards():
    scores, logps, ref_logps = normal(5, name="scores"), normal(5, 4), normal(5, 4, name="ref")
    out = adv.kl_shaped_rewards(scores, logps, ref_logps, MASK, 0.3)
    lists = (scores.tolist(), logps.tolist(), ref_logps.tolist(), MASK.tolist())
    torch.testing.assert_close(out, torch.tensor(ref.kl_shaped_rewards(*lists, 0.3), dtype=torch.float64))


def test_kl_shaped_rewards_sum_to_the_penalised_score():
    scores, logps, ref_logps = (
        torch.tensor([2.0]),
        torch.tensor([[-1.0, -2.0, -9.0]]),
        torch.full((1, 3), -1.5),
    )
    out = adv.kl_shaped_rewards(scores, logps, ref_logps, torch.tensor([[1, 1, 0]]), 0.1)
    torch.testing.assert_close(out, torch.tensor([[-0.05, 2.05, 0.0]]))


def test_what_advantages_return_is_constant():
    x = normal(2, 4).requires_grad_()
    mask = torch.ones(2, 4)
    assert not adv.kl_shaped_rewards(x[:, 0], x, x, mask, 0.1).requires_grad
    assert not any(out.requires_grad for out in adv.gae(x, x, mask))
    assert not adv.group_advantages(x.flatten(), 4).requires_grad
    assert not adv.rloo_advantages(x.flatten(), 4).requires_grad


def test_group_and_rloo_advantages_known_answers():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    half = torch.tensor([1.0, -1.0, -1.0, 1.0])
    torch.testing.assert_close(adv.group_advantages(rewards, 4), 0.865875 * half)
    torch.testing.assert_close(adv.rloo_advantages(rewards, 4), 2 / 3 * half)


def test_the_worked_examples_two_answers_in_a_group_of_two():
    out = adv.group_advantages(torch.tensor([2.1, 3.7], dtype=torch.float64), 2)
    torch.testing.assert_close(out, torch.tensor([-0.7070, 0.7070], dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages(scale):
    rewards = 3 * normal(12) + 5
    expected = ref.group_advantages(rewards.tolist(), 4, scale)
    assert adv.group_advantages(rewards, 4, scale).tolist() == pytest.approx(expected)


def test_rloo_advantages():
    rewards = 3 * normal(12) + 5
    assert adv.rloo_advantages(rewards, 3).tolist() == pytest.approx(ref.rloo_advantages(rewards.tolist(), 3))


M = torch.ones(2, 3)
REFUSED = [
    (lambda: adv.gae(normal(2, 3), normal(2, 4), M), ValueError, r"rewards \(2, 3\), values \(2, 4\)"),
    (lambda: adv.gae(normal(3), normal(3), torch.ones(3)), ValueError, "rewards must have 2 dimension"),
    (lambda: adv.gae(normal(2, 3), normal(2, 3), torch.ones(2, 4)), ValueError, "mask must have shape"),
    (
        lambda: adv.gae(normal(2, 3), normal(2, 3), M, gamma=1.1),
        ValueError,
        "gamma must be at least 0 and at most 1",
    ),
    (lambda: adv.gae(normal(2, 3), normal(2, 3), M, lam=-0.1), ValueError, "lam must be"),
    (
        lambda: adv.kl_shaped_rewards(normal(3), normal(2, 3), normal(2, 3), M, 0.1),
        ValueError,
        "scores .* 2, got 3",
    ),
    (
        lambda: adv.kl_shaped_rewards(normal(2, 1), normal(2, 3), normal(2, 3), M, 0.1),
        ValueError,
        "scores must have 1",
    ),
    (
        lambda: adv.kl_shaped_rewards(normal(2), normal(2, 3), normal(2, 3), M, -0.1),
        ValueError,
        "beta must be at least",
    ),
    (lambda: adv.group_advantages(normal(7), 4), ValueError, "whole groups of num_generations = 4, got 7"),
    (lambda: adv.group_advantages(normal(0), 4), ValueError, "whole groups"),
    (
        lambda: adv.group_advantages(normal(4), 1),
        ValueError,
        "num_generations must be a whole number of at least 2",
    ),
    (
        lambda: adv.group_advantages(normal(4), 2, "std"),
        ValueError,
        "scale_rewards must be one of 'group', 'batch'",
    ),
    (lambda: adv.group_advantages(torch.tensor([1, 0]), 2), TypeError, "rewards must hold floating-point"),
    (lambda: adv.rloo_advantages(normal(2, 2), 2), ValueError, "rewards must have 1 dimension"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
