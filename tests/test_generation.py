"""Sampling is exact: log-probs, distribution, nucleus, padding, compaction, stopping."""

import warnings

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf_course.generation import generate

VOCABULARY, PAD, STOP = 13, 0, 2


def llama(**changes):
    sizes = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3, **changes))


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    )


def qwen2_sliding():
    sizes = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    window = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **window, initializer_range=0.3))


def lora():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(llama(), config)


MODELS = {"llama": llama, "gpt2": gpt2, "qwen2_sliding": qwen2_sliding, "lora": lora}


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.fixture(params=MODELS)
def model(request):
    return make(request.param)


def prompts(lengths=(1, 4, 6, 6, 3, 2), seed=1):
    """Left-padded prompts of the given lengths and their mask."""
    width = max(lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(model, ids, mask, **changes):
    settings = dict(max_new_tokens=12, eos_token_id=STOP, pad_token_id=PAD)
    if "uniforms" not in changes:
        settings["generator"] = seeded()
    return generate(model, ids, mask, **{**settings, **changes})


def full_forward_logps(model, out, temperature):
    """The completion's log-probs by one forward pass a row over its real tokens alone: no padding, no cache."""
    rows = torch.zeros_like(out.logps)
    start = out.sequences.shape[1] - out.completion_ids.shape[1]
    for row, (ids, mask) in enumerate(zip(out.sequences, out.attention_mask)):
        with torch.no_grad():
            logits = model(input_ids=ids[mask.bool()][None], use_cache=False).logits[0].float()
        n, prompt = int(out.completion_mask[row].sum()), int(mask[:start].sum())
        logps = torch.log_softmax(logits[prompt - 1 : prompt - 1 + n] / temperature, dim=-1)
        rows[row, :n] = logps.gather(1, out.completion_ids[row, :n, None]).squeeze(1)
    return rows


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("eos", [STOP, None])
def test_logps_equal_a_full_forward_pass(model, temperature, eos):
    out = sample(model, *prompts(), temperature=temperature, eos_token_id=eos)
    torch.testing.assert_close(out.logps, full_forward_logps(model, out, temperature), atol=3e-5, rtol=0)
