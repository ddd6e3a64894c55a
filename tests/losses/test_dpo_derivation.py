"""DPO derived on a prompt whose answers can be counted: each step of the derivation, in numbers."""

from itertools import permutations

import pytest
import torch

from rlhf_course.kl import exact_kl
from rlhf_course.losses import dpo_loss

N = 5
BETAS = (0.1, 0.5, 2.0)
PAIRS = list(permutations(range(N), 2))


@pytest.fixture(params=BETAS)
def beta(request):
    return request.param


@pytest.fixture
def world():
    """log π_ref and the rewards of N answers, in float64."""
    stream = torch.Generator().manual_seed(6)
    ref_logps = torch.randn(N, generator=stream, dtype=torch.float64).log_softmax(0)
    return ref_logps, torch.randn(N, generator=stream, dtype=torch.float64)


def optimum(ref_logps, rewards, beta):
    """log π* and log Z of π* = π_ref·exp(r/β)/Z."""
    exponents = ref_logps + rewards / beta
    return exponents.log_softmax(0), exponents.logsumexp(0)


def expected_loss(logps, ref_logps, votes, beta, pairs=PAIRS):
    """DPO's loss over all ordered pairs, each weighted by how often labelers vote so."""
    chosen, rejected = (torch.tensor(column) for column in zip(*pairs))
    losses = dpo_loss(logps[chosen], logps[rejected], ref_logps[chosen], ref_logps[rejected], beta, reduction="none")
    weights = votes[chosen, rejected]
    return (weights * losses).sum() / weights.sum()


def bradley_terry(rewards):
    """P(i ≻ j), (N, N)."""
    return torch.sigmoid(rewards[:, None] - rewards[None, :])


def test_step_1_the_closed_form_is_the_best_policy(world, beta):
    ref_logps, rewards = world
    best, log_z = optimum(ref_logps, rewards, beta)

    def objective(logps):
        return (logps.exp() * rewards).sum() - beta * exact_kl(logps, ref_logps)

    assert objective(best).item() == pytest.approx(beta * log_z.item())
    stream = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = (best + 0.3 * torch.randn(N, generator=stream, dtype=torch.float64)).log_softmax(0)
        assert objective(other) < objective(best)


def test_step_2_solved_for_the_reward(world, beta):
    ref_logps, rewards = world
    best, log_z = optimum(ref_logps, rewards, beta)
    torch.testing.assert_close(beta * (best - ref_logps) + beta * log_z, rewards)
    torch.testing.assert_close(beta * (best - ref_logps), rewards - beta * log_z)


def test_step_3_z_cancels_in_bradley_terry(world, beta):
    ref_logps, rewards = world
    best, _ = optimum(ref_logps, rewards, beta)
    implicit = beta * (best - ref_logps)
    torch.testing.assert_close(bradley_terry(implicit), bradley_terry(rewards))


def test_step_3_fails_for_answers_to_two_prompts(world, beta):
    ref_logps, rewards = world
    first, log_z = optimum(ref_logps, rewards, beta)
    second, other_log_z = optimum(ref_logps, rewards + 1.0, beta)
    gap = beta * (first - ref_logps)[0] - beta * (second - ref_logps)[1]
    assert gap.item() != pytest.approx((rewards[0] - (rewards[1] + 1)).item(), abs=0.5)
    assert gap.item() == pytest.approx((rewards[0] - rewards[1] - 1 - beta * (log_z - other_log_z)).item())


def test_step_4_the_loss_is_least_at_the_best_policy(world, beta):
    ref_logps, rewards = world
    best, _ = optimum(ref_logps, rewards, beta)
    logits = best.clone().requires_grad_()
    votes = bradley_terry(rewards)
    loss = expected_loss(logits.log_softmax(0), ref_logps, votes, beta)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-12
    entropy = -(votes * votes.log() + votes.T * votes.T.log())[torch.triu(torch.ones(N, N), 1) > 0].mean()
    assert loss.item() == pytest.approx(entropy.item()), "the surprise that is left is the labelers' own"


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_step_5_trained_from_the_reference_it_gets_there(world, beta):
    ref_logps, rewards = world
    best, _ = optimum(ref_logps, rewards, beta)
    logits = ref_logps.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(logits.log_softmax(0), ref_logps, bradley_terry(rewards), beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(logits.detach().log_softmax(0).exp(), best.exp(), atol=1e-5, rtol=0)


def test_the_gradient_is_the_weight_times_the_two_scores(world, beta):
    ref_logps, _ = world
    stream = torch.Generator().manual_seed(1)
    logits = torch.randn(N, generator=stream, dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(0)
    chosen, rejected = 1, 3
    loss = dpo_loss(logps[[chosen]], logps[[rejected]], ref_logps[[chosen]], ref_logps[[rejected]], beta)
    (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
    margin = (logps[chosen] - ref_logps[chosen]) - (logps[rejected] - ref_logps[rejected])
    (up,) = torch.autograd.grad(logps[chosen], logits, retain_graph=True)
    (down,) = torch.autograd.grad(logps[rejected], logits)
    weight = beta * torch.sigmoid(-beta * margin)
    torch.testing.assert_close(got, (-weight * (up - down)).detach())


def test_an_answer_in_no_pair_has_no_gradient_whatever_it_is_worth(world, beta):
    ref_logps, rewards = world
    rewards = rewards.clone()
    rewards[4] = 10.0
    logits = ref_logps.clone().requires_grad_()
    pairs = [pair for pair in PAIRS if 4 not in pair]
    loss = expected_loss(logits.log_softmax(0), ref_logps, bradley_terry(rewards), beta, pairs)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[4].abs() < 1e-15 < gradient[:4].abs().max()


def test_what_the_reference_writes_loses_on_average_under_any_policy(world, beta):
    ref_logps, rewards = world
    for logps in (optimum(ref_logps, rewards, beta)[0], torch.zeros(N, dtype=torch.float64).log_softmax(0)):
        mean = (ref_logps.exp() * (logps - ref_logps)).sum()
        assert mean.item() == pytest.approx(-exact_kl(ref_logps, logps).item())
        assert mean < 0


def test_at_the_optimum_of_a_low_price_chosen_answers_are_less_likely_than_under_the_reference(world):
    ref_logps, rewards = world
    pairs = ref_logps.exp()[:, None] * ref_logps.exp() * bradley_terry(rewards) * (1 - torch.eye(N))
    log_ratios = optimum(ref_logps, rewards, beta=0.1)[0] - ref_logps
    chosen, rejected = ((pairs.sum(side) * log_ratios).sum() / pairs.sum() for side in (1, 0))
    assert rejected < chosen < 0
