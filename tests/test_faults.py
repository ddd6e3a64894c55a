"""What happens to a course on other people's machines: kills, full and read-only disks, damage, no network, odd homes.

Kin elsewhere: Ctrl-C in every method, kills at every step and damaged checkpoints in `trainers/test_resume.py`; a
damaged progress file and two kernels in `learn/test_progress.py`; damaged models and caches in `test_load.py` and
`experiments/test_models.py`; the command line's resumes in `test_cli.py`.
"""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nbformat
import pytest
import torch
from click.testing import CliRunner
from trainers.small import assert_same_weights, make, weights

from rlhf_course import _hub
from rlhf_course.cli import main
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import evaluate_policy
from rlhf_course.experiments.table import Table, read_table
from rlhf_course.learn import check, exercise, progress, usable
from rlhf_course.learn.quiz_widget import bank
from rlhf_course.models import ModelNotFound, load_policy, load_reward_model, smollm2
from rlhf_course.trainers import checkpoint

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with letters that ASCII lacks, and a space."""
    folder = tmp_path / "Zoë 家" / "home"
    monkeypatch.setenv("RLHF_COURSE_HOME", str(folder))
    monkeypatch.setattr(progress, "_memory", {})
    monkeypatch.setattr(progress, "_said", set())
    return folder


def python(code, *arguments, **settings):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, **settings)


# ---------------------------------------------------------------------- killed

KILLED = """
import os, signal, sys
import torch
from trainers.small import make
folder, moment = sys.argv[1:]
trainer = make("sft", max_steps=5, output_dir=folder, save_steps=1)
calls, step, save = [], trainer.step, torch.save

def killed_in_a_step(batch):
    if trainer.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(batch)

def killed_while_writing(tensors, path):
    calls.append(1)
    if len(calls) == 4:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path)

if moment == "step":
    trainer.step = killed_in_a_step
else:
    torch.save = killed_while_writing
trainer.train()
"""


@pytest.mark.parametrize("moment", ["step", "writing"])
def test_a_kernel_that_is_killed_goes_on_with_the_same_weights(moment, tmp_path):
    done = python(KILLED, tmp_path, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (1, 2, 3)]
    resumed = make("sft", max_steps=5, output_dir=str(tmp_path), save_steps=1).resume(tmp_path)
    assert resumed.global_step == 3
    resumed.train()
    whole = make("sft", max_steps=5)
    whole.train()
    assert_same_weights(weights(resumed.model), weights(whole.model))
    assert not list(tmp_path.glob(".checkpoint-4*")), "what was half written is gone"


# ---------------------------------------------------------------------- the disk

CAN_MOUNT = "unshare" if shutil.which("unshare") else None
if CAN_MOUNT:
    CAN_MOUNT = subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode == 0

ON_A_SMALL_DISK = """
import os, shutil, sys
from pathlib import Path
import torch
from trainers.small import make
disk = Path(sys.argv[1])
whole = make("sft", max_steps=4)
whole.train()
for room in sys.argv[2:]:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(400_000 - 1000 * int(room)))
    settings = {"max_steps": 4, "save_steps": 2, "output_dir": str(disk / "run")}
    trainer = make("sft", **settings)
    try:
        trainer.train()
    except OSError as error:
        print(error)
    print(trainer.global_step, os.listdir(disk / "run"))
    ballast.unlink()
    trainer.train()
    same = zip(trainer.model.parameters(), whole.model.parameters())
    print(all(torch.equal(a, b) for a, b in same) and trainer.history.rows == whole.history.rows)
    print(os.listdir(disk / "run"), make("sft", **settings).resume(disk / "run").global_step)
    shutil.rmtree(disk / "run")
"""

READ_ONLY = """
import os, sys
from trainers.small import make
from rlhf_course.learn import progress
disk = sys.argv[1]
os.environ["RLHF_COURSE_HOME"] = disk + "/home"
trainer = make("sft", max_steps=2, output_dir=disk + "/run")
try:
    trainer.train()
except OSError as error:
    print(error)
print(trainer.global_step, progress.record_quiz("sft.never_stops", True))
print(progress.has_passed("quizzes", "sft.never_stops"))
"""


def on_a_disk(options, code, disk, *arguments):
    """The lines that `code` prints, given a disk of its own, which is gone afterwards."""
    disk.mkdir()
    script = f'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", disk, sys.executable, "-c", code, disk, *arguments]
    done = subprocess.run(list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True)
    if "mount" in done.stderr and not done.stdout:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not CAN_MOUNT, reason="needs unshare, to mount a small disk")
def test_a_full_disk_costs_a_checkpoint_and_nothing_else(tmp_path):
    disk = tmp_path / "disk"
    rooms = (10, 40, 70)  # thousand bytes left: it is full at another file each time
    assert on_a_disk("size=400k", ON_A_SMALL_DISK, disk, *rooms) == [
        f"{disk}/run/checkpoint-2 could not be written: no space is left on the disk",
        "2 []",
        "True",
        "['checkpoint-4'] 4",
    ] * len(rooms)


@pytest.mark.skipif(not CAN_MOUNT, reason="needs unshare, to mount a read-only disk")
def test_a_read_only_disk(tmp_path):
    disk = tmp_path / "disk"
    said, notice, kept = on_a_disk("ro", READ_ONLY, disk)
    assert said == f"{disk}/run/checkpoint-2 could not be written: Read-only file system"
    assert notice.startswith("2 Progress cannot be saved") and "RLHF_COURSE_HOME" in notice
    assert kept == "True"


def test_whatever_stops_a_checkpoint_is_told_in_a_sentence_and_the_older_one_stays(tmp_path, monkeypatch):
    trainer = make("sft", max_steps=2)
    trainer.save(tmp_path / "run")

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 26560 vs 26452")

    with monkeypatch.context() as here:
        here.setattr(checkpoint.torch, "save", full)
        here.setattr(checkpoint.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 4096))
        with pytest.raises(OSError, match=r"run could not be written: no space is left on the disk$"):
            trainer.save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir() if "run" in path.name] == ["run"]
    assert make("sft", max_steps=2).resume(tmp_path / "run").global_step == 0


# ---------------------------------------------------------------------- no network


@pytest.fixture
def no_network(monkeypatch):
    """Whatever reaches for another machine fails, and is noted."""
    tried = []

    def unreachable(*address, **_):
        tried.append(address)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    return tried


def test_the_course_needs_no_network(no_network):
    policy, tokenizer = load_policy("tiny-sft", "cpu")
    rewarder, _ = load_reward_model("tiny-reward", "cpu")
    assert evaluate_policy(policy, tokenizer, n=4, reward_model=rewarder)["proxy"]
    for words in (["world", "--n", "1", "--model", "tiny-ppo"], ["progress"], ["doctor"]):
        assert CliRunner().invoke(main, words).exit_code == 0, words
    assert bank()
    assert no_network == []


def test_without_a_network_the_hub_is_missed_in_one_sentence(no_network):
    with pytest.raises(ModelNotFound, match=r"the Hub cannot be reached, and its cache here does not have it$"):
        load_policy("someone/some-model", "cpu")
    assert len(no_network) == 1, "one short look, and no second try"


def test_a_proxy_that_does_not_answer_is_no_hub(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(_hub.constants, "ENDPOINT", "https://huggingface.co")
    began = time.monotonic()
    with _hub.hub_or_cache() as online:
        assert not online and _hub.constants.HF_HUB_OFFLINE
    assert time.monotonic() - began < 3 * _hub._TIMEOUT_SECONDS


# ---------------------------------------------------------------------- clocks, kernels, homes


def test_a_clock_set_back_changes_nothing(home, tmp_path, monkeypatch):
    progress.record_exercise("sft.sft_loss", passed=True)
    trainer = make("sft", max_steps=4, output_dir=str(tmp_path / "run"), save_steps=1)
    trainer.train()
    future = time.time() + 10 * 365 * 86_400
    for file in (home / "progress.json", home / "progress.lock", tmp_path / "run/checkpoint-1"):
        os.utime(file, (future, future))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert progress.record_exercise("sft.sft_loss", passed=False) == ""
    assert progress.load()["exercises"]["sft.sft_loss"] == {"passed": True, "attempts": 2}
    assert checkpoint.newest_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_two_kernels_unpack_the_same_model(tmp_path, monkeypatch):
    """The slower one finds the folder there when it wants to rename its own, and takes the other's."""
    monkeypatch.setattr(smollm2.platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "cache"))
    others = make("sft").model
    others.config.weights_note = smollm2.NOTE

    def unpack(_gguf):
        if not (tmp_path / "cache").exists():
            smollm2.load_offline(Path("weights.gguf"))  # the other kernel, meanwhile
        return others, world_tokenizer()

    monkeypatch.setattr(smollm2, "_unpack", unpack)
    (tmp_path / "cache").mkdir()
    model, _ = smollm2.load_offline(Path("weights.gguf"))
    assert_same_weights(weights(model), weights(others))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["weights"]


def test_a_home_with_letters_that_ascii_lacks(home):
    assert progress.record_exercise("sft.sft_loss", passed=True) == ""
    assert json.loads((home / "progress.json").read_text(encoding="utf-8"))["exercises"]
    trainer = make("sft", max_steps=2, output_dir=str(home / "läufe"), save_steps=1)
    trainer.train()
    resumed = make("sft", max_steps=2).resume(home / "läufe")
    assert_same_weights(weights(resumed.model), weights(trainer.model))
    model, _ = load_policy(home / "läufe" / "checkpoint-2", "cpu")
    assert_same_weights(weights(model), weights(trainer.model))
    trainer.history.to_csv(home / "verläufe.csv")
    Table("sft.größe", {"seeds": [0]}, [{"größe": 1}]).save(home)
    assert read_table(home, "sft.größe").rows == [{"größe": 1}]


# ---------------------------------------------------------------------- notebooks


def fill_in(source, how):
    """An exercise's cell with something in the place of its stub."""
    found = re.search(r'@exercise\("(.+?)"\)\ndef \w+\((.*?)\)', source, re.DOTALL)
    names = ", ".join(re.split(r"[=:]", part)[0].strip() for part in found[2].split(","))
    catalogue = f"from rlhf_course.learn.catalogue import find_exercise\n    it = find_exercise({found[1]!r})"
    bodies = {
        "right": f"{catalogue}\n    return it.solution({names})",
        "wrong": f"{catalogue}\n    return it.mistakes[0].function({names})",
        "unwritten": "raise exercise.NotAttempted",
    }
    return source.replace("raise exercise.NotAttempted", bodies[how])


@pytest.mark.slow
def test_run_all_on_a_notebook_whose_exercises_are_half_done(tmp_path, home):
    """One right, one wrong, the rest not written: every cell runs, and every check says what is so."""
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks/02_sft.ipynb", as_version=4)
    written, how = {}, iter(["right", "wrong"])
    for cell in notebook.cells:
        if "raise exercise.NotAttempted" in cell.source:
            name = re.search(r"^def (\w+)", cell.source, re.MULTILINE)[1]
            written[name] = next(how, "unwritten")
            cell.source = fill_in(cell.source, written[name])
    environment = {**os.environ, "RLHF_COURSE_FAST": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=environment)
    marks = {"right": "✓", "wrong": "✗", "unwritten": "○"}
    for cell in notebook.cells:
        if name := re.search(r"^check\((\w+)\)", cell.source, re.MULTILINE):
            assert cell.outputs[0].text.startswith(marks[written[name[1]]]), cell.outputs[0].text
    assert set(written.values()) == set(marks)
    done = json.loads((home / "progress.json").read_text(encoding="utf-8"))["exercises"]
    assert sum(entry["passed"] for entry in done.values()) == 1


def test_cells_in_any_order(capsys):
    """`usable` before `check`; then a cell is changed for the worse and run again, while its old check still shows."""

    def cell(sign):
        @exercise("reward_model.reward_loss")
        def reward_loss(chosen, rejected):
            return -torch.nn.functional.logsigmoid(sign * (chosen - rejected)).mean()

        return reward_loss

    scores = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])
    right, wrong = cell(+1), cell(-1)
    trained_on = usable(right)(*scores)
    assert "your own reward_loss is used" in capsys.readouterr().out
    check(right)
    assert capsys.readouterr().out.startswith("✓")
    assert torch.equal(usable(wrong)(*scores), trained_on), "the wrong one trains nothing"
    assert not torch.equal(wrong(*scores), trained_on), "but it is the one that is called"
    check(wrong)
    assert "✗ reward_model.reward_loss" in capsys.readouterr().out
    assert progress.has_passed("exercises", "reward_model.reward_loss"), "what was right once stays so"


# ---------------------------------------------------------------------- other Pythons

#: Modules of the standard library that Python 3.12 and 3.13 no longer have.
REMOVED = re.compile(
    r"^(asynchat|asyncore|distutils|imp|smtpd|aifc|audioop|cgi|cgitb|chunk|crypt|imghdr|mailcap|msilib|nis|nntplib"
    r"|ossaudiodev|pipes|sndhdr|spwd|sunau|telnetlib|uu|xdrlib|lib2to3)\b"
)
SOURCES = [path for folder in ("rlhf_course", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def test_no_source_is_too_new_or_too_old_for_any_python_of_the_course():
    """The machine that runs this has one Python; what differs between 3.11 and 3.13 can be read off the text."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an invalid escape is to become an error
            tree = ast.parse(text, str(path), feature_version=(3, 11))
            compile(text, str(path), "exec")
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(map(REMOVED.match, names)), path


def test_text_is_utf_8_whatever_the_machine_prefers():
    for path in (ROOT / "rlhf_course").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"
