"""Kahneman–Tversky optimisation: whom an example is compared with, and the step."""

import pytest
import torch

from rlhf_course.data import unpair_preferences
from trainers import by_hand
from trainers.small import ANSWERS, PAIRS, PROMPTS, THUMBS, assert_same_weights, gpt2, llama, make, weights

SETTINGS = {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 3}


def log_ratios(model, ref, rows, column="completion_ids"):
    """log π − log π_ref of each row, (B,), row by row."""
    each = []
    for row in rows:
        policy = by_hand.completion_logps(model, row["prompt_ids"], row[column]).sum()
        each.append(policy - by_hand.completion_logps(ref, row["prompt_ids"], row[column]).sum().detach())
    return torch.stack(each)


@pytest.mark.parametrize("kind", ["own reference", "other reference", "gpt2"])
def test_steps_equal_a_loop_by_hand(kind):
    model = (lambda: gpt2(dropout=0.2)) if kind == "gpt2" else llama
    ref = llama(1).eval() if kind == "other reference" else model().eval()
    other = llama(1) if kind == "other reference" else None
    weighted = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer = make("kto", model(), ref_model=other, beta=0.3, **weighted, **SETTINGS)
    hand = model().eval()

    def loss(step):
        rows = trainer.batch(step)
        r = log_ratios(hand, ref, rows)
        z = max(0.0, log_ratios(hand, ref, rows, "mismatched_ids").detach().mean().item())
        up = torch.tensor([row["label"] for row in rows])
        return torch.where(
            up, 1.5 * (1 - torch.sigmoid(0.3 * (r - z))), 0.5 * (1 - torch.sigmoid(0.3 * (z - r)))
        ).mean()

    by_hand.train(loss, 3, [1e-3], hand)
    trainer.train()
    assert_same_weights(weights(trainer.model), weights(hand), rtol=0, atol=3e-5)


@pytest.mark.parametrize("size", range(2, 9))
def test_trap_14_no_example_is_compared_with_itself(size):
    """For every batch size, and to whatever prompt: the mismatched completion is another row's."""
    words = " ".join(ANSWERS).split()
    rows = [{"prompt": PROMPTS[i % 4], "completion": f"{word} .", "label": True} for i, word in enumerate(set(words))]
    trainer = make("kto", rows=rows, per_device_train_batch_size=size)
    for step in range(trainer.steps_per_epoch):
        for row in trainer.batch(step):
            assert row["mismatched_ids"] != row["completion_ids"]
            (source,) = (o for o in trainer.train_rows if o["completion_ids"] == row["mismatched_ids"])
            assert source["prompt_ids"] != row["prompt_ids"]


@pytest.mark.parametrize("rows", [THUMBS, THUMBS[:2], THUMBS[::2], sorted(THUMBS, key=lambda row: row["prompt"])])
def test_mismatched_completions_answer_something_else_where_anything_does(rows):
    rows = make("kto", rows=rows).train_rows
    other_prompts = len({tuple(row["prompt_ids"]) for row in rows}) > 1
    for i, row in enumerate(rows):
        sources = [o for j, o in enumerate(rows) if j != i and o["completion_ids"] == row["mismatched_ids"]]
        assert sources
        if other_prompts:
            assert any(source["prompt_ids"] != row["prompt_ids"] for source in sources)


def test_a_batch_of_one_and_a_data_set_of_one_are_refused():
    with pytest.raises(ValueError, match="must be at least 2, got 1: KTO compares each example with a mean over its"):
        make("kto", per_device_train_batch_size=1)
    with pytest.raises(ValueError, match="at least two rows, got one: KTO puts each completion behind another"):
        make("kto", rows=THUMBS[:1])
    trainer = make("kto", rows=THUMBS[:3], per_device_train_batch_size=2, max_steps=2)
    assert [len(trainer.batch(step)) for step in range(2)] == [2, 1]
    trainer.train()  # a remainder of one has its point of comparison from elsewhere in the data


@pytest.mark.parametrize("label", [2, "yes", None, -1])
def test_labels_are_thumbs(label):
    with pytest.raises(ValueError, match=r"label must be true .thumbs up. or false .thumbs down., got"):
        make("kto", rows=[{**THUMBS[0], "label": label}, THUMBS[1]])
    with pytest.raises(ValueError, match="each row must have the column 'label', got 'prompt', 'completion'"):
        make("kto", rows=[{"prompt": "a", "completion": "b"}])


def test_unbalanced_thumbs_train_and_metrics_are_means_of_their_kind():
    rows = [{**row, "label": i == 0} for i, row in enumerate(THUMBS)]
    trainer = make("kto", rows=rows, ref_model=llama(1), beta=0.5, per_device_train_batch_size=8)
    rows = trainer.batch(0)
    metrics = {name: value.item() for name, value in trainer.step(rows).items()}
    with torch.no_grad():
        rewards = 0.5 * log_ratios(llama(), llama(1), rows)
        z = log_ratios(llama(), llama(1), rows, "mismatched_ids").mean()
    up = torch.tensor([row["label"] for row in rows])
    assert up.sum() == 1
    assert metrics["rewards/chosen"] == pytest.approx(rewards[up].mean().item(), abs=1e-4)
    assert metrics["rewards/rejected"] == pytest.approx(rewards[~up].mean().item(), abs=1e-4)
    assert metrics["rewards/margins"] == pytest.approx((rewards[up].mean() - rewards[~up].mean()).item(), abs=1e-4)
    assert metrics["kl"] == pytest.approx(max(z.item(), 0.0), abs=1e-4)
    all_down = make("kto", rows=[{**row, "label": False} for row in THUMBS])
    assert all(value == value for value in all_down.train().rows[-1].values())


def test_the_loss_starts_at_a_half_and_evaluation_is_the_same_however_cut():
    whole, cut = (make("kto", eval_rows=THUMBS, per_device_train_batch_size=n) for n in (8, 3))
    for trainer in (whole, cut):
        assert trainer.evaluate()["eval_loss"] == pytest.approx(0.5, abs=1e-6)
        trainer.model.load_state_dict(llama(2).state_dict())
    assert cut.evaluate() == pytest.approx(whole.evaluate(), rel=1e-5, abs=1e-6)
    assert cut.evaluate()["eval_loss"] != pytest.approx(0.5, abs=1e-3)


def test_it_learns_the_thumbs():
    history = make(
        "kto", rows=THUMBS[:4], max_steps=30, per_device_train_batch_size=4, logging_steps=5, beta=1.0
    ).train()
    assert history.last("loss") < 0.2
    assert history.last("rewards/chosen") > history.last("rewards/rejected") + 2


def test_comparisons_come_apart_into_thumbs():
    pairs = [{**PAIRS[0], "ended": (True, False)}, {**PAIRS[1], "rejected": PAIRS[1]["chosen"]}, PAIRS[2]]
    rows = unpair_preferences(pairs)
    assert [(row["completion"], row["label"], row["ended"]) for row in rows] == [
        (PAIRS[0]["chosen"], True, True),
        (PAIRS[2]["chosen"], True, True),
        (PAIRS[0]["rejected"], False, False),
        (PAIRS[2]["rejected"], False, True),
    ]
    assert sum(rows.dropped.values()) == 1
    cut = make("kto", rows=rows).train_rows[2]
    eos = make("kto").tokenizer.eos_token_id
    assert cut["completion_ids"][-1] != eos, "a completion that was cut off gets no end token"
