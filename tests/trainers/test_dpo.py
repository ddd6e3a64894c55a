"""Direct preference optimisation: the reference, once; the losses; the step."""

import copy

import pytest
import torch
from torch.nn.functional import logsigmoid

from rlhf_course.losses import dpo_loss, ipo_loss
from trainers import by_hand
from trainers.small import PAIRS, assert_same_weights, gpt2, llama, lora, make, weights

SETTINGS = {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 3}


def sums(model, rows):
    """log π of chosen and rejected completions, (B,) each, row by row."""
    return [
        torch.stack([by_hand.completion_logps(model, row["prompt_ids"], row[f"{c}_ids"]).sum() for row in rows])
        for c in ("chosen", "rejected")
    ]


@pytest.mark.parametrize("kind", ["own reference", "other reference", "gpt2", "ipo", "conservative", "free"])
def test_steps_equal_a_loop_by_hand(kind):
    model = (lambda: gpt2(dropout=0.2)) if kind == "gpt2" else llama
    ref = llama(1).eval() if kind == "other reference" else model().eval()
    settings = {
        "ipo": {"loss_type": "ipo"},
        "conservative": {"label_smoothing": 0.2},
        "free": {"reference_free": True},
    }.get(kind, {})
    other = llama(1) if kind == "other reference" else None
    trainer = make("dpo", model(), ref_model=other, beta=0.3, **settings, **SETTINGS)
    hand = model().eval()

    def loss(step):
        rows = trainer.batch(step)
        (chosen, rejected), (ref_chosen, ref_rejected) = sums(hand, rows), sums(ref, rows)
        if kind == "ipo":
            lengths = [torch.tensor([len(row[f"{c}_ids"]) for row in rows]) for c in ("chosen", "rejected")]
            gap = (chosen - ref_chosen) / lengths[0] - (rejected - ref_rejected) / lengths[1]
            return (gap - 1 / (2 * 0.3)).square().mean()
        h = chosen - rejected if kind == "free" else chosen - rejected - (ref_chosen - ref_rejected).detach()
        flipped = settings.get("label_smoothing", 0.0)
        return (-(1 - flipped) * logsigmoid(0.3 * h) - flipped * logsigmoid(-0.3 * h)).mean()

    by_hand.train(loss, 3, [1e-3], hand)
    trainer.train()
    assert_same_weights(weights(trainer.model), weights(hand), rtol=0, atol=3e-5)


def test_the_reference_is_worked_out_once_and_by_the_weights_before_training():
    start = llama()
    trainer = make("dpo", max_steps=8, eval_rows=PAIRS[:3], eval_steps=2)
    calls, precompute = [], trainer.precompute_reference
    trainer.precompute_reference = lambda: calls.append(1) or precompute()
    trainer.train()
    assert len(calls) == 1
    for rows in (trainer.train_rows, trainer.eval_rows):
        chosen, rejected = sums(start, rows)
        assert [row["ref_chosen_logps"] for row in rows] == pytest.approx(chosen.tolist(), abs=1e-4)
        assert [row["ref_rejected_logps"] for row in rows] == pytest.approx(rejected.tolist(), abs=1e-4)
    assert trainer.reference_logps is None, "the reference model may be forgotten"


def test_a_resumed_run_keeps_the_first_reference(tmp_path):
    trainer = make("dpo", eval_rows=PAIRS[:3])
    trainer.train()
    trainer.save(tmp_path / "run")
    resumed = make("dpo", eval_rows=PAIRS[:3]).resume(tmp_path / "run")
    resumed.precompute_reference = None  # would fail if called
    assert resumed.evaluate() == trainer.evaluate()


def test_evaluation_before_training_and_a_step_by_hand_know_the_reference():
    assert make("dpo", eval_rows=PAIRS[:3]).evaluate()["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    trainer = make("dpo")
    assert trainer.step(trainer.batch(0))["loss"].item() == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("dropout_of", ["gpt2", "lora", "attention"])
def test_trap_06_policy_and_reference_are_one_before_the_first_step(dropout_of):
    """With dropout in the model; log-ratios are exactly 0."""
    model = {
        "gpt2": lambda: gpt2(dropout=0.5),
        "lora": lambda: lora(dropout=0.5),
        "attention": lambda: llama(attention_dropout=0.5),
    }[dropout_of]()
    model.train()
    trainer = make("dpo", model, learning_rate=0.0, eval_rows=PAIRS)
    history = trainer.train()
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "eval_rewards/margins"):
        assert history.last(name) == pytest.approx(0, abs=1e-6)
    trainer = make("dpo", model, per_device_train_batch_size=8)
    trainer.model.train()
    rows = trainer.batch(0)
    with torch.no_grad():
        trainer.compute_loss(rows)
        again = trainer.row_logps(trainer.policy_logps, rows)[0]
        assert torch.equal(again, trainer.row_logps(trainer.policy_logps, rows)[0])


def test_bf16_starts_from_log_two_too():
    assert make("dpo", bf16=True, max_steps=1).train()["loss"] == pytest.approx([0.693147], abs=1e-5)


def test_a_given_reference_stays_as_it_is():
    ref, copied = llama(1), copy.deepcopy(llama(1))
    ref.requires_grad_(True)
    make("dpo", ref_model=ref).train()
    assert_same_weights(weights(ref), weights(copied))
    assert all(p.requires_grad and p.grad is None for p in ref.parameters())


def test_metrics_known_answers():
    trainer = make("dpo", per_device_train_batch_size=8, beta=0.5, ref_model=llama(1))
    rows = trainer.batch(0)
    metrics = {name: value.item() for name, value in trainer.step(rows).items()}
    with torch.no_grad():
        (chosen, rejected), (ref_chosen, ref_rejected) = sums(llama(), rows), sums(llama(1), rows)
    chosen_rewards, rejected_rewards = 0.5 * (chosen - ref_chosen), 0.5 * (rejected - ref_rejected)
    expected = {
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/margins": chosen_rewards - rejected_rewards,
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.mean().item(), abs=1e-4)
    assert metrics["loss"] == pytest.approx(dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5).item(), abs=1e-4)
    assert ipo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5).item() != pytest.approx(metrics["loss"])


def test_it_learns_the_comparisons():
    history = make("dpo", rows=PAIRS[:4], max_steps=20, per_device_train_batch_size=4, logging_steps=5).train()
    assert history.last("rewards/accuracies") == 1
    assert history.last("loss") < 0.4
