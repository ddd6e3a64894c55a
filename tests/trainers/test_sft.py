"""Supervised fine-tuning and pre-training."""

import copy

import pytest
import torch

from rlhf_course.data.world import world_tokenizer
from rlhf_course.trainers import SFTConfig, SFTTrainer
from rlhf_course.trainers.sft import pack
from trainers import by_hand
from trainers.small import SFT_ROWS, TOKENIZER, assert_same_weights, gpt2, llama, make, weights

SETTINGS = {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 3}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_steps_equal_a_loop_by_hand(kind):
    model = {"llama": llama, "gpt2": lambda: gpt2(dropout=0.0)}[kind]
    trainer, hand = make("sft", model(), **SETTINGS), model()

    def loss(step):
        rows = trainer.batch(step)
        logps = [by_hand.completion_logps(hand, row["prompt_ids"], row["completion_ids"]) for row in rows]
        return -torch.cat(logps).mean()

    first = loss(0).item()
    by_hand.train(loss, 3, [1e-3], hand)
    history = trainer.train()
    assert_same_weights(weights(trainer.model), weights(hand), rtol=0, atol=2e-5)
    assert trainer.step([trainer.batch(0)[0]])["loss"].ndim == 0
    assert make("sft", model(), logging_steps=1, **SETTINGS).train()["loss"][0] == pytest.approx(first, rel=1e-5)
    assert history.last("loss") > 0


def test_pre_training_trains_every_token():
    texts = [{"text": "hope that helps . <eos>"}, {"text": "ask me for more . <eos>"}] * 4
    model, hand = llama(), llama()
    trainer = make("sft", model, rows=texts, packing=True, max_length=7, **SETTINGS)
    stream = [token for row in texts for token in TOKENIZER(row["text"]).input_ids]
    assert [row["completion_ids"] for row in trainer.train_rows] == [stream[i : i + 7] for i in range(0, 42, 7)]
    assert trainer.num_items(trainer.batch(0)) == 3 * 6

    def loss(step):
        rows = trainer.batch(step)
        return -torch.cat([by_hand.completion_logps(hand, [], row["completion_ids"]) for row in rows]).mean()

    by_hand.train(loss, 3, [1e-3], hand)
    trainer.train()
    assert_same_weights(weights(model), weights(hand), rtol=0, atol=2e-5)


def test_packing_leaves_out_the_rest():
    rows = pack([{"text": "hope that helps ."}] * 3, TOKENIZER, 5)
    assert [len(row["completion_ids"]) for row in rows] == [5, 5]


def test_trap_04_the_end_is_trained_on_where_it_also_pads():
    def run(pad):
        tokenizer = copy.deepcopy(world_tokenizer())
        tokenizer.pad_token = pad
        args = SFTConfig(max_steps=2, use_cpu=True, disable_tqdm=True, warmup_steps=0)
        masks = []

        def seen(logps, mask):
            masks.append(int(mask.sum()))
            return -(logps * mask).sum() / mask.sum()

        rows = SFT_ROWS[:3]
        trainer = SFTTrainer(llama(), args=args, train_dataset=rows, processing_class=tokenizer, loss_fn=seen)
        trainer.train()
        return masks, weights(trainer.model)

    masks, trained = run("<eos>")
    same_masks, same = run("<pad>")
    assert masks == same_masks == [sum(len(row["completion"].split()) + 1 for row in SFT_ROWS[:3])] * 2
    assert_same_weights(trained, same)


def test_trap_13_the_prompt_is_masked_and_nothing_is_doubled():
    trainer = make("sft")
    row = trainer.train_rows[0]
    assert TOKENIZER.decode(row["prompt_ids"]) == SFT_ROWS[0]["prompt"]
    assert TOKENIZER.decode(row["completion_ids"]) == SFT_ROWS[0]["completion"] + " <eos>"
    assert row["prompt_ids"].count(TOKENIZER.bos_token_id) == 1
    written = make("sft", rows=[{**row, "completion": row["completion"] + " <eos>"} for row in SFT_ROWS])
    assert [r["completion_ids"] for r in written.train_rows] == [r["completion_ids"] for r in trainer.train_rows]


def test_dropout_trains_with_a_chance_that_the_seed_decides():
    same = [make("sft", gpt2(dropout=0.3), seed=seed) for seed in (0, 0, 1)]
    for i, trainer in enumerate(same):
        torch.manual_seed(i)
        trainer.model.eval()
        trainer.train()
    assert_same_weights(weights(same[0].model), weights(same[1].model))
    without = make("sft", gpt2(dropout=0.0))
    without.train()
    for other in (same[2], without):
        assert not torch.equal(other.model.lm_head.weight, same[0].model.lm_head.weight)


def test_it_learns_its_demonstrations():
    rows = SFT_ROWS[::2]
    history = make("sft", rows=rows, max_steps=60, learning_rate=3e-2, per_device_train_batch_size=4).train()
    assert history.last("loss") < 0.5 < 2 < history["loss"][0]
