"""A lesson alone in an empty folder, with Colab's versions of what shows it: ipywidgets, IPython, matplotlib and more.

The set-up cell installs the course, from a wheel of this checkout in place of the repository's address, and must
leave every other version as it is. What cannot be had here is stood in for: Colab's Python, 3.12 or 3.13, by the one
that runs the tests (3.11 in continuous integration); its torch by 2.13 for the CPU; `google.colab` by an empty module.
"""

import json
from pathlib import Path

import nbformat
import pytest
from colab_environment import PINS
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from rlhf_course import REPOSITORY
from rlhf_course.learn.mime import WIDGET_VIEW

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ("03_reward_model",)  # one with exercises, quizzes, a lab and a training; each costs a minute
PROBE = """
import importlib, json, sys
names = ["torch", "transformers", "accelerate", "numpy", "matplotlib", "ipywidgets", "IPython", "ipykernel"]
found = {name: [m.__version__, m.__file__] for name in names for m in [importlib.import_module(name)]}
import rlhf_course
print(json.dumps({**found, "rlhf_course": [rlhf_course.__version__, rlhf_course.__file__]}))
"""


def kernel_of(colab, folder):
    """A kernel of the environment's own Python."""
    spec = folder / "kernels/colab"
    spec.mkdir(parents=True)
    command = [str(colab.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Colab", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name="colab", kernel_spec_manager=specs)


@pytest.fixture(params=LESSONS)
def executed(request, colab, wheel, tmp_path):
    """A learner's notebook, run alone; with the versions installed before and after, and those its kernel imported."""
    name = f"{request.param}.ipynb"
    assert colab.pip("uninstall", "-q", "-y", "rlhf-course").returncode == 0
    before = colab.versions()
    assert "rlhf-course" not in before

    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert f"git+{REPOSITORY}" in setup.source
    setup.source = setup.source.replace(f"git+{REPOSITORY}", str(wheel))
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    alone, home = tmp_path / "content", tmp_path / "home"
    alone.mkdir()
    home.mkdir()
    environment = {
        "PATH": f"{colab.python.parent}:/usr/bin:/bin",
        "HOME": str(home),
        "RLHF_COURSE_FAST": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    client = NotebookClient(
        notebook, km=kernel_of(colab, tmp_path), timeout=600, resources={"metadata": {"path": str(alone)}}
    )
    client.execute(env=environment)
    imported = json.loads(notebook.cells.pop().outputs[0].text)
    return notebook, before, colab.versions(), imported


def test_a_lesson_runs_alone_and_its_set_up_changes_no_version(executed, colab):
    notebook, before, after, imported = executed

    # Colab's versions are there, and they are what the kernel imported, from the environment itself.
    assert {name: before[name].split("+")[0] for name in PINS} == PINS
    for name, version in PINS.items():
        module = "IPython" if name == "ipython" else name
        found, file = imported[module]
        assert found.split("+")[0] == version, f"{module} is {found}, from {file}"
        assert Path(file).is_relative_to(colab.folder), f"{module} comes from {file}"
    assert Path(imported["rlhf_course"][1]).is_relative_to(colab.folder)

    # The set-up cell took the branch for Colab: the course is new, and nothing else changed.
    assert after.pop("rlhf-course") == imported["rlhf_course"][0]
    assert after == before

    # What it shows: widgets beside their fallbacks, figures, and not a word on standard error.
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output.data for output in outputs if "data" in output]
    assert any(WIDGET_VIEW in bundle and "text/html" in bundle for bundle in data)
    assert any("image/png" in bundle for bundle in data)
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "not attempted yet" in text
