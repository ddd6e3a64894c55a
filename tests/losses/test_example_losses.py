"""The losses on whole answers: reward model, DPO and its variants, IPO, KTO."""

import math

import pytest
import references as ref
import torch

from rlhf_course.losses import dpo_loss, ipo_loss, kto_loss, reward_loss
from rlhf_course.seeding import torch_stream

KNOWN = (  # policy chosen, policy rejected, reference chosen, reference rejected: h = 0, 10, 20
    torch.tensor([-0.5, -10.0, -1.0]),
    torch.tensor([-0.1, -30.0, -21.0]),
    torch.tensor([-0.5, -10.1, -0.1]),
    torch.tensor([-0.1, -20.1, -0.1]),
)
LENGTHS = {"chosen_lengths": torch.tensor([2, 5, 4]), "rejected_lengths": torch.tensor([2, 10, 8])}


def normal(*shape, name="x", scale=1.0):
    return scale * torch.randn(shape, generator=torch_stream(0, "example losses", name), dtype=torch.float64)


def four(scale=10.0):
    return tuple(normal(8, name=name, scale=scale) for name in ("pc", "pr", "rc", "rr"))


def h(pc, pr, rc, rr):
    return ((pc - rc) - (pr - rr)).tolist()


def check_reductions(function, expected):
    assert function(reduction="none").tolist() == pytest.approx(expected)
    assert function(reduction="sum").item() == pytest.approx(math.fsum(expected))
    assert function().item() == pytest.approx(ref.mean(expected)), "the mean is the default"


def test_the_worked_example_of_bradley_terry():
    loss = reward_loss(torch.tensor([3.7]), torch.tensor([2.1]))
    assert math.exp(-loss.item()) == pytest.approx(0.832, abs=5e-4)


@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_reward_loss(with_margin, centring):
    chosen, rejected, margin = (normal(8, name=name, scale=3) for name in ("chosen", "rejected", "margin"))
    margin = margin.abs() if with_margin else None
    shifts = margin.tolist() if with_margin else [0.0] * 8
    expected = [
        ref.neg_log_sigmoid(c - r - m) + centring * (c + r) ** 2
        for c, r, m in zip(chosen.tolist(), rejected.tolist(), shifts)
    ]
    options = {"margin": margin, "center_rewards_coefficient": centring}
    check_reductions(lambda **kw: reward_loss(chosen, rejected, **options, **kw), expected)
    inputs = (chosen.requires_grad_(), rejected.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, r: reward_loss(c, r, **options), inputs)


def test_a_reward_has_no_zero_until_it_is_centred():
    chosen, rejected = normal(8, name="chosen"), normal(8, name="rejected")
    torch.testing.assert_close(reward_loss(chosen + 5, rejected + 5), reward_loss(chosen, rejected))
    centred = {"center_rewards_coefficient": 0.01}
    assert reward_loss(chosen + 5, rejected + 5, **centred) > reward_loss(chosen, rejected, **centred)


def test_reward_loss_of_a_huge_gap_is_finite():
    loss = reward_loss(torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4]), reduction="none")
    assert loss.tolist() == [2e4, 0.0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.693147, 0.313262, 0.126928]),
        ({"loss_type": "hinge"}, [1.0, 0.0, 0.0]),
        ({"label_smoothing": 0.1}, [0.693147, 0.413262, 0.326928]),
        ({"loss_type": "robust", "label_smoothing": 0.1}, [0.693147, 0.188262, -0.123072]),
    ],
)
def test_dpo_known_answers(options, expected):
    assert dpo_loss(*KNOWN, **options, reduction="none").tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("loss_type", "eps"),
    [("sigmoid", 0.0), ("sigmoid", 0.2), ("robust", 0.0), ("robust", 0.2), ("hinge", 0.0)],
)
def test_dpo_loss(loss_type, eps):
    logps = four()
    expected = [ref.dpo(x, 0.3, loss_type, eps) for x in h(*logps)]
    options = {"loss_type": loss_type, "label_smoothing": eps}
    check_reductions(lambda **kw: dpo_loss(*logps, 0.3, **options, **kw), expected)
    inputs = tuple(x.requires_grad_() for x in logps)
    assert torch.autograd.gradcheck(lambda *xs: dpo_loss(*xs, 0.3, **options), inputs)


def test_reference_free_takes_the_references_terms_for_0():
    pc, pr, rc, rr = four()
    zero = torch.zeros_like(pc)
    free = dpo_loss(pc, pr, rc, rr, reference_free=True, reduction="none")
    torch.testing.assert_close(free, dpo_loss(pc, pr, zero, zero, reduction="none"))
    torch.testing.assert_close(free, dpo_loss(pc, pr, None, None, reference_free=True, reduction="none"))


def test_robust_dpo_is_unbiased_under_flipped_labels():
    pc, pr, rc, rr = four()
    eps, options = 0.2, {"loss_type": "robust", "label_smoothing": 0.2, "reduction": "none"}
    noisy = (1 - eps) * dpo_loss(pc, pr, rc, rr, **options) + eps * dpo_loss(pr, pc, rr, rc, **options)
    torch.testing.assert_close(noisy, dpo_loss(pc, pr, rc, rr, reduction="none"))


def test_ipo_known_answers():
    assert ipo_loss(*KNOWN, reduction="none").tolist() == pytest.approx([25, 25, 225], rel=1e-5)
    averaged = ipo_loss(*KNOWN, **LENGTHS, reduction="none").tolist()
    assert averaged == pytest.approx([25, 15.9201, 6.825156], rel=1e-5)


@pytest.mark.parametrize("averaged", [False, True])
def test_ipo_loss(averaged):
    pc, pr, rc, rr = logps = four()
    lc, lr = torch.arange(1, 9), torch.arange(9, 1, -1)
    options = {"chosen_lengths": lc, "rejected_lengths": lr} if averaged else {}
    lc, lr = (lc, lr) if averaged else (torch.ones(8), torch.ones(8))
    gaps = [c / m - r / n for c, r, m, n in zip((pc - rc).tolist(), (pr - rr).tolist(), lc.tolist(), lr.tolist())]
    expected = [(gap - 2.5) ** 2 for gap in gaps]
    check_reductions(lambda **kw: ipo_loss(*logps, 0.2, **options, **kw), expected)
    inputs = tuple(x.requires_grad_() for x in logps)
    assert torch.autograd.gradcheck(lambda *xs: ipo_loss(*xs, 0.2, **options), inputs)


def test_ipo_is_least_at_its_target_where_dpo_still_pulls():
    zero, target = torch.zeros(1), torch.tensor([5.0], requires_grad=True)  # 1/(2β) at β = 0.1
    (ipo,) = torch.autograd.grad(ipo_loss(target, zero, zero, zero), target)
    (dpo,) = torch.autograd.grad(dpo_loss(target, zero, zero, zero), target)
    assert ipo.item() == 0
    assert dpo.item() < 0


def test_an_empty_completion_counts_as_one_token():
    zero, lengths = torch.zeros(1), torch.tensor([0])
    loss = ipo_loss(zero, zero, zero, zero, chosen_lengths=lengths, rejected_lengths=lengths)
    assert loss.item() == pytest.approx(25)


LABELS = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
@pytest.mark.parametrize("kl", [1.5, -1.5])
def test_kto_loss(kind, kl):
    policy, reference = normal(8, name="policy", scale=5), normal(8, name="reference", scale=5)
    ratios = (policy - reference).tolist()
    expected = [ref.kto(r, bool(label), kl, 0.2, 1.3 if label else 0.7) for r, label in zip(ratios, LABELS.tolist())]
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
    arguments = (policy, reference, LABELS.to(kind))
    check_reductions(lambda **kw: kto_loss(*arguments, torch.tensor(kl), 0.2, **weights, **kw), expected)
    check_reductions(lambda **kw: kto_loss(*arguments, kl, 0.2, **weights, **kw), expected)
    assert torch.autograd.gradcheck(
        lambda p: kto_loss(p, reference, LABELS, kl, 0.2, **weights), policy.requires_grad_()
    )


def test_kto_loss_of_huge_ratios_is_exact():
    loss = kto_loss(
        torch.tensor([400.0, -400.0]), torch.zeros(2), torch.tensor([1, 0]), 0.0, beta=0.1, reduction="none"
    )
    torch.testing.assert_close(loss, torch.full((2,), math.exp(-40)), rtol=1e-5, atol=0)


X = torch.zeros(3)
REFUSED = [
    (
        lambda: reward_loss(X, torch.zeros(3, 1)),
        ValueError,
        r"chosen_rewards \(3,\), rejected_rewards \(3, 1\)",
    ),
    (lambda: reward_loss(X, X, margin=torch.zeros(1)), ValueError, r"margin \(1,\)"),
    (lambda: reward_loss(X, X, margin=0.5), TypeError, "margin must be a torch.Tensor, got float"),
    (lambda: reward_loss([1.0], X), TypeError, "chosen_rewards must be a torch.Tensor, got list"),
    (lambda: reward_loss(X.long(), X), TypeError, "chosen_rewards must hold floating-point"),
    (
        lambda: reward_loss(X, X, center_rewards_coefficient=-1),
        ValueError,
        "center_rewards_coefficient must be at least 0",
    ),
    (
        lambda: reward_loss(X, X, reduction="avg"),
        ValueError,
        "reduction must be one of 'mean', 'sum', 'none'",
    ),
    (lambda: dpo_loss(X, X, X, torch.zeros(2)), ValueError, r"ref_rejected_logps \(2,\)"),
    (lambda: dpo_loss(X, X, None, None), TypeError, "ref_chosen_logps must be a torch.Tensor, got NoneType"),
    (lambda: dpo_loss([0.0], X, X, X, reference_free=True), TypeError, "policy_chosen_logps must be a torch"),
    (lambda: dpo_loss(*[torch.zeros(3, 4)] * 4), ValueError, "policy_chosen_logps must have 1 dimension"),
    (lambda: dpo_loss(X, X, X, X, 0.0), ValueError, "beta must be above 0, got 0.0"),
    (lambda: dpo_loss(X, X, X, X, True), TypeError, "beta must be a number, got bool"),
    (lambda: dpo_loss(X, X, X, X, loss_type="ipo"), ValueError, "loss_type must be one of .* got 'ipo'"),
    (lambda: dpo_loss(X, X, X, X, label_smoothing=0.6), ValueError, "label_smoothing must be .* at most 0.5"),
    (
        lambda: dpo_loss(X, X, X, X, loss_type="robust", label_smoothing=0.5),
        ValueError,
        "label_smoothing must be at least 0 and below 0.5, got 0.5",
    ),
    (
        lambda: dpo_loss(X, X, X, X, loss_type="hinge", label_smoothing=0.1),
        ValueError,
        "label_smoothing must be 0 with loss_type 'hinge'",
    ),
    (lambda: ipo_loss(X, X, X, X, chosen_lengths=torch.ones(3)), ValueError, "got rejected_lengths=None"),
    (
        lambda: ipo_loss(X, X, X, X, chosen_lengths=torch.ones(2), rejected_lengths=torch.ones(3)),
        ValueError,
        r"chosen_lengths \(2,\)",
    ),
    (
        lambda: ipo_loss(X, X, X, X, chosen_lengths=torch.ones(3), rejected_lengths=-torch.ones(3)),
        ValueError,
        "rejected_lengths must be at least 0",
    ),
    (lambda: ipo_loss(X, X, X, X, -0.1), ValueError, "beta must be above 0"),
    (
        lambda: kto_loss(X, X, torch.tensor([1, 0, -1]), 0.0),
        ValueError,
        "labels must hold only 0 and 1.*got -1",
    ),
    (lambda: kto_loss(X, X, torch.ones(2), 0.0), ValueError, r"labels must have shape \(3,\), got \(2,\)"),
    (lambda: kto_loss(X, X, torch.ones(3), X), ValueError, r"kl must be one number .* got shape \(3,\)"),
    (lambda: kto_loss(X, X, torch.ones(3), None), TypeError, "kl must be a number, got NoneType"),
    (
        lambda: kto_loss(X, X, torch.ones(3), 0.0, desirable_weight=-1.0),
        ValueError,
        "desirable_weight must be at least 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
