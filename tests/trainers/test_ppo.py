"""Proximal policy optimisation, from rollout to update."""

import copy
import math

import pytest
import references as ref
import torch

from rlhf_course.advantages import gae
from rlhf_course.models import RewardEnsemble, ValueModel
from trainers import by_hand
from trainers.small import (
    PROMPT_ROWS,
    TOKENIZER,
    assert_same_weights,
    gpt2,
    llama,
    lora,
    make,
    mean_id,
    reward_model,
    weights,
)
from trainers.test_rollout import parts

SETTINGS = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "value_learning_rate": 2e-3,
    "value_warmup_steps": 0,
}


def advantages_by_hand(rollout, values, ref_logps, logps, beta, gamma, lam):
    """Advantages (whitened) and returns, as lists of each row's real tokens, in plain Python."""
    rows = range(len(rollout.mask))
    lengths = [len(x) for x in logps]
    rewards = [[-beta * (p - q) for p, q in zip(logps[i], ref_logps[i])] for i in rows]
    for i in rows:
        rewards[i][-1] += rollout.scores[i].item()  # on the last real token (trap 12)
    longest = max(lengths)
    padded = [[x + [0.0] * (longest - len(x)) for x in table] for table in (rewards, values)]
    mask = [[1] * n + [0] * (longest - n) for n in lengths]
    advantages, returns = ref.gae(*padded, mask, gamma, lam)
    real = ref.real(advantages, mask)
    mean, std = ref.mean(real), math.sqrt(ref.variance(real) + 1e-8)
    whitened = [[(a - mean) / std for a in row[:n]] for row, n in zip(advantages, lengths)]
    return whitened, [row[:n] for row, n in zip(returns, lengths)]


@pytest.mark.parametrize("kind", ["function", "reward model", "gpt2"])
def test_a_step_equals_one_by_hand(kind):
    model = (lambda: gpt2(dropout=0.3)) if kind == "gpt2" else llama
    settings = {
        **SETTINGS,
        **{"kl_coef": 0.3, "gamma": 0.97, "lam": 0.9, "num_ppo_epochs": 3, "temperature": 0.8, "cliprange": 0.02},
        **{"cliprange_value": 0.01, "vf_coef": 0.5, "missing_eos_penalty": 0.7, "max_steps": 1},
    }
    reward = reward_model(2) if kind == "reward model" else mean_id
    trainer = make("ppo", model(), ref_model=llama(1), reward_funcs=reward, **settings)
    policy, critic, reference = model().eval(), copy.deepcopy(trainer.value_model), llama(1).eval()

    rows = trainer.batch(0)
    rollout = trainer.rollout(rows, stream=("sampling", 0))
    texts = [parts(rollout, i) for i in range(len(rows))]
    if kind == "function":
        penalties = [0.0 if completion[-1] == TOKENIZER.eos_token_id else 0.7 for _, completion in texts]
        scores = [s - p for s, p in zip(mean_id(None, rollout.completions(TOKENIZER)), penalties)]
        assert rollout.scores.tolist() == pytest.approx(scores)
        assert 0.7 in penalties

    def forward(m):
        return [by_hand.completion_logps(m, *text, temperature=0.8) for text in texts]

    def values():
        out = [by_hand.scalars(critic, prompt + completion) for prompt, completion in texts]
        return [v[len(p) - 1 : len(p) + len(c) - 1] for v, (p, c) in zip(out, texts)]

    with torch.no_grad():
        before = forward(policy), values(), forward(reference)
    old, old_values, ref_logps = ([row.tolist() for row in table] for table in before)
    advantages, returns = advantages_by_hand(rollout, old_values, ref_logps, old, 0.3, 0.97, 0.9)
    kl = [sum(a - b for a, b in zip(*pair)) for pair in zip(old, ref_logps)]

    def loss(_):
        policy_losses, value_losses = [], []
        for i, (logps, value) in enumerate(zip(forward(policy), values())):
            advantage, target, old_value = (torch.tensor(x[i]) for x in (advantages, returns, old_values))
            ratio = (logps - torch.tensor(old[i])).exp()
            policy_losses.append(-torch.min(ratio * advantage, ratio.clamp(0.98, 1.02) * advantage))
            clipped = old_value + (value - old_value).clamp(-0.01, 0.01)
            value_losses.append(0.5 * torch.max((value - target) ** 2, (clipped - target) ** 2))
        return torch.cat(policy_losses).mean() + 0.5 * torch.cat(value_losses).mean()

    by_hand.train(loss, 3, [1e-3, 2e-3], policy, critic)
    history = trainer.train()
    assert_same_weights(weights(trainer.model), weights(policy), rtol=0, atol=5e-5)
    assert_same_weights(weights(trainer.value_model), weights(critic), rtol=0, atol=5e-5)
    assert history.last("policy/clipfrac_avg") > 0
    assert history.last("objective/kl") == pytest.approx(ref.mean(kl), abs=1e-4)
    assert history.last("objective/scores") == pytest.approx(rollout.scores.mean().item())
    expected = history.last("objective/scores") - 0.3 * history.last("objective/kl")
    assert history.last("objective/rlhf_reward") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model", [llama, lambda: gpt2(dropout=0.5), lambda: lora(dropout=0.5)])
@pytest.mark.parametrize("bf16", [False, True])
def test_trap_06_the_ratio_is_1_in_the_first_epoch_and_the_kl_0_at_the_first_step(model, bf16):
    trainer = make("ppo", model(), num_ppo_epochs=1, max_steps=1, value_warmup_steps=0, bf16=bf16)
    history = trainer.train()
    tolerance = 1e-3 if bf16 else 1e-5
    assert history.last("val/ratio") == pytest.approx(1, abs=tolerance)
    assert history.last("policy/approxkl_avg") == pytest.approx(0, abs=tolerance**2)
    assert history.last("policy/clipfrac_avg") == 0
    assert history.last("objective/kl") == pytest.approx(0, abs=10 * tolerance)


def test_the_later_epochs_are_off_policy():
    history = make("ppo", num_ppo_epochs=4, max_steps=1, value_warmup_steps=0).train()
    assert history.last("policy/approxkl_avg") > 1e-6


def test_only_the_critic_learns_at_first():
    trainer = make("ppo", value_warmup_steps=2, max_steps=2, weight_decay=0.1)
    before, critic = weights(trainer.model), weights(trainer.value_model)
    trainer.train()
    assert_same_weights(weights(trainer.model), before)
    assert any(not torch.equal(critic[name], p) for name, p in trainer.value_model.named_parameters())
    trainer.args.max_steps = 3
    trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_trap_12_no_value_is_made_up_after_the_last_token():
    """Cut off or ended, nothing comes after: with λ = 0 the last advantage is reward − value."""
    seen = {}

    def advantages(rewards, values, mask, gamma, lam):
        seen["out"] = (rewards, values, mask, *gae(rewards, values, mask, gamma, lam))
        return seen["out"][3:]

    settings = {"rows": PROMPT_ROWS * 16, "per_device_train_batch_size": 128, "max_steps": 1}
    trainer = make("ppo", lam=0.0, missing_eos_penalty=5.0, advantage_fn=advantages, **settings)
    rollout = trainer.rollout(trainer.batch(0), stream=("sampling", 0))
    assert 0 < rollout.ended.sum() < len(rollout.ended)
    trainer.train()
    rewards, values, mask, raw, _ = seen["out"]
    last = mask.sum(dim=1) - 1
    rows = torch.arange(len(mask))
    torch.testing.assert_close(raw[rows, last], rewards[rows, last] - values[rows, last])
    plain = torch.tensor(mean_id(None, rollout.completions(TOKENIZER)))
    torch.testing.assert_close(rewards.sum(dim=1), plain - 5.0 * ~rollout.ended, rtol=0, atol=1e-4)
    assert (rewards[~mask] == 0).all()


def gain(**settings):
    trainer = make("ppo", rows=PROMPT_ROWS, per_device_train_batch_size=16, max_steps=15, **settings)
    history = trainer.train()
    scores = history["objective/scores"]
    return sum(scores[-3:]) / 3 - sum(scores[:3]) / 3, history


def test_it_raises_a_simple_reward():
    improvement, history = gain(kl_coef=0.0, value_warmup_steps=0, value_learning_rate=1e-2)
    assert improvement > 0.5
    assert history.last("objective/kl") > 0.5


def test_a_dear_kl_holds_the_policy_near_its_reference():
    _, free = gain(kl_coef=0.0, value_warmup_steps=0)
    _, dear = gain(kl_coef=50.0, value_warmup_steps=0)
    assert abs(dear.last("objective/kl")) < 0.3 * free.last("objective/kl")


def test_the_adaptive_controller_moves_beta_towards_its_target():
    low = make("ppo", target_kl=1e-3, kl_horizon=10, max_steps=6, value_warmup_steps=0, learning_rate=3e-2).train()
    high = make("ppo", target_kl=100.0, kl_horizon=10, max_steps=6, value_warmup_steps=0).train()
    assert low["objective/kl_coef"][0] == high["objective/kl_coef"][0] == pytest.approx(0.05)
    assert low.last("objective/kl_coef") > 0.05 > high.last("objective/kl_coef")
    assert high["objective/kl_coef"] == pytest.approx([0.05 * (1 - 0.2 * 2 / 10) ** n for n in range(6)])


def test_mini_batches_are_updates_of_their_own():
    trainer = make("ppo", num_mini_batches=2, num_ppo_epochs=3, per_device_train_batch_size=4, max_steps=1)
    sizes, clipped_step = [], trainer.clipped_step
    trainer.clipped_step = lambda rollout, *rest: sizes.append(len(rollout.mask)) or clipped_step(rollout, *rest)
    trainer.train()
    assert sizes == [2] * 6


def test_the_callers_reference_and_reward_model_stay_as_they_are():
    reference, reward = gpt2(1, dropout=0.2), reward_model(1)
    reward.requires_grad_(False)
    saved = weights(reference), weights(reward)
    trainer = make("ppo", gpt2(dropout=0.2), ref_model=reference, reward_funcs=reward, value_warmup_steps=0)
    trainer.train()
    assert_same_weights(weights(reference), saved[0])
    assert_same_weights(weights(reward), saved[1])
    assert all(p.requires_grad and p.grad is None for p in reference.parameters())
    assert all(not p.requires_grad for p in reward.parameters())
    assert {m.p for m in reference.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    moved = [name for name, p in trainer.value_model.named_parameters() if not torch.equal(saved[1][name], p)]
    assert moved, "the critic, a copy of the reward model, learns"


def test_the_reference_left_out_is_the_model_at_the_start():
    trainer = make("ppo", value_warmup_steps=0)
    trainer.train()
    assert_same_weights(weights(trainer.ref_model), weights(llama()))
    assert not torch.equal(trainer.model.lm_head.weight, trainer.ref_model.lm_head.weight)


def test_the_reference_of_a_lora_model_is_the_model_without_its_adapter():
    trainer = make("ppo", lora(), value_warmup_steps=0)
    trainer.train()
    assert trainer.ref_model is None
    rollout, base = trainer.rollout(trainer.train_rows), llama().eval()
    for i in range(len(rollout.mask)):
        with torch.no_grad():
            expected = by_hand.completion_logps(base, *parts(rollout, i))
        torch.testing.assert_close(rollout.ref_logps[i][rollout.mask[i]], expected, rtol=0, atol=2e-5)
    assert (rollout.logps - rollout.ref_logps).abs().max() > 1e-3


def test_critics():
    assert isinstance(make("ppo").value_model, ValueModel)
    reward = reward_model(3)
    started = make("ppo", reward_funcs=reward).value_model
    assert_same_weights(weights(started), weights(reward))
    ensemble = RewardEnsemble([reward, reward_model(4)])
    trainer = make("ppo", reward_funcs=ensemble)
    assert torch.isfinite(torch.tensor(trainer.train()["objective/scores"])).all()
    given = ValueModel.from_policy(llama(5), seed=0)
    assert make("ppo", value_model=given).value_model is given


def test_evaluation_is_of_the_policys_answers_to_held_out_prompts():
    trainer = make("ppo", eval_rows=PROMPT_ROWS[:3], per_device_train_batch_size=2)
    first = trainer.evaluate()
    assert trainer.evaluate() == first, "the same random numbers each time"
    assert first["eval_objective/kl"] == pytest.approx(0, abs=1e-4)
    scores = [
        trainer.rollout(trainer.eval_rows[place : place + 2], stream=("evaluation", place)).scores for place in (0, 2)
    ]
    assert first["eval_objective/scores"] == pytest.approx(torch.cat(scores).mean().item())


@pytest.mark.parametrize("reward", [None, [mean_id], 1.0])
def test_a_reward_that_cannot_be_called_is_refused(reward):
    with pytest.raises(TypeError, match="reward_funcs must be a RewardModel or a function of prompts and completions"):
        make("ppo", reward_funcs=reward)
