"""Group-relative policy optimisation, from groups of answers to the update."""

import pytest
import references as ref
import torch

from rlhf_course.advantages import group_advantages, rloo_advantages
from rlhf_course.models import RewardEnsemble
from trainers import by_hand
from trainers.small import (
    PROMPT_ROWS,
    PROMPTS,
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
from trainers.test_base import gradients
from trainers.test_rollout import parts

SETTINGS = {"per_device_train_batch_size": 8, "num_generations": 4, "learning_rate": 1e-3, "max_steps": 1}


def aggregated(token_losses, loss_type, longest):
    """One number from lists of token losses, as the papers have it."""
    if loss_type == "grpo":
        return torch.stack([losses.mean() for losses in token_losses]).mean()
    if loss_type == "dr_grpo":
        return torch.stack([losses.sum() / longest for losses in token_losses]).mean()
    return torch.cat(token_losses).mean()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo"])
def test_a_step_equals_one_by_hand(loss_type, scale):
    settings = {
        **SETTINGS,
        **{"beta": 0.3, "epsilon": 0.02, "epsilon_high": 0.05, "num_iterations": 3, "temperature": 0.8},
        **{"loss_type": loss_type, "scale_rewards": scale, "max_completion_length": 7},
    }
    trainer = make("grpo", brief_llama(), ref_model=llama(1), **settings)
    policy, reference = brief_llama().eval(), llama(1).eval()
    rows = trainer.batch(0)
    assert len(rows) == 2
    rollout = trainer.rollout(rows, stream=("sampling", 0))
    assert rollout.prompts == [row["prompt"] for row in rows for _ in range(4)]
    texts = [parts(rollout, i) for i in range(8)]
    assert len({len(completion) for _, completion in texts}) > 2
    scores = mean_id(None, rollout.completions(TOKENIZER))
    assert rollout.scores.tolist() == pytest.approx(scores)

    spread = [ref.variance(scores[:4]) ** 0.5, ref.variance(scores[4:]) ** 0.5]
    if scale == "batch":
        spread = [ref.variance(scores) ** 0.5] * 2
    scales = [1.0, 1.0] if scale == "none" else [s + 1e-4 for s in spread]
    advantages = [(scores[i] - ref.mean(scores[i // 4 * 4 :][:4])) / scales[i // 4] for i in range(8)]

    def forward(m):
        return [by_hand.completion_logps(m, *text, temperature=0.8) for text in texts]

    with torch.no_grad():
        old, ref_logps = forward(policy), forward(reference)

    def loss(_):
        token_losses = []
        for logps, before, there, advantage in zip(forward(policy), old, ref_logps, advantages):
            ratio = (logps - before).exp()
            clipped = torch.min(ratio * advantage, ratio.clamp(0.98, 1.05) * advantage)
            k3 = (there - logps).exp() - 1 - (there - logps)
            token_losses.append(-clipped + 0.3 * ratio * k3)
        return aggregated(token_losses, loss_type, 7)

    by_hand.train(loss, 3, [1e-3], policy)
    history = trainer.train()
    assert_same_weights(weights(trainer.model), weights(policy), rtol=0, atol=5e-5)
    assert history.last("reward") == pytest.approx(ref.mean(scores), abs=1e-5)
    k3 = [(b - a).exp() - 1 - (b - a) for a, b in zip(old, ref_logps)]
    assert history.last("kl") == pytest.approx(torch.cat(k3).mean().item(), rel=1e-3)
    assert 0 < history.last("clip_ratio/region_mean") <= 1
    both = history.last("clip_ratio/low_mean") + history.last("clip_ratio/high_mean")
    assert history.last("clip_ratio/region_mean") == pytest.approx(both)


def test_bnpo_alone_depends_on_how_a_batch_is_cut():
    def updates(loss_type, size):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "max_steps": 1}
        return gradients(make("grpo", brief_llama(), loss_type=loss_type, num_iterations=1, **settings))[0]

    bnpo, dapo = ([updates(loss_type, size) for size in (8, 1)] for loss_type in ("bnpo", "dapo"))
    name = next(key for key in dapo[0] if key.endswith("lm_head.weight"))
    torch.testing.assert_close(bnpo[0][name], dapo[0][name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dapo[1][name], dapo[0][name], rtol=1e-4, atol=1e-6)
    assert (bnpo[1][name] - bnpo[0][name]).abs().max() > 1e-3


@pytest.mark.parametrize("model", [llama, lambda: gpt2(dropout=0.5), lambda: lora(dropout=0.5)])
@pytest.mark.parametrize("bf16", [False, True])
def test_trap_06_nothing_is_clipped_and_the_kl_is_0_at_the_first_step(model, bf16):
    seen = []

    def watched(logps, old_logps, advantages, mask, epsilon):
        seen.append((logps - old_logps)[mask].abs().max().item())
        return (logps * mask).sum()

    make("grpo", model(), loss_fn=watched, num_iterations=1, max_steps=1, bf16=bf16).train()
    assert seen == [pytest.approx(0, abs=3e-3 if bf16 else 1e-5)]
    history = make("grpo", model(), beta=0.1, num_iterations=1, max_steps=1, bf16=bf16).train()
    assert history.last("kl") == pytest.approx(0, abs=1e-5)
    assert history.last("clip_ratio/region_mean") == 0


def test_trap_11_a_group_of_equal_rewards_teaches_nothing_and_is_counted():
    history_of = {}
    for name, reward in {
        "equal": lambda p, c: [0.7] * len(c),
        "half": lambda p, c: [mean_id(p, c)[i] if i < 4 else 1.0 for i in range(8)],
    }.items():
        trainer = make("grpo", reward_funcs=reward, num_iterations=1, **{**SETTINGS, "max_steps": 2})
        before = weights(trainer.model)
        history_of[name] = trainer.train()
        moved = any(not torch.equal(before[key], p) for key, p in trainer.model.named_parameters())
        assert moved == (name == "half")
        assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert history_of["equal"]["frac_reward_zero_std"] == [1, 1]
    assert history_of["equal"]["grad_norm"] == [0, 0]
    assert history_of["half"]["frac_reward_zero_std"] == [0.5, 0.5]


def test_rewards_are_weighted_and_added():
    def length(prompts, completions):
        return [len(c.split()) for c in completions]

    judge = reward_model(2)
    trainer = make("grpo", reward_funcs=[mean_id, judge, length], reward_weights=[1.0, 2.0, -0.5])
    rollout = trainer.rollout(trainer.train_rows[:3])
    texts = rollout.completions(TOKENIZER)
    expected = torch.tensor(mean_id(None, texts)) - 0.5 * torch.tensor(length(None, texts))
    with torch.no_grad():
        expected = expected + 2 * judge(rollout.sequences, rollout.attention_mask)
    torch.testing.assert_close(rollout.scores, expected, rtol=1e-4, atol=1e-5)
    names = [f"rewards/{name}/mean" for name in ("mean_id", "RewardModel", "length")]
    found = trainer.rollout_metrics(rollout)
    assert found[names[2]].item() == pytest.approx(ref.mean(length(None, texts)))
    assert found["reward"] == pytest.approx(sum(w * found[n].item() for w, n in zip((1, 2, -0.5), names)), abs=1e-5)
    twins = make("grpo", reward_funcs=[reward_model(1), reward_model(2)])
    assert twins.reward_names == ["RewardModel_0", "RewardModel_1"]
    with pytest.raises(ValueError, match="reward_weights must have one weight a reward function, 1, got 2"):
        make("grpo", reward_weights=[1.0, 2.0])
    ensemble = make("grpo", reward_funcs=RewardEnsemble([judge, reward_model(4)]))
    assert torch.isfinite(torch.tensor(ensemble.train()["reward"])).all()


@pytest.mark.parametrize("reward", [None, [mean_id, "rule"], 1.0])
def test_a_reward_that_cannot_be_called_is_refused(reward):
    with pytest.raises(TypeError, match=r"reward_funcs must be a RewardModel, a function .* or a list of these, got"):
        make("grpo", reward_funcs=reward)


def test_a_batch_counts_answers_and_an_epoch_prompts():
    trainer = make("grpo", rows=PROMPT_ROWS, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert (trainer.batch_size, trainer.steps_per_epoch) == (4, 2)
    seen = [row["prompt"] for step in range(2) for row in trainer.batch(step)]
    assert sorted(seen) == sorted(PROMPTS * 2)


def test_without_beta_there_is_no_reference():
    trainer = make("grpo")
    trainer.train()
    assert trainer.ref_model is None
    assert "kl" not in trainer.history.columns
    held = make("grpo", beta=0.1)
    held.train()
    assert_same_weights(weights(held.ref_model), weights(llama()))
    assert not torch.equal(held.model.lm_head.weight, held.ref_model.lm_head.weight)


def test_the_reference_of_a_lora_model_is_the_model_without_its_adapter():
    trainer = make("grpo", lora(), beta=0.1)
    trainer.train()
    assert trainer.ref_model is None
    rollout, base = trainer.rollout(trainer.train_rows[:2]), llama().eval()
    for i in range(len(rollout.mask)):
        with torch.no_grad():
            expected = by_hand.completion_logps(base, *parts(rollout, i))
        torch.testing.assert_close(rollout.ref_logps[i][rollout.mask[i]], expected, rtol=0, atol=2e-5)
    assert (rollout.logps - rollout.ref_logps).abs().max() > 1e-3


def gain(**settings):
    size = {"per_device_train_batch_size": 16, "num_generations": 4, "max_steps": 15}
    trainer = make("grpo", rows=PROMPT_ROWS, **size, **settings)
    history = trainer.train()
    rewards = history["reward"]
    return sum(rewards[-3:]) / 3 - sum(rewards[:3]) / 3, trainer


@pytest.mark.parametrize("advantage_fn", [group_advantages, rloo_advantages])
def test_it_raises_a_simple_reward(advantage_fn):
    improvement, _ = gain(advantage_fn=advantage_fn)
    assert improvement > 0.5


def test_a_dear_kl_holds_the_policy_near_its_reference():
    found = {}
    for beta in (1e-6, 3.0):
        _, trainer = gain(beta=beta)
        found[beta] = trainer.history.last("kl")
    assert found[3.0] < 0.3 * found[1e-6]


def test_evaluation_is_of_the_policys_answers_to_held_out_prompts():
    trainer = make("grpo", eval_rows=PROMPT_ROWS[:3], per_device_train_batch_size=2, beta=0.1)
    first = trainer.evaluate()
    assert trainer.evaluate() == first, "the same random numbers each time"
    assert first["eval_kl"] == pytest.approx(0, abs=1e-5)
    scores = [
        trainer.rollout(trainer.eval_rows[place : place + 2], stream=("evaluation", place)).scores for place in (0, 2)
    ]
    assert first["eval_reward"] == pytest.approx(torch.cat(scores).mean().item())
