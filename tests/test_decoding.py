"""A recorded step of decoding is the model's own: on its weights of the moment, for any batch, or not made at all."""

import gc
import logging
import weakref

import pytest
import torch
from test_generation import MODELS, PAD, VOCABULARY, full_forward_logps, llama, make, prompts
from transformers.utils import logging as transformers_logging

from rlhf_course.generation import generate
from rlhf_course.models import decoding


def sample(model, ids, mask, tokens=6, **changes):
    settings = dict(max_new_tokens=tokens, eos_token_id=None, pad_token_id=PAD, generator=torch.manual_seed(3))
    return generate(model, ids, mask, **settings, **changes)


def recording(model):
    found = decoding._recordings.get(model)
    return found and found.step


def assert_exact(model, out):
    torch.testing.assert_close(out.logps, full_forward_logps(model, out, 1.0), rtol=1e-5, atol=1e-5)


def test_a_recording_runs_on_the_weights_of_the_moment():
    model, prompt = make("llama"), prompts()
    before, made = sample(model, *prompt), recording(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    after = sample(model, *prompt)
    assert recording(model) is made and made is not None
    assert not torch.equal(before.completion_ids, after.completion_ids)
    assert_exact(model, after)


@pytest.mark.parametrize("change", ["another head", "another type", "weights of another model"])
def test_tensors_that_were_replaced_are_recorded_again(change):
    model, prompt = make("llama"), prompts()
    sample(model, *prompt)
    made = recording(model)
    if change == "another head":
        model.lm_head = torch.nn.Linear(32, VOCABULARY, bias=False)
    elif change == "another type":
        model.double()
    else:
        model.load_state_dict({name: torch.randn_like(x) for name, x in model.state_dict().items()}, assign=True)
    out = sample(model, *prompt)
    assert recording(model) is not made
    assert_exact(model, out)


@pytest.mark.parametrize("padded_first", [True, False])
def test_a_recording_serves_every_batch_and_length(padded_first):
    model = make("llama")
    batches = [prompts(), prompts((5, 5, 5)), prompts((3,)), prompts((2, 9))]
    for batch in batches if padded_first else batches[1:] + batches[:1]:
        assert_exact(model, sample(model, *batch, tokens=9))
        assert_exact(model, sample(model, *batch, num_return_sequences=3))
    assert_exact(model, sample(model, *prompts(), temperature=0.0, tokens=2))


def with_a_hook():
    model = llama()
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: None)
    return model


def with_another_forward():
    model = llama()
    model.forward = model.forward
    return model


def of_another_class():
    class Mine(type(llama())):
        pass

    return Mine(llama().config)


def with_positions_that_change():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return llama(rope_parameters=rope)


@pytest.mark.parametrize(
    "build",
    [
        with_a_hook,
        with_another_forward,
        of_another_class,
        with_positions_that_change,
        *(MODELS[name] for name in ("gpt2", "qwen2_sliding", "lora")),
    ],
)
def test_a_model_whose_steps_may_differ_is_not_recorded(build):
    torch.manual_seed(0)
    model = build().eval()
    out = sample(model, *prompts())
    assert recording(model) is None
    assert_exact(model, out)


def test_under_autocast_nothing_is_recorded():
    model = make("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sample(model, *prompts())
    assert recording(model) is None


def test_a_recording_is_made_in_silence(caplog):
    logging.Logger.warning_once.cache_clear()  # what transformers says once a process
    transformers_logging.add_handler(caplog.handler)
    try:
        model = make("llama")
        sample(model, *prompts())
    finally:
        transformers_logging.remove_handler(caplog.handler)
    assert recording(model) is not None
    assert not caplog.records


def test_one_token_needs_no_recording():
    model = make("llama")
    sample(model, *prompts(), tokens=1)
    assert recording(model) is None


def test_a_recording_does_not_keep_its_model():
    model = make("llama")
    sample(model, *prompts())
    kept, count = weakref.ref(model), len(decoding._recordings)
    del model
    gc.collect()
    assert kept() is None
    assert len(decoding._recordings) < count


def test_a_recorded_step_gives_what_the_model_gives(monkeypatch):
    model, prompt = make("llama"), prompts()
    recorded = sample(model, *prompt, tokens=12)
    monkeypatch.setattr(decoding, "_steps_are_alike", lambda model: False)
    plain = sample(model, *prompt, tokens=12)
    assert torch.equal(recorded.completion_ids, plain.completion_ids)
    torch.testing.assert_close(recorded.logps, plain.logps)
