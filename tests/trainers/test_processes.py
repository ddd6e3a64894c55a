"""Two processes that share the batches train as one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainers.small import assert_same_weights, make, weights

TESTS = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys
import torch
from trainers.test_processes import train

torch.set_num_threads(1)
found = train(2)
if found["sft"][0].is_main_process:
    torch.save({method: result[1:] for method, result in found.items()}, sys.argv[1])
"""


def train(processes):
    """Two steps of eight rows with each method: its accelerator, weights and history."""
    found = {}
    for method in ("sft", "reward", "dpo", "kto", "ppo", "grpo", "online-dpo"):
        special = {"beta": 0.1, "scale_rewards": "batch"} if method == "grpo" else {}
        settings = {"per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": 2, "logging_steps": 1}
        trainer = make(method, max_steps=2, **settings, **special)
        trainer.optimizer = torch.optim.SGD(trainer.parameter_groups())
        trainer.train()
        assert trainer.accelerator.num_processes == processes
        found[method] = (trainer.accelerator, weights(trainer.model), trainer.history.rows)
    return found


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    settings["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "two.pt")]
    running = [
        subprocess.Popen(command, env={**os.environ, **settings, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        one = train(1)
        assert [process.wait(timeout=240) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    two = torch.load(tmp_path / "two.pt")
    for method, (_, expected, history) in one.items():
        assert_same_weights(two[method][0], expected, rtol=0, atol=1e-6)
        for row_of_two, row in zip(two[method][1], history, strict=True):
            assert row_of_two == pytest.approx(row, rel=1e-4, abs=1e-5)
