"""Traps 1 and 2, by exact enumeration: which estimators of KL(π‖π_ref) have which value, and which gradient.

Old policies have probabilities that are whole twentieths (or quarters). A batch that holds each outcome as
often as its probability says has the expectation as its mean: the package's own losses are held to the truth
without noise. True gradients come from autograd on the full sum over outcomes, once from the formula by hand.
"""

import pytest
import torch

from rlhf_course.advantages import gae, kl_shaped_rewards
from rlhf_course.kl import exact_kl, kl_estimate
from rlhf_course.losses import grpo_loss, ppo_clip_loss, ppo_rlhf_loss
from rlhf_course.seeding import torch_stream

COUNTS = torch.tensor([1, 2, 3, 4, 4, 5, 1])  # of 20: the old policy on a 7-way softmax
ACTIONS = torch.arange(7).repeat_interleave(COUNTS)
OLD = (COUNTS.double() / 20).log()
REF = torch.tensor([0.3, -1.0, 0.5, 0.2, -0.4, 0.8, -0.2], dtype=torch.float64).log_softmax(-1)


def leaf(logits):
    return logits.clone().requires_grad_()


def one_epoch_off(*logits):
    """Logits a noticeable step away from those that sampled."""
    generator = torch_stream(0, "one epoch off")
    return [leaf(x + 0.4 * torch.randn(x.shape, generator=generator, dtype=x.dtype)) for x in logits]


def gradient(loss, *parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def forward_kl(logp, logq):
    return (logp.exp() * (logp - logq)).sum(-1)


def error(found, truth):
    """The length of the difference, as a part of the true gradient's length."""
    return ((found - truth).norm() / truth.norm()).item()


def seven_way(off):
    """(θ, log π of the sampled actions, their log π_old and log π_ref, the true gradient of the KL)."""
    theta = one_epoch_off(OLD)[0] if off else leaf(OLD)
    logp = theta.log_softmax(-1)
    truth = gradient(forward_kl(theta.log_softmax(-1), REF), theta)
    return theta, logp[ACTIONS], OLD[ACTIONS], REF[ACTIONS], truth


def test_the_true_gradient_by_hand_and_through_exact_kl():
    theta = leaf(OLD)
    by_hand = OLD.exp() * (OLD - REF - forward_kl(OLD, REF))
    torch.testing.assert_close(seven_way(off=False)[-1], by_hand)
    torch.testing.assert_close(gradient(exact_kl(theta, REF), theta), by_hand)


def test_trap_01_k1_as_a_loss_has_an_expected_gradient_of_exactly_zero():
    theta, logps, _, ref_logps, truth = seven_way(off=False)
    found = gradient(kl_estimate(logps, ref_logps, "k1").mean(), theta)
    torch.testing.assert_close(found, torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-15)
    assert truth.norm() > 0.1, "there was a gradient to be had"


def test_trap_01_k1_in_the_detached_reward_is_right():
    theta, logps, _, ref_logps, truth = seven_way(off=False)
    penalty = -kl_estimate(logps, ref_logps, "k1").detach()
    torch.testing.assert_close(gradient(-(penalty * logps).mean(), theta), truth)


def test_trap_01_k2_as_a_loss_is_right_on_policy_only():
    for off in (False, True):
        theta, logps, _, ref_logps, truth = seven_way(off)
        found = gradient(kl_estimate(logps, ref_logps, "k2").mean(), theta)
        if off:
            assert error(found, truth) > 0.1
        else:
            torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("off", [False, True])
def test_trap_01_ratio_times_k3_is_right_over_inner_epochs(off):
    theta, logps, old_logps, ref_logps, truth = seven_way(off)
    term = ((logps - old_logps).exp() * kl_estimate(logps, ref_logps, "k3")).mean()
    torch.testing.assert_close(term, forward_kl(theta.log_softmax(-1), REF))
    torch.testing.assert_close(gradient(term, theta), truth)


@pytest.mark.parametrize("off", [False, True])
def test_trap_01_ppo_rlhf_and_grpo_losses_carry_the_right_kl(off):
    theta, logps, old_logps, ref_logps, truth = seven_way(off)
    zero = torch.zeros_like(logps)
    ppo = ppo_rlhf_loss(logps, old_logps, ref_logps, zero, beta=0.7)
    torch.testing.assert_close(gradient(ppo, theta), 0.7 * truth)

    theta, logps, old_logps, ref_logps, truth = seven_way(off)
    columns = [x.unsqueeze(-1) for x in (logps, old_logps)]
    options = {"ref_logps": ref_logps.unsqueeze(-1), "beta": 0.7}
    grpo = grpo_loss(*columns, zero, torch.ones(len(zero), 1), **options)
    torch.testing.assert_close(gradient(grpo, theta), 0.7 * truth)


def test_trap_01_plain_k3_as_a_loss_pulls_on_the_reverse_divergence():
    theta, logps, _, ref_logps, truth = seven_way(off=False)
    found = gradient(kl_estimate(logps, ref_logps, "k3").mean(), theta)
    torch.testing.assert_close(found, gradient(forward_kl(REF, theta.log_softmax(-1)), theta))
    assert error(found, truth) > 0.1


def test_trap_02_expectations_of_the_three_estimators():
    _, logps, _, ref_logps, _ = seven_way(off=False)
    truth = forward_kl(OLD, REF).item()
    means = {name: kl_estimate(logps, ref_logps, name).mean().item() for name in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(truth)
    assert means["k3"] == pytest.approx(truth)
    assert means["k2"] != pytest.approx(truth, rel=0.01), "k2 is biased"
    d = logps - ref_logps
    assert (-d).mean().item() == pytest.approx(-truth), "k1 with its sign flipped is negative"
    assert (d.exp() - d - 1).mean().item() != pytest.approx(truth, rel=0.05), "k3 with its ratio inverted"
    assert kl_estimate(logps, ref_logps, "k3").var() < kl_estimate(logps, ref_logps, "k1").var()


# Two tokens from three words each, the first with probabilities of 1, 2, 1 quarters. Where it leads matters:
# after word 0 the policy agrees with the reference, after word 2 it is far from it.
QUARTERS = torch.tensor([[1, 2, 1], [1, 1, 2], [2, 1, 1], [2, 1, 1]])
FIRST, SECOND = (QUARTERS[0] / 4).double().log(), (QUARTERS[1:] / 4).double().log()
REF_FIRST = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()
REF_SECOND = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.5, 0.3], [0.001, 0.009, 0.99]], dtype=torch.float64).log()
PAIRS = torch.tensor([(a, b) for a in range(3) for b in range(3) for _ in range(QUARTERS[0, a] * QUARTERS[1 + a, b])])


def pair_logps(first, second):
    """(16, 2) log-probabilities of both tokens of every sampled pair."""
    a, b = PAIRS.unbind(1)
    return torch.stack([first.log_softmax(-1)[a], second.log_softmax(-1)[a, b]], dim=1)


def two_tokens(off):
    """(parameters, log π, log π_old, log π_ref of the pairs, the true gradient of the sequences' KL)."""
    parameters = one_epoch_off(FIRST, SECOND) if off else [leaf(FIRST), leaf(SECOND)]
    first, second = (x.log_softmax(-1) for x in parameters)
    joint, ref_joint = first.unsqueeze(1) + second, REF_FIRST.unsqueeze(1) + REF_SECOND
    truth = gradient(forward_kl(joint.flatten(), ref_joint.flatten()), *parameters)
    return (
        parameters,
        pair_logps(*parameters),
        pair_logps(FIRST, SECOND),
        pair_logps(REF_FIRST, REF_SECOND),
        truth,
    )


def each_states_own_kl(parameters):
    """The KL of the first word, and of the second in the states that π_old visits; visits held constant."""
    first, second = (x.log_softmax(-1) for x in parameters)
    return forward_kl(first, REF_FIRST) + (FIRST.exp() * forward_kl(second, REF_SECOND)).sum()


def test_the_batch_of_pairs_is_the_old_policys_distribution():
    assert len(PAIRS) == 16
    _, logps, _, ref_logps, _ = two_tokens(off=False)
    joint, ref_joint = FIRST.unsqueeze(1) + SECOND, REF_FIRST.unsqueeze(1) + REF_SECOND
    truth = forward_kl(joint.flatten(), ref_joint.flatten())
    torch.testing.assert_close((logps - ref_logps).sum(1).mean(), truth)


@pytest.mark.parametrize(("form", "off"), [("k2", False), ("ratio·k3", False), ("ratio·k3", True)])
def test_trap_01_loss_terms_per_token_miss_the_effect_on_later_states(form, off):
    parameters, logps, old_logps, ref_logps, truth = two_tokens(off)
    if form == "k2":
        terms = kl_estimate(logps, ref_logps, "k2")
    else:
        terms = (logps - old_logps).exp() * kl_estimate(logps, ref_logps, "k3")
    found = gradient(terms.sum(1).mean(), *parameters)
    torch.testing.assert_close(found, gradient(each_states_own_kl(parameters), *parameters))
    on_the_first_word = slice(0, 3)
    assert error(found[on_the_first_word], truth[on_the_first_word]) > 0.5, "off by most of the true gradient"


def test_trap_01_per_token_k1_as_a_loss_still_holds_nothing_back():
    parameters, logps, _, ref_logps, _ = two_tokens(off=False)
    found = gradient(kl_estimate(logps, ref_logps, "k1").sum(1).mean(), *parameters)
    torch.testing.assert_close(found, torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-15)


def test_trap_01_k1_in_the_reward_with_reward_to_go_is_exact_for_sequences():
    parameters, logps, _, ref_logps, truth = two_tokens(off=False)
    mask = torch.ones(16, 2)
    rewards = kl_shaped_rewards(torch.zeros(16).double(), logps, ref_logps, mask, beta=0.7)
    to_go, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    loss = 2 * ppo_clip_loss(logps, logps.detach(), to_go, mask)  # its mean is over tokens, two per sequence
    torch.testing.assert_close(gradient(loss, *parameters), 0.7 * truth)


@pytest.mark.parametrize(("form", "off"), [("k2", False), ("ratio·k3", False), ("ratio·k3", True)])
def test_trap_01_whole_sequences_as_one_action_are_right(form, off):
    parameters, logps, old_logps, ref_logps, truth = two_tokens(off)
    logps, old_logps, ref_logps = logps.sum(1), old_logps.sum(1), ref_logps.sum(1)
    if form == "k2":
        loss = kl_estimate(logps, ref_logps, "k2").mean()
    else:
        loss = ppo_rlhf_loss(logps, old_logps, ref_logps, torch.zeros_like(logps), beta=1.0)
    torch.testing.assert_close(gradient(loss, *parameters), truth)
