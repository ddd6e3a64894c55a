"""The one-screen step: what its update is by hand, that it learns, and that its KL term holds."""

import copy
import math

import pytest
import torch

from rlhf_course.data.collators import collate_prompts
from rlhf_course.data.tokenize import encode_prompt
from rlhf_course.generation import generate
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers import ppo_rlhf_step
from trainers.small import PROMPTS, TOKENIZER, assert_same_weights, gpt2, llama, weights

LIKED = TOKENIZER.convert_tokens_to_ids("that")


def likes_a_word(ids, attention_mask):
    """How often the answer has a certain word."""
    return (ids == LIKED).float().sum(dim=1)


def step(policy, reference, optimizer, reward=likes_a_word, seed=0, prompts=PROMPTS, **settings):
    generator = torch.Generator().manual_seed(seed)
    settings = {"response_length": 6, **settings}
    return ppo_rlhf_step(policy, reference, reward, prompts, TOKENIZER, optimizer, generator=generator, **settings)


@pytest.mark.parametrize("model", [llama, gpt2])
def test_its_update_is_reinforce_with_a_baseline_and_the_gradient_of_the_kl(model):
    policy, reference, beta = model(0).train(), model(1), 0.3
    by_hand = copy.deepcopy(policy).eval()
    metrics = step(policy, reference.eval(), torch.optim.SGD(policy.parameters(), lr=1.0), beta=beta)
    assert policy.training, "it gets its mode back"

    prompts = collate_prompts([{"prompt_ids": encode_prompt(TOKENIZER, p)} for p in PROMPTS], TOKENIZER.pad_token_id)
    stop = {"eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": TOKENIZER.pad_token_id}
    answers = generate(by_hand, **prompts, max_new_tokens=6, **stop, generator=torch.Generator().manual_seed(0))
    ids, start = answers.sequences, prompts["input_ids"].shape[1]
    mask = torch.nn.functional.pad(answers.completion_mask, (start, 0))
    logps = CompletionLogps(by_hand)(ids, answers.attention_mask, mask)[:, start - 1 :]
    with torch.no_grad():
        ref_logps = CompletionLogps(reference)(ids, answers.attention_mask, mask)[:, start - 1 :]
        scores = likes_a_word(ids, None)
        # The gradient of ratio·k3 at ratio 1, by hand: k3 + (1 − π_ref/π) = log π − log π_ref, on each token.
        weight = -(scores - scores.mean())[:, None] + beta * (logps - ref_logps)
    real = answers.completion_mask
    ((weight * logps * real).sum() / real.sum()).backward()
    expected = {name: p.detach() - p.grad for name, p in by_hand.named_parameters()}
    assert_same_weights(weights(policy), expected, rtol=1e-4, atol=1e-5)
    assert metrics["objective/scores"] == pytest.approx(scores.mean().item())
    assert metrics["objective/kl"] == pytest.approx(((logps - ref_logps) * real).sum(1).mean().item(), abs=1e-4)


def test_where_nothing_is_better_and_a_nat_is_free_nothing_moves():
    policy = llama()
    before = weights(policy)
    step(policy, llama(1), torch.optim.SGD(policy.parameters(), lr=1.0), lambda ids, _: torch.ones(len(ids)), beta=0.0)
    assert_same_weights(weights(policy), before)


def test_it_learns():
    policy, reference = llama(), llama()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    found = [step(policy, reference, optimizer, seed=i, prompts=PROMPTS * 8) for i in range(20)]
    assert found[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert found[-1]["objective/scores"] > 3 * found[0]["objective/scores"]
    assert all(math.isfinite(row["loss/policy_avg"]) for row in found)


def test_its_kl_term_brings_a_policy_back_that_has_drifted():
    policy, reference = llama(0), llama(1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    nothing = lambda ids, _: torch.zeros(len(ids))  # noqa: E731
    found = [step(policy, reference, optimizer, nothing, seed=i, prompts=PROMPTS * 8, beta=1.0) for i in range(15)]
    assert found[-1]["objective/kl"] < 0.7 * found[0]["objective/kl"]


def test_one_answer_is_no_baseline():
    policy = llama()
    with pytest.raises(ValueError, match="prompts must be at least 2, so that their mean score is a baseline, got 1"):
        step(policy, llama(1), torch.optim.SGD(policy.parameters(), lr=1.0), prompts=PROMPTS[:1])
