"""Two processes that share the batches train as one does, with the model on each (DDP) or shared out (FSDP)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from rlhf_course.trainers import base
from rlhf_course.trainers.sharding import whole
from trainers.small import assert_same_weights, llama, lora, make, weights

TESTS = Path(__file__).resolve().parent.parent
METHODS = ("sft", "reward", "dpo", "kto", "ppo", "grpo", "online-dpo")
#: Methods that are tried with an adapter too, as "dpo, LoRA".
WITH_LORA = ("sft", "dpo", "ppo")
ALL = (*METHODS, *(f"{method}, LoRA" for method in WITH_LORA))
SCRIPT = """
import sys
import torch
from rlhf_course.trainers.sharding import leave
from trainers.test_processes import ALL, METHODS, interrupted, share_out, train

torch.set_num_threads(1)
path, kind, precision = sys.argv[1:]
if kind == "fsdp":
    share_out(precision)
found = train(2, ALL if precision == "no" else METHODS, kind)
if kind == "fsdp" and precision == "no":
    found["resumed"] = interrupted("reward", path)
    found["resumed, LoRA"] = interrupted("dpo, LoRA", path)
if found["sft"][0].is_main_process:
    torch.save({method: result[1:] for method, result in found.items()}, path)
leave()
"""


def share_out(precision):
    """Let trainers use FSDP on the CPU, which accelerate keeps for GPUs."""

    def make_accelerator(args):
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            cpu_ram_efficient_loading=False,
        )
        if precision != "no":
            plugin.set_mixed_precision(precision)
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
        return accelerator

    base.make_accelerator = make_accelerator


def trainer_of(method, processes, **settings):
    if method.endswith(", LoRA"):
        method = method.removesuffix(", LoRA")
        settings["model"] = lora()
    special = {"beta": 0.1, "scale_rewards": "batch"} if method == "grpo" else {}
    shared = {"per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": 2, "logging_steps": 1}
    return make(method, max_steps=2, **shared, **special, **settings)


def train(processes, methods=ALL, kind="ddp", **settings):
    """Two steps of eight rows with each method: its accelerator, weights and history."""
    found = {}
    for method in methods:
        trainer = trainer_of(method, processes, **settings)
        if kind == "fsdp":
            assert all(type(p.data).__name__ == "DTensor" for p in trainer.model.parameters())
        trainer.optimizer = torch.optim.SGD(trainer.parameter_groups())
        trainer.train()
        assert trainer.accelerator.num_processes == processes
        assert trainer.accelerator.is_fsdp2 == (kind == "fsdp")
        found[method] = (trainer.accelerator, whole(weights(trainer.model)), trainer.history.rows)
    return found


def interrupted(method, path):
    """A run that stops after its first step, is saved, and goes on in a new trainer, with AdamW."""
    folder = f"{path}-{method}"
    first = trainer_of(method, 2)
    first._save_in_output_dir = lambda: first.save(folder) if first.global_step == 1 else None
    first.args.save_steps = 1
    first.train()
    second = trainer_of(method, 2)
    second.resume(folder)
    assert second.global_step == 1
    second.train()
    assert_same_weights(whole(weights(second.model)), whole(weights(first.model)))
    return (None, whole(weights(second.model)), second.history.rows)


def in_two_processes(folder, kind, precision="no"):
    """Weights and history of each method, as two processes trained it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    settings["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", SCRIPT, str(folder / "two.pt"), kind, precision]
    running = [
        subprocess.Popen(command, env={**os.environ, **settings, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    return torch.load(folder / "two.pt")


@pytest.fixture(scope="module")
def one_process():
    return train(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind, one_process, tmp_path):
    two = in_two_processes(tmp_path, kind)
    for method, (_, expected, history) in one_process.items():
        assert_same_weights(two[method][0], expected, rtol=0, atol=1e-6)
        for row_of_two, row in zip(two[method][1], history, strict=True):
            assert row_of_two == pytest.approx(row, rel=1e-4, abs=1e-5)
    if kind == "fsdp":
        assert [row["step"] for row in two["resumed"][1]] == [1, 2]
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "two.pt-reward")
        PeftModel.from_pretrained(llama(), tmp_path / "two.pt-dpo, LoRA")


@pytest.mark.slow
def test_half_precision_shared_out_is_half_precision_on_one(tmp_path):
    """A loss of bfloat16 log-probabilities, which FSDP would hand out if nobody told it, is off by 2 in a thousand."""
    two = in_two_processes(tmp_path, "fsdp", "bf16")
    for method, (accelerator, expected, history) in train(1, METHODS, bf16=True).items():
        assert accelerator.mixed_precision == "bf16"
        assert_same_weights(two[method][0], expected, rtol=0, atol=2e-3)
        if method in ("sft", "reward", "dpo", "kto"):  # the others' answers are drawn from what is rounded
            losses = [[row["loss"] for row in rows] for rows in (two[method][1], history)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(tmp_path):
    trainer_of("sft", 1).save(tmp_path / "run")
    state = tmp_path / "run" / "trainer_state.json"
    state.write_text(state.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(ValueError, match="was trained by 2 processes, here are 1"):
        trainer_of("sft", 1).resume(tmp_path / "run")


def test_other_engines_are_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match=r"DDP and with FSDP's version 2 .*, got DEEPSPEED"):
        make("sft")
