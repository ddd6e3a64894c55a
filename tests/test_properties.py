"""Properties that hold for every batch: padding and order never matter, and 1 × 8 is 8 × 1.

Hypothesis draws the shapes, lengths and seeds; the same examples come every time.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_course.advantages import gae, group_advantages, kl_shaped_rewards, rloo_advantages
from rlhf_course.kl import exact_kl, kl_estimate
from rlhf_course.logprobs import (
    entropy,
    masked_mean,
    masked_var,
    masked_whiten,
    selective_log_softmax,
    sequence_logps,
    token_logps,
)
from rlhf_course.losses import (
    dpo_loss,
    grpo_loss,
    ipo_loss,
    kto_loss,
    ppo_clip_loss,
    ppo_rlhf_loss,
    ppo_value_loss,
    reward_loss,
    sft_loss,
)
from rlhf_course.seeding import torch_stream

every_time = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def token_batches(draw):
    """(x, others, mask): (B, T) tensors, right-padded; some rows may be empty, not all."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=2, max_size=8).filter(any))
    width = max(lengths) + draw(st.integers(0, 2))
    stream = torch_stream(draw(st.integers(0, 10_000)), "properties")
    x = -torch.randn(len(lengths), width, generator=stream, dtype=torch.float64).abs()
    others = [x + 0.3 * torch.randn(x.shape, generator=stream, dtype=torch.float64) for _ in range(3)]
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(-1)
    return x, others, mask


def grpo(kind, items=None):
    def loss(x, others, mask):
        options = {"loss_type": kind, "max_completion_length": 9, "num_items_in_batch": items}
        return grpo_loss(x, others[0], others[1], mask, ref_logps=others[2], beta=0.1, **options)

    return loss


TOKEN_LOSSES = {
    "sft": lambda x, o, m: sft_loss(x, m),
    "ppo clip": lambda x, o, m: ppo_clip_loss(x, o[0], o[1], m),
    "ppo value": lambda x, o, m: ppo_value_loss(x, o[0], o[1], m),
    "ppo rlhf": lambda x, o, m: ppo_rlhf_loss(x, o[0], o[2], o[1], m),
    **{f"grpo {kind}": grpo(kind) for kind in ("dapo", "grpo", "bnpo", "dr_grpo")},
    "mean": lambda x, o, m: masked_mean(x, m),
    "var": lambda x, o, m: masked_var(x, m),
    "sequences": lambda x, o, m: sequence_logps(x, m).square().sum(),
    "averages": lambda x, o, m: sequence_logps(x, m, average=True).square().sum(),
}


def value_and_gradient(loss, x, others, mask):
    x = x.clone().requires_grad_()
    value = loss(x, others, mask)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@every_time
@given(batch=token_batches(), extra=st.integers(1, 4), junk=st.sampled_from([0.0, 7.0, math.nan, math.inf]))
def test_padding_never_matters(name, batch, extra, junk):
    x, others, mask = batch

    def pad(t, value):
        wider = torch.nn.functional.pad(t, (0, extra), value=value)
        return wider if t.dtype == torch.bool else wider.masked_fill(~wider_mask, junk)

    wider_mask = torch.nn.functional.pad(mask, (0, extra), value=False)
    value, gradient = value_and_gradient(TOKEN_LOSSES[name], x, others, mask)
    padded = value_and_gradient(TOKEN_LOSSES[name], pad(x, junk), [pad(o, junk) for o in others], wider_mask)
    torch.testing.assert_close(padded[0], value)
    torch.testing.assert_close(padded[1][:, : x.shape[1]], gradient)
    assert (padded[1][~wider_mask] == 0).all()


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@every_time
@given(batch=token_batches(), data=st.data())
def test_the_order_of_a_batch_never_matters(name, batch, data):
    x, others, mask = batch
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    value, gradient = value_and_gradient(TOKEN_LOSSES[name], x, others, mask)
    moved = value_and_gradient(TOKEN_LOSSES[name], x[order], [o[order] for o in others], mask[order])
    torch.testing.assert_close(moved[0], value)
    torch.testing.assert_close(moved[1], gradient[order])


WITH_ITEMS = {
    "sft": lambda items: lambda x, o, m: sft_loss(x, m, num_items_in_batch=items),
    "ppo clip": lambda items: lambda x, o, m: ppo_clip_loss(x, o[0], o[1], m, num_items_in_batch=items),
    "grpo dapo": lambda items: grpo("dapo", items),
}


@pytest.mark.parametrize("name", WITH_ITEMS)
@every_time
@given(batch=token_batches(), as_tensor=st.booleans())
def test_one_batch_of_8_equals_8_batches_of_1(name, batch, as_tensor):
    x, others, mask = batch
    items = mask.sum() if as_tensor else int(mask.sum())
    whole, gradient = value_and_gradient(TOKEN_LOSSES[name], x, others, mask)
    loss = WITH_ITEMS[name](items)
    rows = [
        value_and_gradient(loss, x[i : i + 1], [o[i : i + 1] for o in others], mask[i : i + 1]) for i in range(len(x))
    ]
    torch.testing.assert_close(sum(value for value, _ in rows), whole)
    torch.testing.assert_close(torch.cat([grad for _, grad in rows]), gradient)


@every_time
@given(batch=token_batches(), extra=st.integers(1, 4), beta=st.floats(0, 1), lam=st.floats(0, 1))
def test_padding_never_matters_to_advantages(batch, extra, beta, lam):
    x, others, mask = batch

    def pad(t):
        return torch.nn.functional.pad(t, (extra, 2), value=False if t.dtype == torch.bool else math.nan)

    def whitened(x, others, mask):
        rewards = kl_shaped_rewards(torch.arange(float(len(x))), x, others[0], mask, beta)
        advantages, returns = gae(rewards, others[1], mask, lam=lam)
        return rewards, masked_whiten(advantages, mask), returns

    padded = whitened(pad(x), [pad(o) for o in others], pad(mask))
    for wide, out in zip(padded, whitened(x, others, mask)):
        torch.testing.assert_close(wide[:, extra:-2], out)
        assert (wide[:, :extra] == 0).all()
        assert (wide[:, -2:] == 0).all()


@every_time
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4), st.floats(-1e3, 1e3))
def test_group_baselines_centre_every_group_and_ignore_a_shift(seed, size, groups, shift):
    rewards = torch.randn(size * groups, generator=torch_stream(seed, "groups"), dtype=torch.float64)
    for function in (group_advantages, rloo_advantages):
        out = function(rewards, size)
        torch.testing.assert_close(out.view(groups, size).sum(1), torch.zeros(groups).double())
        torch.testing.assert_close(function(rewards + shift, size), out)


EXAMPLE_LOSSES = {
    "reward": lambda a, b, c, d, **kw: reward_loss(a, b, margin=c, center_rewards_coefficient=0.01, **kw),
    "dpo": lambda *logps, **kw: dpo_loss(*logps, label_smoothing=0.1, **kw),
    "dpo robust": lambda *logps, **kw: dpo_loss(*logps, loss_type="robust", label_smoothing=0.1, **kw),
    "dpo hinge": lambda *logps, **kw: dpo_loss(*logps, loss_type="hinge", **kw),
    "ipo": ipo_loss,
    "kto": lambda a, b, c, d, **kw: kto_loss(a, b, c > 0, 0.4, **kw),
}


@pytest.mark.parametrize("name", EXAMPLE_LOSSES)
@every_time
@given(seed=st.integers(0, 10_000), size=st.integers(1, 8), data=st.data())
def test_examples_are_judged_one_by_one(name, seed, size, data):
    logps = list(5 * torch.randn(4, size, generator=torch_stream(seed, "examples"), dtype=torch.float64))
    order = torch.tensor(data.draw(st.permutations(range(size))))
    loss = EXAMPLE_LOSSES[name]
    each = loss(*logps, reduction="none")
    torch.testing.assert_close(loss(*(x[order] for x in logps), reduction="none"), each[order])
    alone = [loss(*(x[i : i + 1] for x in logps)) for i in range(size)]
    torch.testing.assert_close(torch.stack(alone), each)
    torch.testing.assert_close(loss(*logps), each.mean())


def every_function(device):
    """(name, function, its tensors) for everything that takes tensors, on a device."""
    stream = torch_stream(0, "every function")
    tables = [torch.randn(4, 5, 7, generator=stream) for _ in range(2)]
    rows = [torch.randn(4, 5, generator=stream) for _ in range(4)]
    flat = [torch.randn(4, generator=stream) for _ in range(4)]
    ids, mask = torch.randint(7, (4, 5), generator=stream), torch.ones(4, 5)
    mask[:, 3:] = 0
    bools = mask.bool()
    calls = [(name, lambda *o, f=f: f(o[0], o[1:4], o[4]), (*rows, mask)) for name, f in TOKEN_LOSSES.items()]
    calls += [(name, f, tuple(flat)) for name, f in EXAMPLE_LOSSES.items()]
    calls += [
        ("selective_log_softmax", lambda *a: selective_log_softmax(*a, temperature=0.7), (tables[0], ids)),
        ("token_logps", token_logps, (tables[0], ids)),
        ("entropy", entropy, (tables[0],)),
        ("exact_kl", exact_kl, tuple(tables)),
        ("masked_whiten", masked_whiten, (rows[0], bools)),
        ("kl_shaped_rewards", lambda *a: kl_shaped_rewards(*a, 0.1), (flat[0], rows[0], rows[1], mask)),
        ("gae", lambda *a: gae(*a)[0], (rows[0], rows[1], mask)),
        ("group_advantages", lambda r: group_advantages(r, 2), (flat[0],)),
        ("rloo_advantages", lambda r: rloo_advantages(r, 2), (flat[0],)),
        *((k, lambda *a, k=k: kl_estimate(*a, k), (rows[0], rows[1])) for k in ("k1", "k2", "k3")),
    ]
    return [(name, function, [x.to(device) for x in tensors]) for name, function, tensors in calls]


@pytest.mark.parametrize(
    ("function", "tensors"), [pytest.param(f, xs, id=name) for name, f, xs in every_function("cpu")]
)
def test_inputs_are_left_as_they_were(function, tensors):
    before = [x.clone() for x in tensors]
    tensors[0].requires_grad_()
    out = function(*tensors)
    if out.requires_grad:
        out.sum().backward()
    for x, old in zip(tensors, before):
        torch.testing.assert_close(x.detach(), old, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "tensors"), [pytest.param(f, xs, id=name) for name, f, xs in every_function("meta")]
)
def test_results_stay_on_the_inputs_device_and_nothing_waits_for_a_value(function, tensors):
    # A meta tensor has a device, a shape and no values: to read one, as `.item()` would, raises.
    assert function(*tensors).device.type == "meta"
