"""Sampling is exact: log-probs, distribution, nucleus, padding, compaction, stopping."""

import warnings

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf_course.generation import _prepare_uniforms, _sample, generate

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
    """The completion's log-probs by a forward pass a row over its real tokens: no padding, no cache."""
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


def test_the_even_grid_of_uniforms_returns_the_full_forward_distribution(model):
    """Fed the midpoints of n equal steps, the inverse distribution gives a token n·p times, to within one."""
    grid = 4000
    ids, mask = prompts((3, 5))
    ids, mask = ids[:1], mask[:1]  # a padded prompt
    uniforms = ((torch.arange(grid) + 0.5) / grid)[:, None]
    settings = dict(max_new_tokens=1, temperature=0.8, uniforms=uniforms.double())
    out = sample(model, ids.expand(grid, -1), mask.expand(grid, -1), **settings)
    with torch.no_grad():
        logits = model(input_ids=ids[mask.bool()][None]).logits[0, -1]
    expected = grid * torch.softmax(logits / 0.8, dim=-1)
    counts = torch.bincount(out.completion_ids[:, 0], minlength=VOCABULARY)
    assert (counts - expected).abs().max() < 1.01


def test_two_token_completions_have_the_joint_distribution_of_the_full_forward():
    """A grid of second numbers under every first one: the decoding step is exact as well."""
    model, grid = make("llama"), 60
    first = (torch.arange(grid) + 0.5) / grid
    uniforms = torch.cartesian_prod(first, first).double()
    ids, mask = torch.tensor([[5, 7]]), torch.ones(1, 2, dtype=torch.int64)
    rows = len(uniforms)
    out = sample(
        model,
        ids.expand(rows, -1),
        mask.expand(rows, -1),
        max_new_tokens=2,
        eos_token_id=None,
        uniforms=uniforms,
    )
    for token in out.completion_ids[:, 0].unique():
        chosen = out.completion_ids[:, 0] == token
        counts = torch.bincount(out.completion_ids[chosen, 1], minlength=VOCABULARY)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[5, 7, int(token)]])).logits[0, -1]
        times = int(chosen.sum()) // grid
        assert (counts - grid * times * torch.softmax(logits, dim=-1)).abs().max() < 1.01 * times


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, {1}), (0.4, {1}), (0.45, {1, 3}), (0.7, {1, 3}), (0.8, {0, 1, 3}), (0.999, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_nucleus(top_p, kept):
    probs = torch.tensor([[0.2, 0.41, 0.09, 0.3]])
    grid = ((torch.arange(1000) + 0.5) / 1000)[:, None].double()
    tokens, logps = _sample(probs.log().expand(1000, -1), 1.0, top_p, grid)
    assert set(tokens.tolist()) == kept
    within = torch.zeros(4).scatter(0, torch.tensor(sorted(kept)), probs[0, sorted(kept)])
    assert (torch.bincount(tokens, minlength=4) - 1000 * within / within.sum()).abs().max() < 1.01
    torch.testing.assert_close(logps, probs.log()[0, tokens])  # of the whole distribution


def test_top_p_takes_equal_tokens_in_the_order_of_the_vocabulary():
    grid = ((torch.arange(100) + 0.5) / 100)[:, None].double()
    tokens, _ = _sample(torch.zeros(100, 4), 1.0, 0.5, grid)
    assert torch.bincount(tokens, minlength=4).tolist() == [50, 50, 0, 0]


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_a_token_of_probability_zero_is_never_drawn(number):
    logits = torch.full((1, 9), float("-inf"))
    logits[0, 3:6] = torch.tensor([0.1, 2.0, 1.0])
    uniforms = _prepare_uniforms(torch.tensor([[number]], dtype=torch.float64), None, 1, 1, logits.device)
    tokens, _ = _sample(logits, 1.0, 1.0, uniforms)
    assert tokens.item() == (3 if number == 0 else 5)


def test_each_row_alone_gives_what_the_batch_gives(model):
    """So padding, the other rows and dropping the finished ones change nothing."""
    ids, mask = prompts((1, 4, 6, 6, 3, 2) * 4)
    uniforms = torch.rand(len(ids), 20, generator=seeded(3), dtype=torch.float64)
    out = sample(model, ids, mask, max_new_tokens=20, uniforms=uniforms)
    lengths = out.completion_mask.sum(dim=1)
    assert len(lengths.unique()) > 3  # rows did stop at different times
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = sample(
            model,
            ids[row, real][None],
            mask[row, real][None],
            max_new_tokens=20,
            uniforms=uniforms[row, None],
        )
        n = int(lengths[row])
        assert alone.completion_ids[0].tolist() == out.completion_ids[row, :n].tolist()
        torch.testing.assert_close(alone.logps[0], out.logps[row, :n], atol=3e-5, rtol=0)


@pytest.mark.parametrize("share", [1e-9, 0.5, 2.0])
def test_when_rows_are_dropped_changes_nothing(model, share, monkeypatch):
    ids, mask = prompts()
    expected = sample(model, ids, mask)
    monkeypatch.setattr("rlhf_course.generation.COMPACTION_SHARE", share)
    out = sample(model, ids, mask)
    assert torch.equal(out.sequences, expected.sequences)
    torch.testing.assert_close(out.logps, expected.logps, atol=3e-5, rtol=0)


def test_a_group_is_what_copies_of_the_prompt_would_have_got(model):
    ids, mask = prompts()
    uniforms = torch.rand(len(ids) * 3, 12, generator=seeded(5), dtype=torch.float64)
    group = sample(model, ids, mask, num_return_sequences=3, uniforms=uniforms)
    copies = sample(model, ids.repeat_interleave(3, dim=0), mask.repeat_interleave(3, dim=0), uniforms=uniforms)
    assert torch.equal(group.sequences, copies.sequences)
    assert torch.equal(group.attention_mask, copies.attention_mask)
    torch.testing.assert_close(group.logps, copies.logps, rtol=0, atol=1e-5)


def test_a_groups_prompt_is_run_through_the_model_once(monkeypatch):
    model, (ids, mask) = make("llama"), prompts()
    seen, forward = [], type(model).forward

    def counted(self, input_ids, **arguments):
        seen.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(type(model), "forward", counted)
    monkeypatch.setattr(
        "rlhf_course.models.decoding._forward_arguments", lambda inner: ("input_ids", "past_key_values")
    )
    sample(model, ids[2:4], mask[2:4], num_return_sequences=4, eos_token_id=None)
    assert seen[:2] == [(2, 6), (8, 1)]


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(model):
    ids, mask = prompts()
    first, again, other = (sample(model, ids, mask, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.sequences, again.sequences) and torch.equal(first.logps, again.logps)
    assert not torch.equal(first.completion_ids[:, :2], other.completion_ids[:, :2])


def test_stop_tokens_end_a_row_and_the_rest_is_blank(model):
    ids, mask = prompts((1, 4, 6, 6, 3, 2) * 3)
    out = sample(model, ids, mask, eos_token_id=[STOP, 5], pad_token_id=PAD, max_new_tokens=30)
    width = ids.shape[1]
    assert torch.equal(out.sequences[:, :width], ids) and torch.equal(out.sequences[:, width:], out.completion_ids)
    assert torch.equal(out.attention_mask, torch.cat([mask, out.completion_mask], dim=1))
    stopped = 0
    for tokens, mask_row, logps in zip(out.completion_ids, out.completion_mask.bool(), out.logps):
        n = int(mask_row.sum())
        assert mask_row[:n].all()
        assert not torch.isin(tokens[: n - 1], torch.tensor([STOP, 5])).any()
        assert n == out.completion_ids.shape[1] or tokens[n - 1].item() in (STOP, 5)
        assert (tokens[n:] == PAD).all() and (logps[n:] == 0).all()
        stopped += tokens[n - 1].item() in (STOP, 5)
    assert stopped > 9


def test_padding_with_the_stop_token_keeps_it_in_the_mask():
    model = make("llama")
    ids, mask = prompts()
    out, usual = sample(model, ids, mask, pad_token_id=STOP), sample(model, ids, mask)
    assert torch.equal(out.completion_mask, usual.completion_mask)
    assert torch.equal(out.completion_ids.masked_fill(out.completion_mask == 0, PAD), usual.completion_ids)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (1, 5, 3)])
def test_greedy_equals_transformers_generate(model, lengths):
    ids, mask = prompts(lengths)
    out = sample(model, ids, mask, temperature=0, max_new_tokens=20)
    theirs = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )
    assert torch.equal(out.sequences, theirs)
    torch.testing.assert_close(out.logps, full_forward_logps(model, out, 1.0), atol=3e-5, rtol=0)


def test_half_precision_log_probs_are_float32_and_double_stays_double():
    ids, mask = prompts()
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert sample(make("llama").to(dtype), ids, mask).logps.dtype == expected


def test_dropout_is_off_and_every_module_gets_its_own_mode_back():
    model = llama(attention_dropout=0.5).train()
    model.model.norm.eval()
    modes = [module.training for module in model.modules()]
    first, again = (sample(model, *prompts()) for _ in range(2))
    assert torch.equal(first.logps, again.logps)
    assert [module.training for module in model.modules()] == modes


def test_modes_come_back_after_an_error():
    model = make("llama").train()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        sample(model, *prompts())
    assert model.training


@pytest.mark.parametrize("name", [*MODELS, "dynamic_rope"])
def test_gradients_flow_through_the_model_and_the_sample_afterwards(name):
    if name == "dynamic_rope":
        torch.manual_seed(0)
        rope = dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0)
        model = llama(rope_parameters=rope)
    else:
        model = make(name)
    out = sample(model.train(), *prompts())
    assert not any(getattr(out, field).is_inference() for field in out.__dataclass_fields__)
    logits = model(input_ids=out.sequences, attention_mask=out.attention_mask).logits
    width = out.completion_ids.shape[1]
    logps = torch.log_softmax(logits[:, -width - 1 : -1], dim=-1).gather(2, out.completion_ids[..., None])
    ((logps.squeeze(2) - out.logps).exp() * out.completion_mask).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_a_subclass_that_hands_everything_on_is_looked_through():
    class Counting(GPT2LMHeadModel):
        calls = 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return super().forward(*args, **kwargs)

    plain = make("gpt2")
    counting = Counting(plain.config).eval()
    counting.load_state_dict(plain.state_dict())
    ids, mask = prompts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = sample(counting, ids, mask, eos_token_id=None)
    assert torch.equal(out.sequences, sample(plain, ids, mask, eos_token_id=None).sequences)
    assert counting.calls == 12


IDS, MASK = prompts((2, 4))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(input_ids=IDS[:0], attention_mask=MASK[:0]), ValueError, "at least one prompt"),
        (dict(input_ids=IDS[:, :0], attention_mask=MASK[:, :0]), ValueError, "at least one prompt"),
        (dict(input_ids=IDS.float()), TypeError, "int64"),
        (dict(input_ids=IDS.tolist()), TypeError, "input_ids"),
        (dict(input_ids=IDS[0]), ValueError, "input_ids"),
        (dict(input_ids=IDS + VOCABULARY), ValueError, "vocabulary"),
        (dict(attention_mask=MASK.flip(1)), ValueError, "left"),
        (dict(attention_mask=MASK * 0), ValueError, "left"),
        (dict(attention_mask=torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])), ValueError, "left"),
        (dict(attention_mask=MASK[:1]), ValueError, "attention_mask"),
        (dict(attention_mask=MASK * 2), ValueError, "attention_mask"),
        (dict(max_new_tokens=0), ValueError, "max_new_tokens"),
        (dict(max_new_tokens=1.5), ValueError, "max_new_tokens"),
        (dict(max_new_tokens=61), ValueError, "64"),
        (dict(temperature=-0.1), ValueError, "temperature"),
        (dict(temperature="hot"), TypeError, "temperature"),
        (dict(top_p=0.0), ValueError, "top_p"),
        (dict(top_p=1.1), ValueError, "top_p"),
        (dict(eos_token_id=-1), ValueError, "eos_token_id"),
        (dict(eos_token_id="x"), TypeError, "eos_token_id"),
        (dict(pad_token_id=None), TypeError, "pad_token_id"),
        (dict(generator=3), TypeError, "generator"),
        (dict(uniforms=torch.rand(2, 3)), ValueError, "uniforms"),
        (dict(uniforms=torch.ones(2, 12)), ValueError, "below 1"),
        (dict(uniforms=torch.ones(2, 12).long()), TypeError, "uniforms"),
        (dict(uniforms=torch.rand(2, 12), generator=seeded()), ValueError, "not both"),
    ],
)
def test_wrong_input_is_refused(changes, error, words):
    arguments = dict(input_ids=IDS, attention_mask=MASK, max_new_tokens=12, eos_token_id=STOP, pad_token_id=PAD)
    with pytest.raises(error, match=words):
        generate(make("llama"), **{**arguments, **changes})


def test_padding_does_not_count_against_the_model_s_positions():
    ids, mask = prompts((1, 8))
    wide = torch.nn.functional.pad(ids[:1], (50, 0)), torch.nn.functional.pad(mask[:1], (50, 0))
    out = sample(make("gpt2"), *wide, max_new_tokens=12, temperature=0)
    narrow = sample(make("gpt2"), ids[:1, -1:], mask[:1, -1:], max_new_tokens=12, temperature=0)
    assert torch.equal(out.completion_ids, narrow.completion_ids)
