"""Tables are measured again a seed at a time, and an interruption loses one seed's work at most."""

import json
import os
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner

from rlhf_course.cli import main
from rlhf_course.experiments import Table
from rlhf_course.experiments import reproduce as module
from rlhf_course.experiments.table import shipped_results


def test_every_shipped_table_can_be_made_again():
    assert set(shipped_results()) <= set(module.experiments())
    for name, experiment in module.experiments().items():
        assert experiment.__doc__, name


@pytest.fixture
def measured(monkeypatch):
    """One experiment in place of the course's, the seeds it was asked for, and one at which it is interrupted."""
    seen, trouble = [], []

    def claim(seeds=(0, 1, 2)):
        """What is claimed."""
        seen.extend(seeds)
        if set(seeds) & set(trouble):
            raise KeyboardInterrupt
        return Table("topic.claim", {"seeds": list(seeds), "steps": 5}, [{"seed": s, "gold": s / 4} for s in seeds])

    monkeypatch.setattr(module, "experiments", lambda: {"topic.claim": claim})
    return seen, trouble


def call(*words):
    return CliRunner().invoke(main, ["reproduce", *map(str, words)])


def test_a_table_is_measured_and_an_interruption_loses_nothing(measured, tmp_path):
    seen, trouble = measured
    trouble.append(2)
    result = call("topic", "--output", tmp_path)
    assert result.exit_code == 130 and "the same command goes on" in result.stderr
    assert seen == [0, 1, 2] and not (tmp_path / "topic.claim.json").exists()
    trouble.clear()
    result = call("topic.claim", "--output", tmp_path)
    assert result.exit_code == 0 and f"written: {tmp_path / 'topic.claim.json'}" in result.stdout
    assert seen == [0, 1, 2, 2]
    table = json.loads((tmp_path / "topic.claim.json").read_text())
    assert table["settings"] == {"seeds": [0, 1, 2], "steps": 5}
    assert table["rows"] == [{"seed": s, "gold": s / 4} for s in (0, 1, 2)]
    seen.clear()
    assert call("all", "--seeds", 1, "--output", tmp_path).exit_code == 0
    assert seen == []
    assert len(json.loads((tmp_path / "topic.claim.json").read_text())["rows"]) == 1


def test_a_table_that_cannot_be_measured_does_not_stop_the_others(measured, monkeypatch, tmp_path):
    def offline(seeds=(0, 1, 2)):
        """Needs what is not there."""
        raise ValueError("the Hub cannot be reached")

    both = {"elsewhere.data": offline, **module.experiments()}
    monkeypatch.setattr(module, "experiments", lambda: both)
    result = call("all", "--seeds", 2, "--output", tmp_path)
    assert result.exit_code == 1
    assert "elsewhere.data, seed 1: ValueError: the Hub cannot be reached" in result.stdout
    assert "not measured: elsewhere.data; the others are in" in result.stderr
    assert measured[0] == [0, 1] and (tmp_path / "topic.claim.json").exists()


def test_all_is_the_small_world_and_the_capstone_has_to_be_named(measured, monkeypatch, tmp_path):
    seen, _ = measured
    (claim,) = module.experiments().values()
    monkeypatch.setattr(module, "experiments", lambda: {"capstone.cpu": claim})
    assert call("all", "--seeds", 1, "--output", tmp_path).exit_code == 0 and seen == []
    assert call("capstone", "--seeds", 1, "--output", tmp_path).exit_code == 0 and seen == [0]


def test_the_list_and_what_is_not_on_it(measured, tmp_path):
    assert "topic.claim" in call("--list").stdout and "What is claimed." in call("--list").stdout
    for words, message in (((), "name a table"), (("topic.clam",), "there is no table 'topic.clam'")):
        result = call(*words, "--output", tmp_path)
        assert result.exit_code == 2 and message in result.stderr
    with pytest.raises(ValueError, match="experiment must be"):
        module.reproduce(["topic.clam"], [0], tmp_path)
    with pytest.raises(ValueError, match="at least one seed"):
        module.reproduce(["topic.claim"], [], tmp_path)
    with pytest.raises(ValueError, match="jobs must be"):
        module.reproduce(["topic.claim"], [0], tmp_path, jobs=0)


def measure_for_show(parts):
    """In place of a measurement, in whichever process: the seed, and who measured it."""
    for part in parts:
        seed = int(part.parent.name.removeprefix("seed-"))
        Table("kl.best_of_n", {"seeds": [seed]}, [{"seed": seed, "process": os.getpid()}]).save(part.parent)
    return [f"{part.parent.name} done" for part in parts], []


def test_several_processes_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_measure", measure_for_show)
    said = []
    (written,) = module.reproduce(["kl.best_of_n"], [0, 1, 2], tmp_path, said.append, jobs=2)
    rows = json.loads(written.read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert os.getpid() not in {row["process"] for row in rows}
    assert sorted(said) == ["seed-0 done", "seed-1 done", "seed-2 done"]


KILLED = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from rlhf_course.experiments.reproduce import _begin

pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(1,))
pool.submit(time.sleep, 1).result()
print(*pool._processes, flush=True)
pool.submit(time.sleep, 300).result()
"""


def test_a_killed_command_takes_its_workers_along():
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as command:
        worker = psutil.Process(int(command.stdout.readline()))
        command.kill()
    try:
        worker.wait(timeout=30)
    finally:
        if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            worker.kill()
            pytest.fail("the worker outlives the command")
