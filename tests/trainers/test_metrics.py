"""What all trainers write down: TRL's names, means of an interval, one reading of the device an interval."""

import pytest
import torch

from rlhf_course.models import decoding
from trainers.small import METHODS, ROWS, SFT_ROWS, assert_same_weights, gpt2, make, weights


def test_a_log_line_is_the_mean_of_its_interval():
    each, joint = (make("sft", max_steps=5, logging_steps=n, warmup_steps=2) for n in (1, 3))
    each.train()
    joint.train()
    losses = each.history["loss"]
    assert each.history.steps("loss") == [1, 2, 3, 4, 5]
    assert joint.history.steps("loss") == [3, 5]
    assert joint.history["loss"] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 2])
    assert joint.history["epoch"] == [3 / 4, 5 / 4]
    assert each.history["learning_rate"][:2] == pytest.approx([0.5e-2, 1e-2])
    assert_same_weights(weights(each.model), weights(joint.model))


@pytest.fixture
def nothing_recorded(monkeypatch):
    """Recording a step of decoding reads a size, once for each model: kept out of what is counted."""
    monkeypatch.setattr(decoding, "_steps_are_alike", lambda model: False)


@pytest.mark.parametrize("method", METHODS)
def test_metrics_are_read_once_an_interval(method, monkeypatch, nothing_recorded):
    trainer = make(method, max_steps=4, logging_steps=2, eval_steps=None)
    items, reads, flush = [], [], trainer._flush_metrics
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda x: items.append(1) or item(x))
    monkeypatch.setattr(trainer, "_flush_metrics", lambda: reads.append(1) or flush())
    trainer.train()
    assert (len(items), len(reads)) == (0, 2)


def test_the_adaptive_controller_alone_reads_each_step(monkeypatch, nothing_recorded):
    trainer = make("ppo", max_steps=3, logging_steps=3, target_kl=1.0)
    items, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda x: items.append(1) or item(x))
    trainer.train()
    assert len(items) == 3


PAIR = {"loss", "logps/chosen", "logps/rejected"} | {f"rewards/{n}" for n in ("chosen", "rejected", "margins")}
ROLLOUT = {f"objective/{name}" for name in ("scores", "scores_margin", "kl")} | {"frac_tied"}
METRICS = {
    "sft": {"loss"},
    "reward": {"loss", "accuracy", "margin", "mean_reward"},
    "dpo": PAIR | {"rewards/accuracies"},
    "kto": PAIR | {"kl"},
    "online-dpo": PAIR | ROLLOUT | {"rewards/accuracies", "completions/mean_length", "completions/ended"},
    "ppo": {"loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg"}
    | {f"objective/{name}" for name in ("kl", "scores", "rlhf_reward", "kl_coef")}
    | {"val/ratio", "val/explained_variance", "completions/mean_length", "completions/ended"},
    "grpo": {"loss", "entropy", "reward", "reward_std", "rewards/mean_id/mean", "frac_reward_zero_std", "kl"}
    | {f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "region_mean")}
    | {"completions/mean_length", "completions/clipped_ratio"},
}
MEASURED = {  # of answers to held-out prompts, before anything is learnt from them
    "ppo": {"objective/scores", "objective/kl", "completions/mean_length", "completions/ended"},
    "grpo": {"reward", "reward_std", "rewards/mean_id/mean", "frac_reward_zero_std", "kl"}
    | {"completions/mean_length", "completions/clipped_ratio"},
    "online-dpo": ROLLOUT | {"completions/mean_length", "completions/ended"},
}


@pytest.mark.parametrize("method", METHODS)
def test_metrics_have_trls_names(method):
    settings = {"beta": 0.1} if method == "grpo" else {}
    trainer = make(method, eval_rows=ROWS[method][:3], compute_metrics=lambda t: {"mine": t.global_step}, **settings)
    names = set(trainer.train().columns)
    train_names = {name for name in names if not name.startswith("eval_")}
    assert train_names == METRICS[method] | {"step", "epoch", "learning_rate", "grad_norm"}
    of_eval = MEASURED.get(method, METRICS[method])
    assert names - train_names == {f"eval_{name}" for name in of_eval | {"mine"}}
    assert trainer.history.last("eval_mine") == 3


def test_evaluation_weighs_every_item_alike_and_changes_nothing():
    whole, cut = (make("sft", eval_rows=SFT_ROWS, per_device_train_batch_size=n) for n in (8, 3))
    before = weights(cut.model)
    assert cut.evaluate() == pytest.approx(whole.evaluate(), rel=1e-5)
    assert_same_weights(weights(cut.model), before)
    evaluated = make("sft", gpt2(), eval_rows=SFT_ROWS, eval_steps=1)
    plain = make("sft", gpt2())
    evaluated.train()
    plain.train()
    assert_same_weights(weights(evaluated.model), weights(plain.model))
    assert plain.history["step"] == [3]
    assert make("ppo", eval_steps=1, logging_steps=9).train()["step"] == [3], "no empty rows"
