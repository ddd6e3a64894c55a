"""A run that is killed at any step and resumed is the uninterrupted run, bit for bit."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import rlhf_course.trainers.checkpoint as checkpoint_module
from rlhf_course.losses import dpo_loss, ppo_clip_loss
from rlhf_course.models import RewardModel
from rlhf_course.trainers.checkpoint import newest_checkpoint
from trainers.small import (
    METHODS,
    PAIRS,
    PROMPT_ROWS,
    SFT_ROWS,
    THUMBS,
    assert_same_weights,
    gpt2,
    llama,
    lora,
    make,
    reward_model,
    weights,
)

STEPS = 5


def noise(trainer):
    """A metric that draws random numbers of its own."""
    return {"noise": torch.rand(()).item()}


CASES = {
    "sft": lambda **k: make("sft", eval_rows=SFT_ROWS[:3], **k),
    "sft dropout": lambda **k: make("sft", gpt2(dropout=0.3), compute_metrics=noise, **k),
    "sft packing": lambda **k: make(
        "sft", rows=[{"text": row["completion"]} for row in SFT_ROWS * 4], packing=True, max_length=8, **k
    ),
    "reward": lambda **k: make("reward", eval_rows=PAIRS[:3], **k),
    "dpo": lambda **k: make("dpo", eval_rows=PAIRS[:3], **k),
    "dpo reference": lambda **k: make("dpo", ref_model=llama(1), loss_type="ipo", gradient_accumulation_steps=2, **k),
    "dpo loss_fn": lambda **k: make("dpo", loss_fn=lambda *a: dpo_loss(*a).square(), **k),
    "dpo lora": lambda **k: make("dpo", lora(dropout=0.1), **k),
    "dpo bf16": lambda **k: make("dpo", bf16=True, **k),
    "kto": lambda **k: make("kto", eval_rows=THUMBS[:3], **k),
    "kto lora": lambda **k: make("kto", lora(dropout=0.1), gradient_accumulation_steps=2, **k),
    "online-dpo": lambda **k: make("online-dpo", eval_rows=PROMPT_ROWS[:3], compute_metrics=noise, **k),
    "online-dpo random": lambda **k: make("online-dpo", reward_funcs=lambda p, c: torch.rand(len(c)), **k),
    "ppo": lambda **k: make("ppo", eval_rows=PROMPT_ROWS[:3], compute_metrics=noise, **k),
    "ppo adaptive": lambda **k: make("ppo", target_kl=0.1, kl_horizon=10, num_mini_batches=2, **k),
    "ppo reward model": lambda **k: make("ppo", reward_funcs=reward_model(1), **k),
    "ppo loss_fn": lambda **k: make("ppo", gpt2(), loss_fn=lambda *a: 2 * ppo_clip_loss(*a), **k),
    "ppo random reward": lambda **k: make("ppo", reward_funcs=lambda p, c: torch.rand(len(c)), **k),
    "grpo": lambda **k: make("grpo", beta=0.1, eval_rows=PROMPT_ROWS[:3], compute_metrics=noise, **k),
    "grpo reward model": lambda **k: make("grpo", reward_funcs=reward_model(1), gradient_accumulation_steps=2, **k),
    "grpo lora": lambda **k: make("grpo", lora(dropout=0.1), beta=0.1, loss_type="dr_grpo", **k),
}


def everything(trainer):
    return {
        "weights": trainer.trained_parameters(),
        "optimizer": trainer.optimizer.state_dict(),
        "history": trainer.history.rows,
        "step": trainer.global_step,
        "extra": trainer.extra_state(),
    }


def assert_same(found, expected, place="run"):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_same(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for i, (a, b) in enumerate(zip(found, expected)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert found == expected, (place, found, expected)


@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_step_and_resumed_is_the_uninterrupted_run(name, tmp_path):
    settings = {"max_steps": STEPS, "logging_steps": 3, "eval_steps": 2}

    def run(seed, step=0, **saving):
        trainer = CASES[name](**settings, **saving)
        torch.manual_seed(seed)  # what the process draws besides must not matter
        if step:
            trainer.resume(tmp_path / f"checkpoint-{step}")
            assert trainer.global_step == step
        trainer.train()
        return everything(trainer)

    whole = run(seed=1)
    assert len(whole["history"]) > 1
    assert_same(run(seed=2, output_dir=str(tmp_path), save_steps=1), whole)
    for step in (1, 4):
        assert_same(run(seed=3, step=step), whole)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "nothing half-written is left"


def test_chance_of_training_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trainer = make("sft", gpt2())
    torch.manual_seed(0)
    trainer.train()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_in_the_middle_of_a_step(method, tmp_path):
    """The step is finished and saved; `train` goes on from there, in this process or in another."""
    whole = make(method, max_steps=4, logging_steps=3)
    whole.train()
    trainer = make(method, max_steps=4, logging_steps=3, output_dir=str(tmp_path))
    calls, backward = [], trainer.backward

    def interrupted(*args):
        backward(*args)
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    trainer.backward = interrupted
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="train"):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert 0 < trainer.global_step < 4
    resumed = make(method, max_steps=4, logging_steps=3).resume(tmp_path)
    assert resumed.global_step == trainer.global_step
    for continued in (trainer, resumed):
        continued.train()
        assert_same(everything(continued), everything(whole))


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(tmp_path):
    def impatient(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = make("sft", loss_fn=impatient, output_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.global_step == 0
    assert not list(tmp_path.iterdir())


def test_training_works_outside_the_main_thread():
    trainer = make("sft")
    with ThreadPoolExecutor() as pool:
        assert len(pool.submit(trainer.train).result()) == 1


@pytest.mark.parametrize("name", ["sft dropout", "reward", "dpo"])
def test_a_step_broken_off_by_an_error_leaves_no_trace(name):
    whole = CASES[name](max_steps=4)
    whole.train()
    trainer = CASES[name](max_steps=4)
    backward, calls = trainer.backward, []

    def broken(*args):
        backward(*args)
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("broken")

    trainer.backward = broken
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    trainer.train()
    assert_same(everything(trainer), everything(whole))


def test_a_kill_while_writing_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    trainer = make("sft", output_dir=str(tmp_path), save_steps=1)
    save = torch.save

    def killed(tensors, path):
        save({}, path)
        raise OSError("disk full")

    trainer.save(tmp_path / "checkpoint-1")
    monkeypatch.setattr(checkpoint_module.torch, "save", killed)
    for folder in ("checkpoint-2", "checkpoint-1"):
        with pytest.raises(OSError, match="disk full"):
            trainer.save(tmp_path / folder)
        assert newest_checkpoint(tmp_path).name == "checkpoint-1"
        make("sft").resume(tmp_path)
    monkeypatch.undo()
    for folder in ("checkpoint-1", "checkpoint-2"):
        trainer.save(tmp_path / folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    trainer = make("sft", max_steps=10, save_steps=1, output_dir=str(tmp_path), save_total_limit=2, rows=SFT_ROWS[:2])
    trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    (tmp_path / "checkpoint-11").mkdir()  # never finished
    (tmp_path / "checkpoint-12-mine").mkdir()
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert newest_checkpoint(tmp_path / "checkpoint-9").name == "checkpoint-9"


def test_the_limit_never_removes_what_was_just_written(tmp_path):
    make("sft", max_steps=4, output_dir=str(tmp_path)).train()
    make("sft", max_steps=2, output_dir=str(tmp_path), save_total_limit=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_loads_as_a_plain_model(tmp_path):
    for method, kind in (("sft", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        trainer = make(method)
        trainer.save(tmp_path / method)
        inner = trainer.model if method == "sft" else trainer.model.model
        assert_same_weights(weights(kind.from_pretrained(tmp_path / method)), weights(inner))
        assert len(AutoTokenizer.from_pretrained(tmp_path / method)) == len(trainer.tokenizer)


def test_what_cannot_be_resumed_is_refused_and_changes_nothing(tmp_path):
    trained = make("sft")
    trained.train()
    trained.save(tmp_path / "sft")

    def refuse(trainer, message, folder=tmp_path / "sft", error=ValueError):
        before, step = weights(trainer.model), trainer.global_step
        with pytest.raises(error, match=message):
            trainer.resume(folder)
        assert_same_weights(weights(trainer.model), before)
        assert trainer.global_step == step

    refuse(make("sft"), "no checkpoint in .*nowhere", tmp_path / "nowhere", FileNotFoundError)
    refuse(make("dpo"), "written by a SFTTrainer, this is a DPOTrainer")
    refuse(make("sft", learning_rate=0.5), r"other settings \(learning_rate 0.01 → 0.5\)")
    refuse(make("sft", rows=SFT_ROWS[:5]), "other data")
    refuse(make("sft", eval_rows=SFT_ROWS[:5]), "other data")
    refuse(make("sft", llama(num_hidden_layers=2)), "a model of another shape")
    refuse(make("sft", llama(intermediate_size=8)), "a model of another shape")
    make("sft", logging_steps=2, disable_tqdm=False).resume(tmp_path / "sft")

    tensors = tmp_path / "sft" / "trainer_tensors.pt"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    refuse(make("sft"), "sft is damaged")
    tensors.unlink()
    refuse(make("sft"), "sft is damaged")
    trained.save(tmp_path / "sft")
    (tmp_path / "sft" / "trainer_state.json").write_text('{"trainer": ')
    refuse(make("sft"), "sft is damaged")


def test_saving_never_replaces_a_folder_of_other_things(tmp_path):
    (tmp_path / "essay.txt").write_text("my work")
    with pytest.raises(ValueError, match="no checkpoint"):
        make("sft").save(tmp_path)
    assert (tmp_path / "essay.txt").read_text() == "my work"


def test_a_ppo_checkpoint_of_another_critic_is_refused(tmp_path):
    make("ppo", reward_funcs=reward_model()).save(tmp_path / "ppo")
    other = make("ppo", reward_funcs=RewardModel.from_policy(llama(num_hidden_layers=2), seed=0))
    with pytest.raises(ValueError, match="another shape"):
        other.resume(tmp_path / "ppo")
