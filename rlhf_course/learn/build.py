"""From `solutions/NN_slug.ipynb`, the one source of a lesson, to `notebooks/NN_slug.ipynb`, the learner's copy.

The copy has a stub where the solution has a block

    ### BEGIN SOLUTION
    …
    ### END SOLUTION

and no outputs. Both are written in one form: cell ids kept, metadata reduced to a short list, nothing that differs
from run to run. So executing a lesson twice on one machine gives the same bytes, and a diff shows what changed.
"""

import copy
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from rlhf_course.learn.mime import WIDGET_VIEW

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("# Write your code here, in place of the next line.", "raise exercise.NotAttempted")
MAX_BYTES = 1_500_000
CELL_SECONDS = 600

_NOTEBOOK_METADATA = ("accelerator", "colab")  # Colab's own: which machine to ask for
_CELL_METADATA = ("cellView", "jupyter", "tags")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


class BuildError(Exception):
    """A lesson cannot be built; the message names the notebook and the cell."""


def build(execute: bool = False, check: bool = False, root: Path | str = ".", only: Collection[str] = ()) -> list[str]:
    """Write the learner's notebooks from the solutions.

    Args:
        execute: run the solutions first and store their outputs.
        check: write nothing, report what is not as it should be. With `execute` that includes outputs that come
            out differently.
        root: the repository.
        only: beginnings of names, such as "03"; empty for all.

    Returns:
        One line for each file written, or, with `check`, for each problem found.

    Raises:
        BuildError: a solution cannot be read, built or run.
    """
    root = Path(root).resolve()
    sources = sorted(p for p in (root / "solutions").glob("*.ipynb") if p.name.startswith(tuple(only) or ""))
    if not sources:
        raise BuildError(f"no lesson {', '.join(only)} in solutions/" if only else "no notebook in solutions/")
    lines = []
    for source in sources:
        notebook = _read(source)
        if execute:
            _execute(notebook, source.name, root)
        _clean(notebook)
        if check:
            lines += [f"solutions/{source.name}: {problem}" for problem in _problems(notebook)]
        target = root / "notebooks" / source.name
        for path, text in ((source, _dump(notebook)), (target, _dump(_learners_copy(notebook, source.name)))):
            lines += _compare(path, text, root) if check else _write(path, text, root)
    if check and not only:
        names = {source.name for source in sources}
        stale = sorted(p.name for p in (root / "notebooks").glob("*.ipynb") if p.name not in names)
        lines += [f"notebooks/{name}: there is no solution of this name" for name in stale]
    return lines


def _read(path: Path):
    import nbformat

    text = path.read_text(encoding="utf-8")
    try:
        ids = [cell.get("id") for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path.name} is not a notebook: {error}") from error
    for number, cell_id in enumerate(ids, 1):
        if not cell_id or cell_id in ids[: number - 1]:
            state = f"repeats the id {cell_id!r}" if cell_id else "has no id"
            raise BuildError(f"{path.name}: cell {number} {state}; JupyterLab gives one when the cell is added")
    return nbformat.reads(text, as_version=4)


def _execute(notebook, name: str, root: Path) -> None:
    """Run every cell in a new kernel, in an empty folder: a lesson needs nothing but the package."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    running = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "RLHF_COURSE_HOME": str(Path(folder) / "home"),  # not the author's own progress
            "TQDM_DISABLE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",  # sums are then made in one order
        }
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            store_widget_state=False,
            on_cell_start=lambda cell, cell_index: running.update(cell=cell, number=cell_index + 1),
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise BuildError(f"{_place(name, **running)} raised {error.ename}: {error.evalue}") from error
        except CellTimeoutError as error:
            raise BuildError(f"{_place(name, **running)} took more than {CELL_SECONDS} s") from error
        except DeadKernelError as error:
            raise BuildError(f"{_place(name, **running)} ended the kernel") from error

    for number, cell, output, text in _texts(notebook):
        place = _place(name, cell, number)
        if output.output_type == "stream" and output.name == "stderr":
            raise BuildError(f"{place} wrote to stderr, which is not to be stored: {text.strip()[:200]}")
        if found := _ADDRESS.search(text):
            raise BuildError(f"{place} shows a memory address, another one in every run: …{found.group()}…")
        if str(root) in text or folder in text:
            raise BuildError(f"{place} shows a path of this machine")


def _texts(notebook) -> Iterator[tuple]:
    """(cell number, cell, output, text) for everything that was printed or displayed as text."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                yield number, cell, output, output.text
            for mime, content in output.get("data", {}).items():
                if mime.startswith("text/") and isinstance(content, str):
                    yield number, cell, output, content


def _clean(notebook) -> None:
    """Keep what belongs into a stored notebook: a short list of metadata, outputs without widgets."""
    kept = {key: notebook.metadata[key] for key in _NOTEBOOK_METADATA if key in notebook.metadata}
    notebook.metadata = {**kept, "kernelspec": _KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in _CELL_METADATA if key in cell.metadata}
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs = _clean_outputs(cell.outputs)


def _clean_outputs(outputs: list) -> list:
    kept = []
    for output in outputs:
        if WIDGET_VIEW in output.get("data", {}):
            del output.data[WIDGET_VIEW]
            if set(output.data) <= {"text/plain"}:  # a bare widget: its text is only its constructor
                continue
        previous = kept[-1] if kept else {}
        if output.output_type == "stream" and previous.get("name") == output.name:
            previous.text += output.text  # one stream arrives in as many pieces as it likes
            continue
        kept.append(output)
    return kept


def _learners_copy(notebook, name: str):
    stubs = copy.deepcopy(notebook)
    for number, cell in enumerate(stubs.cells, 1):
        if cell.cell_type == "code":
            cell.source = _with_stubs(cell.source, _place(name, cell, number))
            cell.outputs, cell.execution_count = [], None
    return stubs


def _with_stubs(source: str, place: str) -> str:
    kept, inside = [], False
    for line in source.split("\n"):
        mark = line.strip()
        if mark not in (BEGIN, END):
            if not inside:
                kept.append(line)
            continue
        if inside == (mark == BEGIN):
            raise BuildError(f"{place}: {mark} without its partner")
        inside = mark == BEGIN
        if inside:
            indent = line[: len(line) - len(line.lstrip())]
            if not indent:
                raise BuildError(f"{place}: {BEGIN} belongs inside a function, or the stub would stop Run All")
            kept += [indent + part for part in STUB]
    if inside:
        raise BuildError(f"{place}: {BEGIN} without its partner")
    return "\n".join(kept)


def _problems(notebook) -> list[str]:
    """What keeps a solution from being shown as it is: cells not executed in order, errors, too many bytes."""
    problems = []
    code = [(n, cell) for n, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code" and cell.source]
    for count, (number, cell) in enumerate(code, 1):
        if cell.execution_count != count:
            problems.append(f"cell {number} was not executed in order: run `rlhf-course build --execute`")
            break
    for number, cell in code:
        if any(output.output_type == "error" for output in cell.outputs):
            problems.append(f"cell {number} shows an error")
    if (size := len(_dump(notebook).encode())) > MAX_BYTES:
        problems.append(f"has {size:,} bytes, more than {MAX_BYTES:,}")
    return problems


def _dump(notebook) -> str:
    import nbformat

    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _write(path: Path, text: str, root: Path) -> list[str]:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return [f"wrote {path.relative_to(root)}"]


def _compare(path: Path, text: str, root: Path) -> list[str]:
    where = path.relative_to(root)
    if not path.exists():
        return [f"{where}: is missing: run `rlhf-course build`"]
    found = path.read_text(encoding="utf-8")
    if found == text:
        return []
    cells, wanted = json.loads(found).get("cells", []), json.loads(text)["cells"]
    number = next((n for n, pair in enumerate(zip(cells, wanted), 1) if pair[0] != pair[1]), None)
    place = f"cell {number}" if number else "its number of cells or its metadata"
    return [f"{where}: differs in {place} from what its solution gives: run `rlhf-course build`"]


def _place(name: str, cell, number: int) -> str:
    return f"{name}: cell {number} (id {cell.id})"
