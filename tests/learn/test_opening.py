"""Every lesson begins with its own Colab badge and the one set-up cell."""

import tomllib
from pathlib import Path

import nbformat
import pytest

from rlhf_course.learn.opening import SETUP, badge

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "solutions").glob("*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opens_with_its_badge_and_the_common_setup(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert badge(path.stem) in cells[0].source
    first_code = next(cell for cell in cells if cell.cell_type == "code")
    assert first_code.source == SETUP


def test_the_address_is_the_one_in_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    assert f"git+{address}" in SETUP
    path = address.removeprefix("https://github.com/")
    assert f"https://colab.research.google.com/github/{path}/blob/main/notebooks/03_x.ipynb" in badge("03_x")


def test_the_setup_cell_does_nothing_at_home_and_upgrades_nothing_in_colab():
    assert '"google.colab" in sys.modules' in SETUP
    assert "find_spec(" in SETUP
    assert "only-if-needed" in SETUP
    assert " -U" not in SETUP
