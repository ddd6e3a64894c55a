"""Padding is left out of the work, and nobody could tell from the numbers."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf_course.generation import generate
from rlhf_course.models.unpadded import BY_ROWS, hidden_states

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40, "pad_token_id": 0}
ROTARY = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 2}
PLAIN = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**ROTARY)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**ROTARY)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**ROTARY, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**ROTARY, sliding_window=None)),
}
OTHERS = {
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**ROTARY, sliding_window=3)),
    "some layers with windows": lambda: Qwen2ForCausalLM(
        Qwen2Config(**ROTARY, use_sliding_window=True, sliding_window=3, max_window_layers=1)
    ),
    "eager": lambda: LlamaForCausalLM._from_config(LlamaConfig(**ROTARY), attn_implementation="eager"),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=40)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=24, max_position_embeddings=32)),
}
LENGTHS, WIDTH = (3, 7, 1, 5), 9


def made(make):
    torch.manual_seed(0)
    return make().eval()


def batch():
    """Rows with padding on the left, on the right, or on both sides."""
    ids = torch.randint(1, 40, (4, WIDTH), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros_like(ids)
    for row, (length, start) in enumerate(zip(LENGTHS, (6, 0, 4, 2))):
        mask[row, start : start + length] = 1
    return ids, mask


def one_by_one(model, ids, mask):
    body = model.base_model
    return torch.cat([body(row[real.bool()].unsqueeze(0)).last_hidden_state[0] for row, real in zip(ids, mask)])


@pytest.mark.parametrize("make", [*PLAIN.values(), *OTHERS.values()], ids=[*PLAIN, *OTHERS])
def test_each_row_is_as_if_alone_in_values_and_gradients(make):
    model, alone = made(make), made(make)
    ids, mask = batch()
    found = hidden_states(model.base_model, ids, mask)
    expected = one_by_one(alone, ids, mask)
    assert found.shape == (*ids.shape, found.shape[-1])
    torch.testing.assert_close(found[mask.bool()], expected, rtol=0, atol=1e-5)
    found[mask.bool()].pow(3).sum().backward()
    expected.pow(3).sum().backward()
    for p, q in zip(model.parameters(), alone.parameters()):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_no_work_is_done_on_padding(make):
    model, seen = made(make), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: seen.append(output.shape[:-1].numel()))
    hidden_states(model.base_model, *batch())
    assert seen == [sum(LENGTHS)] * 2


@pytest.mark.parametrize("make", [*PLAIN.values(), *OTHERS.values()], ids=[*PLAIN, *OTHERS])
@pytest.mark.parametrize("lengths", [(9, 9, 8, 9), (9, 4, 1, 2)], ids=["little padding", "much padding"])
def test_rows_that_begin_at_the_left_are_as_if_alone(make, lengths):
    model, (ids, _) = made(make), batch()
    mask = (torch.arange(WIDTH) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        found = hidden_states(model.base_model, ids, mask)
        torch.testing.assert_close(found[mask.bool()], one_by_one(model, ids, mask), rtol=0, atol=1e-5)


def test_rows_are_taken_apart_only_where_it_pays():
    model, (ids, _) = made(PLAIN["llama"]), batch()
    rows = torch.arange(WIDTH) < torch.tensor([[9], [9], [8], [9]])
    hidden_states(model.base_model, ids, rows)
    assert model.config._attn_implementation == "sdpa"
    hidden_states(model.base_model, ids, rows.flip(1))  # on the left, padding needs a mask otherwise
    assert model.config._attn_implementation == BY_ROWS


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_kinds_of_attention_are_left_as_they_are(make):
    model = made(make)
    before = model.config._attn_implementation
    hidden_states(model.base_model, *batch())
    assert model.config._attn_implementation == before


def test_what_stands_on_padding_changes_nothing():
    model, (ids, mask) = made(PLAIN["llama"]), batch()
    other = torch.where(mask.bool(), ids, 39)
    found, again = (hidden_states(model.base_model, tokens, mask) for tokens in (ids, other))
    assert not torch.equal(ids, other)
    torch.testing.assert_close(found, again, rtol=0, atol=0)


def test_gradients_are_the_same_where_activations_are_recomputed():
    model = made(PLAIN["llama"]).train()
    recomputing = copy.deepcopy(model)
    recomputing.gradient_checkpointing_enable()
    for each in (model, recomputing):
        hidden_states(each.base_model, *batch()).pow(3).sum().backward()
    for p, q in zip(model.base_model.parameters(), recomputing.base_model.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_model_goes_on_as_before(tmp_path):
    """Called with padding and mask, generating, stored and loaded: all as if it had never been run by rows."""
    model, untouched = made(PLAIN["llama"]), made(PLAIN["llama"])
    ids, mask = batch()
    hidden_states(model.base_model, ids, mask)
    for each in (model, untouched):
        each.generation_config.pad_token_id = 0
    prompts = {"input_ids": ids, "attention_mask": torch.arange(WIDTH) >= torch.tensor([[6], [0], [4], [2]])}
    torch.testing.assert_close(model(**prompts).logits, untouched(**prompts).logits, rtol=0, atol=0)
    settings = {"max_new_tokens": 5, "do_sample": False}
    expected = untouched.generate(**prompts, **settings)
    assert torch.equal(model.generate(**prompts, **settings), expected)
    mine = generate(model, *prompts.values(), max_new_tokens=5, eos_token_id=None, pad_token_id=0, temperature=0)
    assert torch.equal(mine.sequences, expected)
    model.save_pretrained(tmp_path)
    assert "by_rows" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**prompts).logits, untouched(**prompts).logits)
