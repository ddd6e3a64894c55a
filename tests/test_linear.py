"""Linear layers by oneDNN: what they return and their gradients, and when they stand aside."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_course.models import linear, unpadded
from rlhf_course.models.linear import FEWEST, OneDNNLinear, Product, use_onednn
from rlhf_course.models.unpadded import hidden_states

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this build of PyTorch is without oneDNN"
)
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "pad_token_id": 0,
}


def product(states, weight):
    return states @ weight.T


@pytest.mark.parametrize("shape", [(300, 17), (2, 150, 17), (1, 1, 17)])
def test_product_and_its_gradients_are_those_of_float64(shape):
    torch.manual_seed(0)
    states, weight = torch.randn(shape, requires_grad=True), torch.randn(23, 17, requires_grad=True)
    exact = [x.detach().double().requires_grad_() for x in (states, weight)]
    upstream = torch.randn(*shape[:-1], 23)
    found, expected = Product.apply(states, weight), product(*exact)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(found, (states, weight), upstream)
    for mine, right in zip(gradients, torch.autograd.grad(expected, exact, upstream.double())):
        torch.testing.assert_close(mine, right.float(), rtol=1e-4, atol=1e-4)


def test_a_gradient_that_is_spread_out_without_memory_of_its_own():
    """What `sum()` sends back has one number for all places."""
    states, weight = torch.randn(300, 17, requires_grad=True), torch.randn(23, 17, requires_grad=True)
    found = torch.autograd.grad(Product.apply(states, weight).sum(), (states, weight))
    expected = torch.autograd.grad(product(states, weight).sum(), (states, weight))
    for mine, right in zip(found, expected):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", ["states", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen):
    given = {"states": torch.randn(300, 17), "weight": torch.randn(23, 17)}
    for name, tensor in given.items():
        tensor.requires_grad_(name != frozen)
    Product.apply(*given.values()).sum().backward()
    assert [name for name, tensor in given.items() if tensor.grad is None] == [frozen]


def test_layers_stay_linear_layers():
    layer = nn.Linear(17, 23)
    use_onednn(nn.Sequential(layer, nn.LayerNorm(23)))
    assert isinstance(layer, nn.Linear) and isinstance(copy.deepcopy(layer), OneDNNLinear)
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, FEWEST - 1, FEWEST, 3 * FEWEST])
def test_layers_return_what_they_did(dtype, tokens):
    layer = nn.Linear(17, 23).to(dtype)
    states = torch.randn(tokens, 17, dtype=dtype)
    expected = layer(states)
    use_onednn(layer)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(layer(states), expected, **tolerance)


def test_under_autocast_a_layer_rounds_as_ever():
    layer, states = nn.Linear(17, 23), torch.randn(FEWEST, 17)
    use_onednn(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16


@pytest.mark.parametrize("lengths", [(9, 3), (9, 8)], ids=["much padding", "little padding"])
def test_hidden_states_and_gradients_are_the_same_by_onednn(monkeypatch, lengths):
    """The number of real tokens is no round one, so that some stand twice."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    other = copy.deepcopy(model)
    ids = torch.randint(1, 40, (121, 9))
    mask = (torch.arange(9) < torch.tensor(lengths).repeat(61)[:121, None]).long()
    assert mask.sum() % unpadded.ROUND and mask.sum() > FEWEST
    found = {}
    for each, there in ((model, True), (other, False)):
        monkeypatch.setattr(unpadded, "pays", lambda there=there: there)
        states = hidden_states(each.base_model, ids, mask)[mask.bool()]
        states.pow(3).sum().backward()
        found[there] = [states.detach(), *(p.grad for p in each.base_model.parameters())]
    assert isinstance(model.model.layers[0].mlp.up_proj, OneDNNLinear)
    assert not isinstance(other.model.layers[0].mlp.up_proj, OneDNNLinear)
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-5, atol=1e-5)
    for mine, right in zip(found[True][1:], found[False][1:]):
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("processor", "capability", "expected"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True),
        ("vendor_id : AuthenticAMD", "AVX2", False),
        ("vendor_id : GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_onednn_is_called_where_it_pays(monkeypatch, processor, capability, expected):
    monkeypatch.setattr(linear, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert linear.pays.__wrapped__() is expected
