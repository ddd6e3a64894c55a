"""The build tool on small notebooks of its own, executed in a real kernel where that is the point."""

import json

import nbformat
import pytest

from rlhf_course.learn.build import BuildError, build
from rlhf_course.learn.mime import WIDGET_VIEW

EXERCISE = '''@exercise("start_here.sigmoid")
def sigmoid(x):
    """σ(x)."""
    ### BEGIN SOLUTION
    import torch
    return torch.sigmoid(x)
    ### END SOLUTION'''
STUB = '''@exercise("start_here.sigmoid")
def sigmoid(x):
    """σ(x)."""
    # Write your code here, in place of the next line.
    raise exercise.NotAttempted'''


def cells(*sources):
    """Code cells; a source that starts with # and a space is a heading."""
    made = []
    for number, source in enumerate(sources):
        kind = nbformat.v4.new_markdown_cell if source.startswith("# ") else nbformat.v4.new_code_cell
        made.append(kind(source, id=f"cell-{number}"))
    return made


def save(root, *sources, name="00_sample.ipynb", metadata=None):
    notebook = nbformat.v4.new_notebook(cells=cells(*sources), metadata=metadata or {})
    (root / "solutions").mkdir(exist_ok=True)
    nbformat.write(notebook, root / "solutions" / name)
    return notebook


def stored(root, tree, name="00_sample.ipynb"):
    return nbformat.read(root / tree / name, as_version=4)


def test_solutions_become_stubs(tmp_path):
    save(tmp_path, "# A lesson", EXERCISE, "check(sigmoid)")
    assert "wrote notebooks/00_sample.ipynb" in build(root=tmp_path)
    copy = stored(tmp_path, "notebooks")
    assert [cell.source for cell in copy.cells] == ["# A lesson", STUB, "check(sigmoid)"]
    assert [cell.id for cell in copy.cells] == ["cell-0", "cell-1", "cell-2"]
    assert stored(tmp_path, "solutions").cells[1].source == EXERCISE
    assert build(root=tmp_path) == []


def test_only_listed_metadata_is_kept(tmp_path):
    notebook = save(
        tmp_path,
        "1 + 1",
        metadata={"accelerator": "GPU", "colab": {"gpuType": "T4"}, "widgets": {"state": 1}, "author": "me"},
    )
    notebook.cells[0].metadata.update(tags=["nbval-check-output"], execution={"iopub.status.busy": "now"})
    nbformat.write(notebook, tmp_path / "solutions" / "00_sample.ipynb")
    build(root=tmp_path)
    for tree in ("solutions", "notebooks"):
        found = stored(tmp_path, tree)
        assert set(found.metadata) == {"accelerator", "colab", "kernelspec", "language_info"}
        assert found.cells[0].metadata == {"tags": ["nbval-check-output"]}


def test_check_reports_drift_and_writes_nothing(tmp_path):
    notebook = save(tmp_path, "1 + 1", "2 + 2")
    assert any("notebooks/00_sample.ipynb: is missing" in line for line in build(check=True, root=tmp_path))
    assert not (tmp_path / "notebooks").exists()
    build(root=tmp_path)
    for number, cell in enumerate(notebook.cells, 1):
        cell.execution_count = number
    nbformat.write(notebook, tmp_path / "solutions" / "00_sample.ipynb")
    build(root=tmp_path)
    assert build(check=True, root=tmp_path) == []

    copy = stored(tmp_path, "notebooks")
    copy.cells[1].source = "3 + 3"
    nbformat.write(copy, tmp_path / "notebooks" / "00_sample.ipynb")
    nbformat.write(copy, tmp_path / "notebooks" / "07_gone.ipynb")
    assert build(check=True, root=tmp_path) == [
        "notebooks/00_sample.ipynb: differs in cell 2 from what its solution gives: run `rlhf-course build`",
        "notebooks/07_gone.ipynb: there is no solution of this name",
    ]
    assert stored(tmp_path, "notebooks").cells[1].source == "3 + 3"


def test_check_wants_solutions_executed_in_order_without_errors_and_small(tmp_path):
    notebook = save(tmp_path, "1", "2", "3")
    notebook.cells[0].execution_count = 2
    notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="x" * 1_600_000)]
    nbformat.write(notebook, tmp_path / "solutions" / "00_sample.ipynb")
    text = "\n".join(build(check=True, root=tmp_path))
    for problem in ("cell 1 was not executed in order", "cell 2 shows an error", "more than 1,500,000"):
        assert problem in text


def test_executing_twice_gives_the_same_bytes_without_widgets(tmp_path):
    save(
        tmp_path,
        "from rlhf_course.learn import check, exercise, lab, quiz, usable",
        EXERCISE,
        "check(sigmoid)\nsigmoid = usable(sigmoid)",
        'quiz("reward_model.shift")',
        'lab("bradley_terry")',
        "import ipywidgets\nipywidgets.IntSlider()",
        "import os, sys\nfor n in range(3):\n    print(n, flush=True)\nprint(os.listdir())",
    )
    build(execute=True, root=tmp_path)
    first = [(tmp_path / tree / "00_sample.ipynb").read_bytes() for tree in ("solutions", "notebooks")]
    assert build(execute=True, check=True, root=tmp_path) == []
    assert first == [(tmp_path / tree / "00_sample.ipynb").read_bytes() for tree in ("solutions", "notebooks")]

    outputs = [cell.outputs for cell in stored(tmp_path, "solutions").cells]
    assert outputs[2][0].text.startswith("✓ start_here.sigmoid: 5 of 5 checks\n✓ from here on your own sigmoid")
    assert "<details><summary>Answers</summary>" in outputs[3][0].data["text/html"]
    assert set(outputs[4][0].data) == {"image/png", "text/plain"}
    assert outputs[4][0].data["image/png"].startswith("iVBOR")
    assert outputs[5] == []
    assert outputs[6][0].text == "0\n1\n2\n['home']\n"
    raw = b"".join(first).decode()
    assert WIDGET_VIEW not in raw
    assert "iopub" not in raw
    assert all(cell.get("outputs") == [] for cell in json.loads(first[1])["cells"])


def test_the_stubs_run_to_the_end(tmp_path):
    save(
        tmp_path,
        "import torch\nfrom rlhf_course.learn import check, exercise, usable",
        EXERCISE,
        "check(sigmoid)",
        "usable(sigmoid)(torch.zeros(2)), sigmoid(torch.zeros(1))",
    )
    build(root=tmp_path)
    (tmp_path / "solutions" / "00_sample.ipynb").write_text((tmp_path / "notebooks" / "00_sample.ipynb").read_text())
    build(execute=True, root=tmp_path)
    outputs = [cell.outputs for cell in stored(tmp_path, "solutions").cells]
    assert outputs[2][0].text == "○ start_here.sigmoid: not attempted yet\n"
    assert "not written yet: the course's own version is used" in outputs[3][0].text
    assert outputs[3][1].data["text/plain"] == "(tensor([0.5000, 0.5000]), tensor([0.5000]))"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", r"00_sample.ipynb: cell 2 \(id cell-1\) raised ZeroDivisionError: division by zero"),
        ("import sys; print('careful', file=sys.stderr)", r"cell 2 \(id cell-1\) wrote to stderr.*careful"),
        ("object()", r"cell 2 \(id cell-1\) shows a memory address"),
        ("import os; os.getcwd()", r"cell 2 \(id cell-1\) shows a path of this machine"),
    ],
)
def test_a_cell_that_must_not_be_stored_is_named_and_nothing_is_written(tmp_path, source, message):
    save(tmp_path, "# A lesson", source)
    before = (tmp_path / "solutions" / "00_sample.ipynb").read_bytes()
    with pytest.raises(BuildError, match=message):
        build(execute=True, root=tmp_path)
    assert (tmp_path / "solutions" / "00_sample.ipynb").read_bytes() == before
    assert not (tmp_path / "notebooks").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f():\n    ### BEGIN SOLUTION\n    return 1", "BEGIN SOLUTION without its partner"),
        ("def f():\n    return 1\n    ### END SOLUTION", "END SOLUTION without its partner"),
        ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "belongs inside a function"),
    ],
)
def test_a_broken_solution_block_is_named(tmp_path, source, message):
    save(tmp_path, "1", source)
    with pytest.raises(BuildError, match=rf"cell 2 \(id cell-1\): ### {message}|{message}"):
        build(root=tmp_path)


def test_ids_are_needed_and_unique(tmp_path):
    notebook = save(tmp_path, "1", "2")
    path = tmp_path / "solutions" / "00_sample.ipynb"
    raw = json.loads(path.read_text())
    raw["cells"][1]["id"] = notebook.cells[0].id
    path.write_text(json.dumps(raw))
    with pytest.raises(BuildError, match="cell 2 repeats the id 'cell-0'"):
        build(root=tmp_path)
    del raw["cells"][1]["id"]
    path.write_text(json.dumps(raw))
    with pytest.raises(BuildError, match="cell 2 has no id"):
        build(root=tmp_path)
    path.write_text("{")
    with pytest.raises(BuildError, match="not a notebook"):
        build(root=tmp_path)


def test_only_some_lessons_can_be_built(tmp_path):
    save(tmp_path, "1", name="00_a.ipynb")
    save(tmp_path, "1", name="01_b.ipynb")
    build(root=tmp_path, only=["01"])
    assert [p.name for p in (tmp_path / "notebooks").iterdir()] == ["01_b.ipynb"]
    with pytest.raises(BuildError, match="no lesson 99"):
        build(root=tmp_path, only=["99"])
