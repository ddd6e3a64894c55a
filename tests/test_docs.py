"""The pages in docs/: what they say of names is true, their samples run, and their pictures are made by a script."""

import ast
import importlib
import pkgutil
import re
import shlex
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import yaml
from PIL import Image

import rlhf_course
from rlhf_course import over_to_trl

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
SAMPLES = re.findall(r"```python\n(.+?)```", PAGES["over_to_trl.md"], re.DOTALL)


def test_links_lead_somewhere():
    for name, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / "docs" / target).exists(), f"{name}: {target}"
        for path in re.findall(r"`((?:rlhf_course|tests|docs|solutions)/[\w/.]*)`", text):
            assert (ROOT / path).exists() or "NN_" in path, f"{name}: {path}"


# ---------------------------------------------------------------------- the guide and the troubleshooting page


def words_of_the_package():
    """Every name that the package's sources, and the tests' helpers, define or call something by."""
    found = set()
    for path in (*(ROOT / "rlhf_course").rglob("*.py"), ROOT / "tests/trainers/small.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= {getattr(node, kind, None) for kind in ("name", "id", "attr", "arg")}
    return found


def test_the_guide_names_what_exists():
    known = words_of_the_package() | {"code", "correct", "why", "points", "true", "make", "name"}
    for page in ("package.md", "troubleshooting.md"):
        text = re.sub(r"```.+?```", "", PAGES[page], flags=re.DOTALL)
        for name in re.findall(r"`([A-Za-z_]\w+)(?:\(.*?\)|=\w+)?`", text):
            assert name in known or re.fullmatch(r"[A-Z]+_[A-Z_]+|checkpoint|runs|notebooks|solutions", name), (
                page,
                name,
            )


def test_the_map_shows_every_folder_and_no_module_is_left_out():
    table = "\n".join(line for line in PAGES["package.md"].splitlines() if line.startswith("|"))
    for module in pkgutil.iter_modules(rlhf_course.__path__):
        if module.ispkg:
            assert f"`rlhf_course/{module.name}/`" in table, module.name


def test_the_guides_tests_exist():
    for line in re.findall(r"^pytest (.+)$", PAGES["package.md"], re.MULTILINE):
        for word in shlex.split(line):
            assert not word.startswith("tests/") or (ROOT / word).exists(), word


def test_messages_that_the_page_explains_are_the_packages():
    sources = " ".join(p.read_text(encoding="utf-8") for p in (ROOT / "rlhf_course").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings go on in the next line
    files = PAGES["troubleshooting.md"].split("## Files")[1].split("## ")[0]
    rows = re.findall(r"^\| `(.+?)` \|", files, re.MULTILINE)
    assert len(rows) == 7
    for said in rows:
        for part in re.split(r"…|: ", said):
            assert part.strip() in sources, said


def test_hooks_run_what_the_makefile_runs():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert repository["repo"] == "local" and {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert entries == ["ruff check", "ruff format --check", "rlhf-course build --check"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(entry in makefile for entry in entries[:2])


@pytest.mark.parametrize("name", ["overoptimization", "lesson"])
def test_pictures_are_small_shown_and_made_by_the_script(name):
    path = ROOT / "docs/images" / f"{name}.png"
    assert path.stat().st_size < 150_000
    assert f"](docs/images/{name}.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"def {name}()" in (ROOT / "docs/make.py").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "docs/images").iterdir()} == {"overoptimization.png", "lesson.png"}


def test_the_plot_is_the_shipped_tables(tmp_path, monkeypatch):
    """Made again, it is the same picture: to the byte with the matplotlib that drew it, else nearly."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    make = importlib.import_module("make")
    monkeypatch.setattr(make, "IMAGES", tmp_path)
    make.overoptimization()
    stored, fresh = (
        Image.open(folder / "overoptimization.png").convert("L") for folder in (ROOT / "docs/images", tmp_path)
    )
    assert stored.width == fresh.width and abs(stored.height - fresh.height) < 20
    size = (200, 90)
    difference = np.abs(np.asarray(stored.resize(size), float) - np.asarray(fresh.resize(size), float))
    assert difference.mean() < 4, matplotlib.__version__


def test_the_address_is_written_out_by_the_script(tmp_path, monkeypatch):
    """A repository that moves: one line in pyproject, then `python docs/make.py badges`."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    make = importlib.import_module("make")
    (tmp_path / "solutions").mkdir()
    for name in ("README.md", "solutions/03_reward_model.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    make.badges()
    for name in ("README.md", "solutions/03_reward_model.ipynb"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), f"{name}: run `python docs/make.py badges`"
    monkeypatch.setattr(rlhf_course, "REPOSITORY", "https://github.com/some-one/else-where")
    monkeypatch.setattr("rlhf_course.learn.opening.REPOSITORY", rlhf_course.REPOSITORY)
    old = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    make.badges()
    for name in ("README.md", "solutions/03_reward_model.ipynb"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "some-one/else-where/blob/main/notebooks/03_reward_model.ipynb" in text
        assert old.removeprefix("https://github.com/") not in text


@pytest.mark.parametrize("method", over_to_trl.METHODS)
def test_our_settings_bear_trls_names(method):
    """TRL lacks what the page says it lacks, and nothing else."""
    trl = pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    config = over_to_trl.METHODS[method].config_class
    theirs = {field.name for field in fields(getattr(trl, config.__name__))}
    without = {"group_by_length"} | {"dpo": {"reference_free"}, "grpo": {"max_length"}}.get(method, set())
    assert {field.name for field in fields(config)} - theirs == without
    assert "train_sampling_strategy" in theirs
    named = set(re.findall(r"`(\w+)`", PAGES["over_to_trl.md"]))
    own = {field.name for field in fields(config)} - {field.name for field in fields(config.__mro__[1])}
    assert own - without - {"packing"} <= named


def test_trl_has_the_other_trainers_that_the_page_names():
    trl = pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    from trl.experimental.online_dpo import OnlineDPOTrainer

    assert OnlineDPOTrainer and trl.RLOOTrainer and not hasattr(trl, "PPOTrainer")
    trl_defaults = {field.name: field.default for field in fields(trl.GRPOConfig)}
    assert trl_defaults["use_bias_correction_kl"] is True and trl_defaults["loss_type"] == "dapo"
    assert trl_defaults["learning_rate"] == 1e-6 and trl_defaults["gradient_checkpointing"] is True
    assert trl_defaults["disable_dropout"] is False and trl_defaults["train_sampling_strategy"] != "sequential"


@pytest.mark.slow
def test_the_samples_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    monkeypatch.chdir(tmp_path)
    names = {}
    for sample in SAMPLES:
        exec(compile(sample, "docs/over_to_trl.md", "exec"), names)
        if "compare" in sample:
            columns = [line.split() for line in capsys.readouterr().out.strip().splitlines()]
            assert len(columns) == 4 and all(float(a) == pytest.approx(float(b), abs=2e-5) for a, b in columns)
        if "trainer" in names:
            assert names["trainer"].state.global_step == 2
    assert len(SAMPLES) == 7 and type(names["trainer"]).__name__ == "GRPOTrainer"

    from rlhf_course.models import load_reward_model

    load_reward_model("runs/reward", "cpu")
