"""Rollouts: sampled answers and their scores."""

import pytest
import torch

from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.trainers.rollout import sample_rollout, score_rollout
from trainers import by_hand
from trainers.small import PROMPT_ROWS, TOKENIZER, gpt2, llama, lora, make, reward_model

ROWS = tokenize_prompts([{"prompt": "<bos> explain <sep>"}, *PROMPT_ROWS[:4]], TOKENIZER, 64)


def sample(model, mine=slice(None), rows=ROWS, temperature=1.0):
    settings = {"max_new_tokens": 7, "temperature": temperature, "stream": (0, "test")}
    return sample_rollout(model, TOKENIZER, rows, mine, **settings)


def parts(rollout, i):
    """The ids of a row's prompt and completion, without padding."""
    width = rollout.prompt_width
    prompt = rollout.sequences[i, :width][rollout.attention_mask[i, :width].bool()].tolist()
    return prompt, rollout.sequences[i, width:][rollout.mask[i]].tolist()


@pytest.mark.parametrize("model", [llama, gpt2, lora])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_captured_log_probabilities_are_a_fresh_forward_passs(model, temperature):
    """Traps 5 and 6, too: prompts padded on the left, and dropout in the model."""
    model = model().train()
    rollout = sample(model, temperature=temperature)
    assert model.training, "the mode it had is given back"
    model.eval()
    for i, row in enumerate(ROWS):
        prompt, completion = parts(rollout, i)
        assert prompt == row["prompt_ids"]
        with torch.no_grad():
            fresh = by_hand.completion_logps(model, prompt, completion, temperature)
        torch.testing.assert_close(rollout.logps[i][rollout.mask[i]], fresh, rtol=0, atol=2e-5)
    assert (rollout.logps[~rollout.mask] == 0).all()


@pytest.mark.parametrize("processes", [2, 3])
def test_how_many_processes_share_the_work_changes_no_answer(processes):
    model = llama()
    whole = sample(model)
    for index in range(processes):
        mine = slice(index, None, processes)
        share = sample(model, mine)
        assert share.prompts == whole.prompts[mine]
        for i, j in enumerate(range(len(ROWS))[mine]):
            assert parts(share, i) == parts(whole, j)
            width = min(share.mask.shape[1], whole.mask.shape[1])
            torch.testing.assert_close(share.logps[i, :width], whole.logps[j, :width], rtol=0, atol=1e-5)


def test_masks_end_with_the_end_token():
    model = llama()
    rollout = sample(model, rows=tokenize_prompts(PROMPT_ROWS * 20, TOKENIZER, 64))
    assert rollout.completion_mask.shape == rollout.sequences.shape
    ended = []
    for i in range(len(rollout.mask)):
        _, completion = parts(rollout, i)
        assert TOKENIZER.eos_token_id not in completion[:-1]
        ended.append(completion[-1] == TOKENIZER.eos_token_id)
        assert ended[-1] or len(completion) == 7
    assert rollout.ended.tolist() == ended
    assert 0 < sum(ended) < len(ended)


def test_rows_can_be_picked():
    rollout = sample(llama())
    rollout.scores = torch.arange(5.0)
    picked = rollout[torch.tensor([3, 1])]
    assert picked.scores.tolist() == [3, 1]
    assert picked.prompts == [rollout.prompts[3], rollout.prompts[1]]
    assert torch.equal(picked.sequences, rollout.sequences[[3, 1]])
    assert picked.values is None and picked.prompt_width == rollout.prompt_width


def test_scores_of_a_function_and_of_a_model():
    rollout, seen = sample(llama()), []

    def judge(prompts, completions):
        seen.append((prompts, completions))
        return [float(len(c.split())) for c in completions]

    scores = score_rollout(judge, rollout, TOKENIZER)
    assert seen[0][0] == [row["prompt"] for row in ROWS]
    texts = [TOKENIZER.decode(parts(rollout, i)[1], skip_special_tokens=True) for i in range(len(ROWS))]
    assert seen[0][1] == texts == rollout.completions(TOKENIZER)
    assert scores.tolist() == [len(text.split()) for text in texts]

    model = reward_model()
    with torch.no_grad():
        of_model = score_rollout(model, rollout, TOKENIZER)
        texts = [parts(rollout, i) for i in range(len(ROWS))]
        by_row = [by_hand.scalars(model, prompt + completion)[-1] for prompt, completion in texts]
    torch.testing.assert_close(of_model, torch.stack(by_row), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [lambda p, c: [1.0], lambda p, c: 1.0, lambda p, c: [[1.0]] * len(c)])
def test_a_reward_function_must_return_a_number_each(wrong):
    with pytest.raises(ValueError, match=r"must return one number a completion, 5, got shape"):
        score_rollout(wrong, sample(llama()), TOKENIZER)


def test_a_rollouts_values_are_of_the_state_before_each_token():
    trainer = make("ppo", reward_funcs=reward_model())
    rollout = trainer.rollout(trainer.train_rows)
    assert rollout.values.shape == rollout.mask.shape
    for i in range(len(rollout.mask)):
        prompt, completion = parts(rollout, i)
        with torch.no_grad():
            expected = by_hand.scalars(trainer.value_model, prompt + completion)
        expected = expected[len(prompt) - 1 : len(prompt) + len(completion) - 1]
        torch.testing.assert_close(rollout.values[i][rollout.mask[i]], expected, rtol=1e-4, atol=1e-6)
