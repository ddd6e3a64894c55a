"""The comparison that `make test` makes of stored and fresh outputs: it has to notice a changed number."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OPTIONS = re.search(r"^NBVAL *:= (.+)$", MAKEFILE, re.MULTILINE)[1].split()


def notebook(path, *cells):
    """A stored notebook of code cells, each (source, what it printed when it was stored, tags)."""
    made = []
    for number, (source, stored, tags) in enumerate(cells, 1):
        outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)] if stored else []
        made.append(
            nbformat.v4.new_code_cell(
                source, id=f"cell-{number}", execution_count=number, outputs=outputs, metadata={"tags": tags}
            )
        )
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def run(*paths):
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), *OPTIONS, *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_make_test_runs_both_trees_with_these_options():
    lines = re.findall(r"^.*\$\(NBVAL\) (\w+).*$", MAKEFILE, re.MULTILINE)
    assert sorted(lines) == ["notebooks", "solutions"]
    rehearsed = {
        line.split()[-1]: "RLHF_COURSE_FAST=1" in line for line in MAKEFILE.splitlines() if "$(NBVAL) " in line
    }
    assert {name.strip("&").strip(): fast for name, fast in rehearsed.items()} == {
        "notebooks": True,
        "solutions": False,
    }


@pytest.mark.slow
def test_a_changed_number_is_seen_where_the_text_quotes_it_and_nowhere_else(tmp_path):
    checked = ["nbval-check-output"]
    same = notebook(tmp_path / "same.ipynb", ("print('gold', 1.62)", "gold 1.62\n", checked))
    other = notebook(tmp_path / "other.ipynb", ("print('gold', 1.63)", "gold 1.62\n", checked))
    live = notebook(tmp_path / "live.ipynb", ("print('gold', 1.63)", "gold 1.62\n", []))
    timed = notebook(tmp_path / "timed.ipynb", ("print('took 3.2 s')", "took 4.1 s\n", checked))
    fails = notebook(tmp_path / "fails.ipynb", ("1 / 0", "", []))

    good = run(same, live, timed)
    assert good.returncode == 0, good.stdout
    assert "3 passed" in good.stdout
    bad = run(other, fails)
    assert bad.returncode == 1
    assert "2 failed" in bad.stdout
    assert "gold 1.62" in bad.stdout and "gold 1.63" in bad.stdout
    assert "ZeroDivisionError" in bad.stdout
