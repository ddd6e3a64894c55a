import math

import pytest
import references as ref
import torch

from rlhf_course import kl
from rlhf_course.seeding import torch_stream


def normal(*shape, name="x"):
    return torch.randn(shape, generator=torch_stream(0, "kl", name), dtype=torch.float64)


def test_the_three_estimators():
    logps, ref_logps = -normal(2, 3).abs(), -normal(2, 3, name="ref").abs()
    expected = {
        "k1": [a - b for a, b in zip(logps.flatten().tolist(), ref_logps.flatten().tolist())],
        "k2": [(a - b) ** 2 / 2 for a, b in zip(logps.flatten().tolist(), ref_logps.flatten().tolist())],
        "k3": [ref.k3(a, b) for a, b in zip(logps.flatten().tolist(), ref_logps.flatten().tolist())],
    }
    for name, values in expected.items():
        out = kl.kl_estimate(logps, ref_logps, name)
        assert out.shape == (2, 3)
        assert out.flatten().tolist() == pytest.approx(values)
        inputs = (logps.clone().requires_grad_(), ref_logps.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda a, b, n=name: kl.kl_estimate(a, b, n), inputs)


def test_k2_and_k3_are_never_negative_and_near_0_alike():
    d = torch.tensor([-1e-3, -1e-4, 0.0, 1e-4, 1e-3])  # float32: e^−d − 1 + d loses all its digits here
    zero = torch.zeros(5)
    for name in ("k2", "k3"):
        assert (kl.kl_estimate(d, zero, name) >= 0).all()
    torch.testing.assert_close(kl.kl_estimate(d, zero, "k3"), kl.kl_estimate(d, zero, "k2"), rtol=0.2, atol=1e-10)


def test_exact_kl_of_logits_and_of_log_probabilities():
    p, q = 2 * normal(4, 7), 2 * normal(4, 7, name="q")
    expected = [ref.kl(a, b) for a, b in zip(p.tolist(), q.tolist())]
    assert kl.exact_kl(p, q).tolist() == pytest.approx(expected)
    assert kl.exact_kl(p.log_softmax(-1), q.log_softmax(-1)).tolist() == pytest.approx(expected)
    assert kl.exact_kl(q, p).tolist() != pytest.approx(expected, rel=0.01), "it has a direction"
    assert kl.exact_kl(p, p).tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert torch.autograd.gradcheck(kl.exact_kl, (p.requires_grad_(), q.requires_grad_()))


def test_exact_kl_where_a_word_has_no_chance():
    cut, full = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True), torch.zeros(3)
    value = kl.exact_kl(cut, full)
    value.backward()
    assert value.item() == pytest.approx(math.log(3 / 2))
    assert cut.grad.isfinite().all()
    assert kl.exact_kl(cut, cut).item() == 0
    assert kl.exact_kl(full, cut).item() == math.inf


def test_adaptive_beta_is_zieglers():
    assert kl.adaptive_beta(0.1, kl=6.0, target=6.0, batch_size=64, horizon=10_000) == pytest.approx(0.1)
    assert kl.adaptive_beta(0.1, 6.6, 6.0, 64, 10_000) == pytest.approx(0.1 * (1 + 0.1 * 64 / 10_000))
    assert kl.adaptive_beta(0.1, 60.0, 6.0, 64, 10_000) == pytest.approx(0.1 * (1 + 0.2 * 64 / 10_000))
    assert kl.adaptive_beta(0.1, -3.0, 6.0, 64, 10_000) == pytest.approx(0.1 * (1 - 0.2 * 64 / 10_000))


def test_adaptive_controller_finds_the_beta_that_holds_the_target():
    controller = kl.AdaptiveKLController(0.2, target=6.0, horizon=1000)
    for _ in range(400):
        controller.update(3.0 / controller.value, batch_size=100)  # a world where KL = 3/β: β must go to ½
    assert controller.value == pytest.approx(0.5, rel=0.01)


def test_fixed_controller_does_not_move():
    controller = kl.FixedKLController(0.05)
    controller.update(100.0, batch_size=64)
    assert controller.value == 0.05


def test_controllers_defaults():
    controller = kl.AdaptiveKLController(0.2)
    assert (controller.value, controller.target, controller.horizon) == (0.2, 6.0, 10_000)


REFUSED = [
    (
        lambda: kl.kl_estimate(normal(2), normal(2), "k4"),
        ValueError,
        "estimator must be one of 'k1', 'k2', 'k3'",
    ),
    (lambda: kl.kl_estimate(normal(2), normal(2, 1), "k1"), ValueError, r"logps \(2,\), ref_logps \(2, 1\)"),
    (lambda: kl.kl_estimate(1.0, normal(2), "k1"), TypeError, "logps must be a torch.Tensor, got float"),
    (lambda: kl.exact_kl(normal(2, 3), normal(3, 3)), ValueError, r"logits \(2, 3\), ref_logits \(3, 3\)"),
    (lambda: kl.exact_kl(normal(), normal()), ValueError, "at least 1 dimension"),
    (lambda: kl.AdaptiveKLController(0.0), ValueError, "init_kl_coef must be above 0"),
    (lambda: kl.AdaptiveKLController(0.1, target=-1.0), ValueError, "target must be above 0"),
    (lambda: kl.AdaptiveKLController(0.1, horizon=0.5), ValueError, "horizon must be a whole number"),
    (lambda: kl.AdaptiveKLController(0.1).update(math.nan, 8), ValueError, "kl must be finite, got nan"),
    (
        lambda: kl.AdaptiveKLController(0.1, horizon=4).update(1.0, 8),
        ValueError,
        "horizon must be at least 8",
    ),
    (lambda: kl.FixedKLController(-0.1), ValueError, "kl_coef must be at least 0"),
    (lambda: kl.FixedKLController("0.1"), TypeError, "kl_coef must be a number, got str"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
