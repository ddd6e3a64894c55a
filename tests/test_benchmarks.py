"""Every benchmark runs at toy size, and none reports a ratio of two sides that do different work."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')

from benchmarks import floor, generation, memory, online, report, run, steps, training
from benchmarks.parity import NotTheSame, check_close, check_parity
from benchmarks.race import OURS, race
from rlhf_course.cli import main
from rlhf_course.trainers import dpo, reward, sft

TOY = training.Case("dpo", "tiny", 8, 2)
METHODS = ("sft", "reward", "dpo", "kto", "grpo")


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    """The command sets torch's threads; with others, a training elsewhere ends with other last digits."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def cases_of(results):
    by_case = {}
    for result in results:
        by_case.setdefault(result.case, {})[result.side] = result
    return by_case


@pytest.mark.parametrize("method", METHODS)
def test_every_training_benchmark_runs(method):
    case = replace(TOY, method=method)
    check_parity(case)
    (sides,) = cases_of(steps.whole(case, 1)).values()
    assert list(sides) == [*training.THEIRS, OURS]
    assert sides[OURS].ratio == 1 and all(side.milliseconds > 0 for side in sides.values())


def test_a_step_of_grpo_is_taken_apart():
    found = cases_of(online.parts(replace(TOY, method="grpo"), 1))
    assert [name.rpartition(", ")[2] for name in found] == ["rollout", "update"]
    assert all(list(sides) == [*training.THEIRS, OURS] for sides in found.values())
    assert all(side.milliseconds > 0 for sides in found.values() for side in sides.values())


def test_ppo_against_grpo_runs():
    (sides,) = cases_of(online.ppo_against_grpo(1, answers=8, steps=2)).values()
    assert list(sides) == ["PPO, four passes", "PPO, one pass", OURS]


def test_a_step_has_a_floor():
    took, forward, backward = floor.shares(TOY)
    assert took > 0 and forward > 0 and backward > 0 and forward + backward < 1


def test_the_samplers_run():
    found = cases_of(generation.run(1, rows=4, tokens=5))
    assert len(found) == 3 and all(OURS in sides and "model.generate" in sides for sides in found.values())


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own():
    rows = memory.measure(memory.MemoryCase("tiny", 2, 32, lora=True))
    assert [row["side"] for row in rows] == [*training.THEIRS, OURS]
    assert all(row["mebibytes"] >= 0 for row in rows)


# ---------------------------------------------------------------------- parity


WRONG = {
    "dpo, beta doubled": ("dpo", dpo, "dpo_loss", lambda f: lambda *x, **k: f(*x[:4], 2 * x[4], **k)),
    "dpo, exchanged": ("dpo", dpo, "dpo_loss", lambda f: lambda a, b, c, d, *x, **k: f(b, a, d, c, *x, **k)),
    "sft, a twentieth more": ("sft", sft, "sft_loss", lambda f: lambda *x, **k: 1.05 * f(*x, **k)),
    "reward, exchanged": ("reward", reward, "reward_loss", lambda f: lambda a, b, *x, **k: f(b, a, *x, **k)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_refused(name, monkeypatch):
    method, module, loss, wrong = WRONG[name]
    monkeypatch.setattr(module, loss, wrong(getattr(module, loss)))
    with pytest.raises(NotTheSame, match=f"{method}, tiny"):
        check_parity(replace(TOY, method=method))


def test_what_is_not_a_number_is_refused():
    with pytest.raises(NotTheSame, match="step 2"):
        check_close("loss", torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 1.0]), True)


def test_other_tokens_are_refused(monkeypatch):
    monkeypatch.setattr(generation, "theirs", lambda model, ids, *_, **__: ids)
    with pytest.raises(NotTheSame, match="greedy"):
        generation.run(1, rows=2, tokens=3)


def test_the_command_prints_no_ratio_of_a_wrong_loss(monkeypatch):
    right = dpo.dpo_loss
    monkeypatch.setattr(dpo, "dpo_loss", lambda *x, **k: 2 * right(*x, **k))
    monkeypatch.setattr(training, "CASES", (TOY,))
    done = CliRunner().invoke(main, ["bench", "--only", "dpo", "--repeats", "1", "--threads", "1"])
    assert done.exit_code == 1 and "no ratio" in done.output and "| dpo" not in done.output


# ---------------------------------------------------------------------- what is reported


def test_ratios_are_medians_of_rounds():
    seconds = {"theirs": iter([9.0, 2.0, 6.0, 4.0]), OURS: iter([9.0, 1.0, 2.0, 4.0])}  # the first round warms up
    theirs, ours = race("work", {side: times.__next__ for side, times in seconds.items()}, 3)
    assert (theirs.ratio, theirs.milliseconds) == (2.0, 4000.0) and ours.ratio == 1.0


def test_saved_results_replace_those_of_the_same_work(tmp_path):
    path = tmp_path / "results.json"
    row = {"case": "a", "side": OURS, "milliseconds": 1.0, "ratio": 1.0}
    run.save([row, row | {"case": "b"}], 3, path)
    run.save([row | {"milliseconds": 2.0}], 5, path)
    kept = {saved["case"]: saved for saved in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    assert {case: (saved["milliseconds"], saved["rounds"]) for case, saved in kept.items()} == {
        "a": (2, 5),
        "b": (1, 3),
    }
    assert "| a | ours | 2.0 ms | 1.00 |" in report.table(list(kept.values()))


def test_the_readme_and_the_plot_show_the_results(tmp_path):
    for name in ("README.md", "results.json"):
        shutil.copy(report.FOLDER / name, tmp_path)
    report.write(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (report.FOLDER / "README.md").read_text("utf-8")
    axes = report.plot(report.load()).axes[0]
    found = {line.get_label(): line for line in axes.lines}[report.GENERATE]
    wanted = [row["ratio"] for row in report.load() if (row["case"], row["side"]) in report.GOALS]
    assert set(found.get_xdata()) <= set(wanted)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(
        dict.fromkeys(case for case, side in report.GOALS if case in {row["case"] for row in report.load()})
    )


def test_every_goal_is_of_something_that_is_measured_and_judged_by_it():
    rows = [
        {"case": "sft, tiny, 8 answers", "side": side, "ratio": ratio}
        for side, ratio in zip(training.THEIRS, (2.0, 2.9))
    ]
    reached, missed, *others = report.goals(rows).splitlines()[2:]
    assert reached == "| sft, tiny, 8 answers | TRL, at its best settings | 2x | 2.00x | reached |"
    assert missed.endswith("| 3x | 2.90x | missed |")
    assert len(others) == len(report.GOALS) - 2 and all(line.endswith("| not measured |") for line in others)
    trained = {str(case) for case in (*training.CASES, *memory.CASES)}
    assert {case for case, side in report.GOALS if side in training.THEIRS} == trained


def test_every_model_has_its_tasks_and_an_unknown_one_is_refused():
    assert set(run.MODELS) == {case.model for case in training.CASES}
    assert all(run.tasks(model) for model in run.MODELS)
    done = CliRunner().invoke(main, ["bench", "--only", "nothing"])
    assert done.exit_code == 2 and re.search("--only matches nothing of sft, tiny", done.output)


def test_the_command_needs_a_clone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf_course.cli.__file__", str(Path(tmp_path) / "package/cli.py"))
    done = CliRunner().invoke(main, ["bench"])
    assert done.exit_code == 1 and "git clone" in done.output
