import math

import pytest
import references as ref
import torch

from rlhf_course import logprobs
from rlhf_course.seeding import torch_stream


def normal(*shape, name="x", dtype=torch.float64):
    return torch.randn(shape, generator=torch_stream(0, "logprobs", name), dtype=torch.float64).to(dtype)


def words(*shape, vocabulary=7):
    return torch.randint(vocabulary, shape, generator=torch_stream(0, "logprobs", "ids"))


MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]])


def test_selective_log_softmax_is_the_chosen_entry_of_the_log_softmax():
    logits, ids = 5 * normal(3, 4, 7), words(3, 4)
    out = logprobs.selective_log_softmax(logits, ids)
    for b in range(3):
        for t in range(4):
            expected = ref.log_softmax(logits[b, t].tolist())[ids[b, t]]
            assert out[b, t].item() == pytest.approx(expected, abs=1e-12)


def test_selective_log_softmax_takes_any_leading_shape_and_integer_type():
    logits, ids = normal(2, 3, 4, 7), words(2, 3, 4)
    out = logprobs.selective_log_softmax(logits, ids.to(torch.int32))
    flat = logprobs.selective_log_softmax(logits.reshape(24, 7), ids.reshape(24))
    torch.testing.assert_close(out.reshape(24), flat, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_gradient_of_selective_log_softmax(temperature):
    logits, ids = normal(3, 4, 7).requires_grad_(), words(3, 4)
    assert torch.autograd.gradcheck(lambda x: logprobs.selective_log_softmax(x, ids, temperature), logits)
    plain = (logits / temperature).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(logprobs.selective_log_softmax(logits, ids, temperature), plain)


def test_blocks_are_joined_in_order(monkeypatch):
    logits, ids = normal(5, 4, 7), words(5, 4)
    whole = logprobs.selective_log_softmax(logits, ids)
    monkeypatch.setattr(logprobs, "_BLOCK", 60)  # two rows of 28, then two, then one
    split = logits.clone().requires_grad_()
    out = logprobs.selective_log_softmax(split, ids)
    torch.testing.assert_close(out, whole, rtol=0, atol=0)
    weights = normal(5, 4, name="weights")
    (out * weights).sum().backward()
    expected = weights.unsqueeze(-1) * (torch.nn.functional.one_hot(ids, 7) - logits.softmax(-1))
    torch.testing.assert_close(split.grad, expected)


def test_logits_with_cut_off_words_and_huge_logits():
    logits = torch.tensor([[0.0, -math.inf, 0.0], [1e4, 0.0, -1e4]], requires_grad=True)
    out = logprobs.selective_log_softmax(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(out, torch.tensor([-math.log(2), -2e4]))
    out.sum().backward()
    assert logits.grad.isfinite().all()


def test_nothing_of_the_logits_size_is_kept_beside_them():
    logits, ids = normal(2, 8, 50, dtype=torch.bfloat16).requires_grad_(), words(2, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        logprobs.selective_log_softmax(logits, ids)
    large = [x for x in kept if x.numel() >= logits.numel()]
    assert [x.data_ptr() for x in large] == [logits.data_ptr()]


def test_token_logps_shifts_by_one():
    logits, ids = normal(2, 5, 7), words(2, 5)
    out = logprobs.token_logps(logits, ids)
    assert out.shape == (2, 4)
    for b in range(2):
        for t in range(1, 5):
            expected = ref.log_softmax(logits[b, t - 1].tolist())[ids[b, t]]
            assert out[b, t - 1].item() == pytest.approx(expected, abs=1e-12)


def test_token_logps_divides_by_the_temperature():
    logits, ids = normal(2, 5, 7), words(2, 5)
    torch.testing.assert_close(logprobs.token_logps(logits, ids, 0.7), logprobs.token_logps(logits / 0.7, ids))


def test_the_last_logits_get_no_gradient():
    logits = normal(2, 5, 7).requires_grad_()
    logprobs.token_logps(logits, words(2, 5)).sum().backward()
    assert (logits.grad[:, -1] == 0).all()
    assert (logits.grad[:, :-1] != 0).all()


def test_sequence_logps_sums_or_averages_real_tokens():
    logps = normal(3, 4)
    rows = [ref.real([row], [keep]) for row, keep in zip(logps.tolist(), MASK.tolist())]
    sums, averages = logprobs.sequence_logps(logps, MASK), logprobs.sequence_logps(logps, MASK, average=True)
    assert sums.tolist() == pytest.approx([math.fsum(row) for row in rows])
    assert averages.tolist() == pytest.approx([ref.mean(row) for row in rows])


def test_entropy():
    logits = 3 * normal(4, 7)
    assert logprobs.entropy(logits).tolist() == pytest.approx([ref.entropy(row) for row in logits.tolist()])
    assert logprobs.entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert torch.autograd.gradcheck(logprobs.entropy, logits.requires_grad_())


def test_entropy_of_cut_off_words_is_finite_with_its_gradient():
    logits = torch.tensor([0.0, 1.0, -math.inf], dtype=torch.float64, requires_grad=True)
    value = logprobs.entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(ref.entropy([0.0, 1.0]))
    assert logits.grad.isfinite().all()
    assert logits.grad[2] == 0


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masked_mean_and_var_take_any_kind_of_mask(kind):
    x, mask = normal(3, 4), MASK.to(kind)
    kept = ref.real(x.tolist(), MASK.tolist())
    assert logprobs.masked_mean(x, mask).item() == pytest.approx(ref.mean(kept))
    assert logprobs.masked_var(x, mask).item() == pytest.approx(ref.variance(kept))
    rows = [ref.mean(ref.real([r], [m])) for r, m in zip(x.tolist(), MASK.tolist())]
    assert logprobs.masked_mean(x, mask, dim=-1).tolist() == pytest.approx(rows)


@pytest.mark.parametrize("function", [logprobs.masked_mean, logprobs.masked_var, logprobs.masked_whiten])
def test_gradients_of_masked_statistics(function):
    assert torch.autograd.gradcheck(lambda x: function(x, MASK), normal(3, 4).requires_grad_())


def test_one_real_element_has_no_variance():
    x, mask = torch.tensor([3.0, 99.0], requires_grad=True), torch.tensor([1, 0])
    assert logprobs.masked_var(x, mask).item() == 0
    assert logprobs.masked_whiten(x, mask).tolist() == [0, 0]
    assert logprobs.masked_whiten(x, mask, shift_mean=False).tolist() == [3, 0]
    logprobs.masked_whiten(x, mask).sum().backward()
    assert x.grad.isfinite().all()


REFUSED = [
    (
        lambda: logprobs.selective_log_softmax([[1.0]], words(1)),
        TypeError,
        "logits must be a torch.Tensor, got list",
    ),
    (
        lambda: logprobs.selective_log_softmax(words(2, 3), words(2)),
        TypeError,
        "logits must hold floating-point",
    ),
    (lambda: logprobs.selective_log_softmax(normal(3), words(1)), ValueError, "at least 2 dimensions"),
    (
        lambda: logprobs.selective_log_softmax(normal(2, 3, 7), words(2, 4)),
        ValueError,
        r"ids .*\(2, 3\).*\(2, 4\)",
    ),
    (lambda: logprobs.selective_log_softmax(normal(2, 7), normal(2)), TypeError, "ids must hold integers"),
    (
        lambda: logprobs.selective_log_softmax(normal(1, 7), torch.tensor([-100])),
        ValueError,
        "0 to 6, got -100",
    ),
    (lambda: logprobs.selective_log_softmax(normal(1, 7), torch.tensor([7])), ValueError, "0 to 6, got 7"),
    (
        lambda: logprobs.selective_log_softmax(normal(1, 7), words(1), 0.0),
        ValueError,
        "temperature must be above 0",
    ),
    (lambda: logprobs.token_logps(normal(2, 7), words(2)), ValueError, r"logits must have 3 .*\(2, 7\)"),
    (lambda: logprobs.token_logps(normal(2, 5, 7), words(2, 4)), ValueError, "input_ids"),
    (
        lambda: logprobs.sequence_logps(normal(2, 5), torch.ones(2, 4)),
        ValueError,
        r"mask .*\(2, 5\), got \(2, 4\)",
    ),
    (lambda: logprobs.sequence_logps(normal(2), torch.ones(2)), ValueError, "logps must have 2"),
    (
        lambda: logprobs.masked_mean(normal(2), torch.tensor([0, 2])),
        ValueError,
        "mask must hold only 0 and 1.*got 2",
    ),
    (lambda: logprobs.masked_var(normal(2), [1, 0]), TypeError, "mask must be a torch.Tensor, got list"),
    (lambda: logprobs.masked_whiten(words(2), torch.ones(2)), TypeError, "x must hold floating-point"),
    (lambda: logprobs.entropy("logits"), TypeError, "logits must be a torch.Tensor, got str"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
