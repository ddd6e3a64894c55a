"""The reward model's trainer: pairs, rankings, margins."""

import copy
from itertools import combinations

import pytest
import torch
from torch.nn.functional import logsigmoid

from rlhf_course.models import RewardModel
from rlhf_course.trainers import RewardConfig, RewardTrainer
from trainers import by_hand
from trainers.small import PAIRS, TOKENIZER, assert_same_weights, gpt2, make, reward_model, weights
from trainers.test_base import RANKINGS, gradients

SETTINGS = {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 3}


@pytest.mark.parametrize("kind", ["plain", "margin", "centred", "gpt2"])
def test_steps_equal_a_loop_by_hand(kind):
    model = (lambda: RewardModel.from_policy(gpt2(dropout=0.1), 0)) if kind == "gpt2" else reward_model
    rows = [{**row, "margin": 0.5 * i} for i, row in enumerate(PAIRS)] if kind == "margin" else PAIRS
    centring = 0.05 if kind == "centred" else None
    trainer = make("reward", model(), rows=rows, center_rewards_coefficient=centring, **SETTINGS)
    hand = model().eval()

    def loss(step):
        losses = []
        for row in trainer.batch(step):
            answers = (row["prompt_ids"] + row[f"{c}_ids"] for c in ("chosen", "rejected"))
            chosen, rejected = (by_hand.scalars(hand, ids)[-1] for ids in answers)
            losses.append(-logsigmoid(chosen - rejected - row.get("margin", 0.0)))
            losses[-1] = losses[-1] + (centring or 0.0) * (chosen + rejected) ** 2
        return torch.stack(losses).mean()

    by_hand.train(loss, 3, [1e-3], hand)
    trainer.train()
    assert_same_weights(weights(trainer.model), weights(hand), rtol=0, atol=2e-5)


def test_a_ranking_is_its_pairs_and_each_answer_is_scored_once():
    answers = ["imagine drain .", "hope that helps .", "ask me for more .", "call it merged nuclei ."]
    ranked = [{"prompt": row["prompt"], "ranked": answers} for row in PAIRS[::2]]
    pairs = [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for row in ranked
        for better, worse in combinations(row["ranked"], 2)
    ]
    one = make("reward", rows=ranked, per_device_train_batch_size=4, max_steps=1)
    other = make("reward", rows=pairs, per_device_train_batch_size=24, max_steps=1)
    assert one.num_items(one.train_rows) == len(pairs) == 24 == 4 * (4 * 3 // 2)
    scored = []
    one.model.model.score.register_forward_hook(lambda module, args, output: scored.append(len(output)))
    (by_ranking,), (by_pairs,) = gradients(one), gradients(other)
    assert_same_weights(by_ranking, by_pairs, rtol=1e-4, atol=1e-6)
    assert scored == [16]
    assert one.history.last("accuracy") == pytest.approx(other.history.last("accuracy"))


def test_an_answer_that_was_cut_off_gets_no_end():
    row = {
        "prompt": PAIRS[0]["prompt"],
        "ranked": ["hope that helps .", "hope that", "ask"],
        "ended": [True, False, False],
    }
    ids = make("reward", rows=[row, row]).train_rows[0]["ranked_ids"]
    assert [TOKENIZER.decode(answer) for answer in ids] == ["hope that helps . <eos>", "hope that", "ask"]
    with pytest.raises(ValueError, match="ended must say of each of the 3 completions"):
        make("reward", rows=[{**row, "ended": [True]}])


def test_rankings_that_say_nothing_are_dropped_and_counted():
    again = {"prompt": PAIRS[0]["prompt"], "ranked": ["hope .", "ask me .", "hope ."]}
    rows = [*RANKINGS, again, {**again, "ranked": ["hope .", "hope .", "ask me ."]}]
    trainer = make("reward", rows=rows)
    assert len(trainer.train_rows) == len(RANKINGS)
    assert sum(trainer.train_rows.dropped.values()) == 2
    with pytest.raises(
        ValueError,
        match=r"train_dataset has no rows left \(0 of 2 rows kept; dropped: 2 .the two are equal after truncation",
    ):
        make("reward", rows=rows[-2:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "ranked": ["hope ."]}], "ranked must be a list of at least two completions, best first"),
        ([{"prompt": "a", "ranked": "hope"}], "ranked must be a list of at least two"),
        ([*RANKINGS, PAIRS[0]], "each row must have the column 'ranked'"),
        ([{"ranked": ["hope .", "me ."]}], "each row must have the column 'prompt'"),
        ([{**PAIRS[0], "margin": 1}, *PAIRS[1:]], "either all rows or none must have a margin, got 1 of"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        make("reward", rows=rows)


def test_centring_holds_rewards_near_zero():
    def run(centring):
        model = reward_model()
        with torch.no_grad():
            model.model.score.weight.fill_(0.3)
        args = {"center_rewards_coefficient": centring, "max_steps": 30, "per_device_train_batch_size": 8}
        return abs(make("reward", model, **args).train().last("mean_reward"))

    assert run(1.0) < 0.5 * run(None)


def test_trap_04_the_reward_is_read_at_the_end_where_the_end_also_pads():
    def run(pad):
        tokenizer = copy.deepcopy(TOKENIZER)
        tokenizer.pad_token = pad
        args = RewardConfig(max_steps=2, use_cpu=True, disable_tqdm=True, warmup_steps=0)
        trainer = RewardTrainer(reward_model(), args=args, train_dataset=PAIRS, processing_class=tokenizer)
        trainer.train()
        return weights(trainer.model)

    assert_same_weights(run("<eos>"), run("<pad>"))


def test_trap_06_dropout_is_off():
    torch.manual_seed(0)
    trainer = make("reward", RewardModel.from_policy(gpt2(dropout=0.5), 0), max_steps=2, eval_rows=PAIRS)
    trainer.model.train()
    rows = trainer.batch(0)
    with torch.no_grad():
        assert torch.equal(trainer.compute_loss(rows)[0], trainer.compute_loss(rows)[0])


def test_a_lora_reward_model_trains():
    from peft import LoraConfig, get_peft_model

    inner = get_peft_model(
        reward_model().model,
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["score"], task_type="SEQ_CLS"),
    )
    trainer = make("reward", RewardModel(inner))
    before = weights(trainer.model)
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}
    assert any("score" in name for name in moved) and any("lora_B" in name for name in moved)
    assert all("score" in name or "lora" in name for name in moved)


def test_it_learns_the_comparisons():
    history = make("reward", rows=PAIRS[:4], max_steps=40, per_device_train_batch_size=4, logging_steps=10).train()
    assert history["loss"][0] < 0.75
    assert history.last("accuracy") == 1
    assert history.last("loss") < 0.1
