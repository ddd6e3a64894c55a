"""Online DPO: pairs of today's answers, the judge's choice, DPO's step."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from trainers import by_hand
from trainers.small import (
    PROMPT_ROWS,
    TOKENIZER,
    assert_same_weights,
    brief_llama,
    gpt2,
    llama,
    lora,
    make,
    mean_id,
    reward_model,
    weights,
)
from trainers.test_rollout import parts

SETTINGS = {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 4, "warmup_steps": 0}


@pytest.mark.parametrize("kind", ["function", "reward model", "gpt2", "temperature"])
def test_a_step_equals_one_by_hand(kind):
    model = (lambda: gpt2(dropout=0.3)) if kind == "gpt2" else llama
    judge = reward_model(2) if kind == "reward model" else mean_id
    temperature = 0.7 if kind == "temperature" else 1.0
    trainer = make(
        "online-dpo", model(), ref_model=llama(1), reward_funcs=judge, beta=0.4, temperature=temperature, **SETTINGS
    )
    hand, ref = model().eval(), llama(1).eval()
    batch = trainer.batch(0)
    rollout = trainer.rollout(batch, stream=("sampling", 0))

    def log_ratio(i):
        policy = by_hand.completion_logps(hand, *parts(rollout, i), temperature).sum()
        return policy - by_hand.completion_logps(ref, *parts(rollout, i), temperature).sum().detach()

    def loss(step):
        losses = []
        for pair in range(4):
            first, second = 2 * pair, 2 * pair + 1
            if rollout.scores[first] == rollout.scores[second]:
                continue
            best, worst = (first, second) if rollout.scores[first] > rollout.scores[second] else (second, first)
            losses.append(-logsigmoid(0.4 * (log_ratio(best) - log_ratio(worst))))
        return torch.stack(losses).mean()

    by_hand.train(loss, 1, [1e-3], hand)
    trainer.before_step()
    trainer.step(batch)
    assert_same_weights(weights(trainer.model), weights(hand), rtol=0, atol=3e-5)


def test_both_answers_of_a_pair_are_to_its_prompt_and_new_at_each_step():
    trainer = make("online-dpo", per_device_train_batch_size=4)
    first, second = (trainer.rollout(trainer.train_rows[:4], stream=("sampling", step)) for step in (0, 1))
    assert first.prompts[::2] == first.prompts[1::2] == [row["prompt"] for row in trainer.train_rows[:4]]
    assert first.completions(TOKENIZER) != second.completions(TOKENIZER)


def test_a_pair_of_equal_scores_teaches_nothing():
    before = weights(llama())
    trainer = make("online-dpo", reward_funcs=lambda prompts, completions: [1.0] * len(completions))
    history = trainer.train()
    assert_same_weights(weights(trainer.model), before)
    assert history.last("frac_tied") == 1
    assert history.last("grad_norm") == 0
    assert history.last("loss") == 0

    def only_the_first_prompt(prompts, completions):
        return [mean_id([p], [c])[0] if p == PROMPT_ROWS[0]["prompt"] else 0.0 for p, c in zip(prompts, completions)]

    some = make("online-dpo", reward_funcs=only_the_first_prompt, per_device_train_batch_size=8, max_steps=1)
    assert some.train().last("frac_tied") == pytest.approx(6 / 8)
    assert some.history.last("loss") == pytest.approx(0.693147, abs=1e-5), "a mean over the pairs that were decided"


def test_an_answer_without_an_end_pays_for_it():
    plain, fined = (
        make("online-dpo", brief_llama(), missing_eos_penalty=penalty, per_device_train_batch_size=8)
        for penalty in (None, 0.5)
    )
    a, b = (trainer.rollout(trainer.train_rows) for trainer in (plain, fined))
    assert 0 < a.ended.float().mean() < 1
    torch.testing.assert_close(a.scores - b.scores, 0.5 * (~a.ended).float())


def test_losses_of_the_family_train_it_too():
    runs = {kind: make("online-dpo", loss_type=kind, max_steps=2) for kind in ("sigmoid", "ipo", "hinge")}
    losses = {kind: run.train().rows[0]["loss"] for kind, run in runs.items()}
    assert losses["sigmoid"] == pytest.approx(0.693147, abs=1e-5)
    assert losses["ipo"] == pytest.approx(25, abs=1e-3)
    assert losses["hinge"] == pytest.approx(1, abs=1e-5)


def test_the_reference_stays_and_of_a_lora_model_is_the_model_without_its_adapter():
    trainer = make("online-dpo")
    trainer.train()
    assert_same_weights(weights(trainer.ref_model), weights(llama()))
    adapted = make("online-dpo", lora())
    adapted.train()
    assert adapted.ref_model is None
    rollout, base = adapted.rollout(adapted.train_rows), llama().eval()
    with torch.no_grad():
        expected = by_hand.completion_logps(base, *parts(rollout, 0))
    torch.testing.assert_close(rollout.ref_logps[0][rollout.mask[0]], expected, rtol=0, atol=2e-5)


def test_it_learns_what_the_judge_likes():
    history = make("online-dpo", max_steps=25, per_device_train_batch_size=8, beta=0.1, learning_rate=5e-3).train()
    scores = history["objective/scores"]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.3
    assert history.last("objective/kl") > 0.1


@pytest.mark.parametrize("judge", [None, [mean_id], 1.0])
def test_a_judge_that_cannot_be_called_is_refused(judge):
    with pytest.raises(TypeError, match="reward_funcs must be a RewardModel or a function of prompts and completions"):
        make("online-dpo", reward_funcs=judge)
