"""Log-probabilities at completion tokens, held against a full forward pass of each row on its own."""

import pytest
import torch
from trainers.small import TOKENIZER, gpt2, llama, lora
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rlhf_course.models import scoring
from rlhf_course.models.scoring import CompletionLogps

PAD, EOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id
ROWS = [([1, 9, 10, 11], [20, 21, EOS]), ([1, 12], [22, EOS]), ([1, 13, 14, 15, 16], [23])]


def batch(left=True, pad=PAD):
    """Prompts padded to one width on the left (or not at all), completions on the right."""
    width, ids, masks, completions = max(len(p) for p, _ in ROWS), [], [], []
    for prompt, completion in ROWS:
        gap = width - len(prompt) if left else 0
        ids.append([pad] * gap + prompt + completion)
        masks.append([0] * gap + [1] * (len(prompt) + len(completion)))
        completions.append([0] * (gap + len(prompt)) + [1] * len(completion))
    longest = max(map(len, ids))
    for row, mask, completion in zip(ids, masks, completions):
        row += [pad] * (longest - len(row))
        mask += [0] * (longest - len(mask))
        completion += [0] * (longest - len(completion))
    return torch.tensor(ids), torch.tensor(masks), torch.tensor(completions)


def by_hand(model, temperature=1.0):
    """Log-probabilities and entropies of each row's completion tokens, without padding, from all logits."""
    logps, entropies = [], []
    for prompt, completion in ROWS:
        ids = torch.tensor([prompt + completion])
        table = (model(ids).logits[0].double() / temperature).log_softmax(-1)
        positions = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        logps += [table[t, ids[0, t + 1]] for t in positions]
        entropies += [-(table[t].exp() * table[t]).sum() for t in positions]
    return torch.stack(logps), torch.stack(entropies)


MODELS = {
    "llama": llama,
    "gpt2": lambda: gpt2(dropout=0.0),
    "lora": lora,
    "untied": lambda: llama(tie_word_embeddings=False),
}


def trained_lora():
    model = lora()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    return model


MODELS["lora"] = trained_lora


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_the_full_forward_pass(name, left, temperature):
    """Trap 5, too: GPT-2's positions are counted from the first real token."""
    model = MODELS[name]()
    ids, mask, completion_mask = batch(left)
    logps, entropies = CompletionLogps(model)(ids, mask, completion_mask, temperature, with_entropy=True)
    expected, expected_entropies = by_hand(model, temperature)
    where = completion_mask[:, 1:].bool()
    assert logps.shape == entropies.shape == (len(ROWS), ids.shape[1] - 1)
    torch.testing.assert_close(logps[where].double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(entropies[where].double(), expected_entropies, rtol=0, atol=2e-5)
    assert (logps[~where] == 0).all() and (entropies[~where] == 0).all()
    assert not entropies.requires_grad
    assert expected.std() > 0.03


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_full_forward_passs(name):
    one, other = MODELS[name](), MODELS[name]()
    ids, mask, completion_mask = batch()
    (CompletionLogps(one)(ids, mask, completion_mask) ** 2).sum().backward()
    (by_hand(other)[0] ** 2).sum().backward()
    compared = 0
    for (_, p), (_, q) in zip(one.named_parameters(), other.named_parameters()):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)
            compared += 1
    assert compared > 1


@pytest.mark.parametrize("pad", [EOS, 17])
@pytest.mark.parametrize("left", [True, False])
def test_trap_04_what_pads_does_not_matter(pad, left):
    score = CompletionLogps(llama())
    torch.testing.assert_close(score(*batch(left, pad)), score(*batch(left)), rtol=0, atol=0)


def test_a_bf16_model_is_worked_out_in_float32():
    model = llama().bfloat16()
    ids, mask, completion_mask = batch()
    logps = CompletionLogps(model)(ids, mask, completion_mask)
    assert logps.dtype == torch.float32
    exact, _ = by_hand(model)  # its own bf16 logits, from there on in float64
    torch.testing.assert_close(logps[completion_mask[:, 1:].bool()].double(), exact, rtol=0, atol=0.1)


def test_the_prompts_logits_are_never_made():
    model, rows = llama(), []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    CompletionLogps(model)(*batch())
    assert rows == [sum(len(completion) for _, completion in ROWS)]


@pytest.mark.parametrize("with_entropy", [False, True])
def test_in_pieces_they_and_their_gradients_are_the_same(with_entropy, monkeypatch):
    model = llama().double().train()
    rows, made = [], []
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: made.append(len(logits)))
    for at_once in (scoring.LOGITS_AT_ONCE, 2 * model.config.vocab_size):
        monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", at_once)
        model.zero_grad()
        found = CompletionLogps(model)(*batch(), 0.7, with_entropy)
        (found[0] if with_entropy else found).exp().sum().backward()
        rows.append([*(found if with_entropy else [found]), *(weight.grad.clone() for weight in model.parameters())])
    assert made == [6, 2, 2, 2, 2, 2, 2]  # of six tokens; then in pieces, forward and for the gradient
    for whole, pieces in zip(*rows, strict=True):
        torch.testing.assert_close(whole, pieces)


def test_models_that_change_their_logits_are_refused():
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with pytest.raises(ValueError, match="models with final_logit_softcapping are not supported, and gemma2 has it"):
        CompletionLogps(Gemma2ForCausalLM(Gemma2Config(**small, **heads, head_dim=8)))
    with pytest.raises(ValueError, match=r"logit_scale .* cohere"):
        CompletionLogps(CohereForCausalLM(CohereConfig(**small, **heads)))


def test_wrong_shapes_are_refused():
    ids, mask, completion_mask = batch()
    score = CompletionLogps(llama())
    with pytest.raises(ValueError, match="input_ids must have 2 dimension"):
        score(ids[0], mask[0], completion_mask[0])
    with pytest.raises(ValueError, match=r"these must have one shape, got input_ids .*completion_mask"):
        score(ids, mask, completion_mask[:, 1:])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        score(ids, mask, completion_mask, temperature=0.0)
