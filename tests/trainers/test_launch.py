"""`accelerate launch` with the configs in docs/accelerate: two processes from the command line, one result."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf_course import runs
from trainers.small import assert_same_weights, weights

CONFIGS = Path(__file__).resolve().parents[2] / "docs" / "accelerate"


def rows(folder):
    return list(csv.DictReader((folder / "history.csv").open()))


@pytest.mark.slow
def test_two_launched_processes_write_once_what_one_would(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu.yaml")]
    command += ["--main_process_port", str(port), "-m", "rlhf_course", "train", "sft", "--device", "cpu"]
    command += ["--max-steps", "2", "--batch-size", "4", "--eval-size", "2", "--save-steps", "1"]
    command += ["--output", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    launched = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        settings = {"max_steps": 2, "per_device_train_batch_size": 8, "disable_tqdm": True}
        runs.train(runs.Run("sft", output=str(tmp_path / "one"), eval_size=2, settings=settings), say=lambda text: None)
        said, problem = launched.communicate(timeout=240)
    finally:
        launched.kill()
    assert launched.returncode == 0, problem
    for once in ("sft: from tiny-base", "gold reward:", "written to", "done in"):
        assert said.count(once) == 1, said
    one, two = tmp_path / "one", tmp_path / "two"
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert [float(row["loss"]) for row in rows(two)] == pytest.approx([float(row["loss"]) for row in rows(one)])
    models = [weights(runs.load_policy(str(folder), "cpu")[0]) for folder in (two, one)]
    assert_same_weights(*models, rtol=0, atol=1e-6)
    assert json.loads((two / "run.json").read_text())["steps"] == 2


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_the_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"] == 2
    assert config.distributed_type.value in ("MULTI_GPU", "FSDP")
    assert not config.use_cpu, "with use_cpu, accelerate starts one process, however many are asked for"
