"""What both trees of notebooks must hold, whichever lessons there are. (How they are built: test_build.py.)"""

import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

from rlhf_course import REPOSITORY
from rlhf_course.learn import board
from rlhf_course.learn.build import build
from rlhf_course.learn.catalogue import exercises
from rlhf_course.learn.mime import WIDGET_VIEW
from rlhf_course.learn.opening import badge
from rlhf_course.learn.quiz_widget import bank

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
BOTH = [*SOLUTIONS, *sorted((ROOT / "notebooks").glob("*.ipynb"))]
CHECKED = "nbval-check-output"

in_solutions = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
in_both = pytest.mark.parametrize("path", BOTH, ids=lambda path: f"{path.parent.name}/{path.stem}")


@cache
def cells(path):
    return nbformat.read(path, as_version=4).cells


def markdown(path):
    return [(cell.id, cell.source) for cell in cells(path) if cell.cell_type == "markdown"]


def code(path):
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def printed(cell):
    """What a cell wrote as text. A figure's stand-in for those who do not see it is not counted."""
    texts = [output.get("text", "") for output in cell.outputs]
    return "".join(texts + [o.data.get("text/plain", "") for o in cell.outputs if o.output_type == "execute_result"])


# ---------------------------------------------------------------------- both trees as they are stored


def test_nothing_drifts_and_every_solution_is_executed_in_order_without_errors():
    assert build(check=True, root=ROOT) == []


@in_both
def test_no_widget_is_stored_and_the_file_is_small(path):
    raw = path.read_bytes()
    assert len(raw) < 1_500_000
    for word in (WIDGET_VIEW, "widget-state", '"widgets"'):
        assert word.encode() not in raw, f"{path.name} stores {word}"


# ---------------------------------------------------------------------- text, links and pictures


def links(source):
    """Targets of a cell's Markdown and HTML links and pictures."""
    source = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```|\$\$.*?\$\$", "", source, flags=re.DOTALL))
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", source) + re.findall(r"(?:src|href)=[\"']([^\"']+)", source)
    return targets + re.findall(r"<(https?://[^>\s]+)>", source)


def anchors(path):
    """What a `#…` link can point to: JupyterLab's names of the headings."""
    text = "\n".join(source for _, source in markdown(path))
    return {heading.strip().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@in_both
def test_links_are_alive(path):
    for cell_id, source in markdown(path):
        for target in links(source):
            place = f"{path.parent.name}/{path.name}, cell {cell_id}: {target}"
            if target.startswith("https://colab.research.google.com/github/"):
                assert target in badge(path.stem), f"{place} opens another notebook"
            elif target.startswith(f"{REPOSITORY}/"):
                inside = re.fullmatch(r"/(?:blob|tree)/main/([^#]+)(?:#.*)?", target.removeprefix(REPOSITORY))
                assert inside is None or (ROOT / inside[1]).exists(), f"{place} is not in the repository"
            elif target.startswith("http"):
                assert target.startswith("https://"), f"{place} is not https"
            else:
                file, _, heading = target.partition("#")
                found = path.parent / file if file else path
                assert found.exists(), f"{place} does not exist"
                assert not heading or found.suffix != ".ipynb" or heading in anchors(found), f"{place}: no such heading"


@in_solutions
def test_every_picture_can_be_read_aloud(path):
    for cell in code(path):
        for output in cell.outputs:
            for mime in output.get("data", {}):
                if mime.startswith("image/"):
                    alt = output.metadata.get(mime, {}).get("alt", "")
                    assert len(alt) > 20, f"{path.name}, cell {cell.id}: a picture without alt text"
    for cell_id, source in markdown(path):
        for alt in re.findall(r"!\[(.*?)\]\(", source):
            assert alt.strip(), f"{path.name}, cell {cell_id}: a picture without alt text"
        for picture in re.findall(r"<img\b[^>]*>", source):
            assert re.search(r"\balt=[\"'][^\"']{3,}", picture), f"{path.name}, cell {cell_id}: {picture}"


@in_solutions
def test_a_lesson_says_how_long_it_takes_and_what_one_can_do_after_it(path):
    (_, opening), *_ = markdown(path)
    assert re.search(r"\b\d+ minutes\b", opening), f"{path.name} does not state its time"
    assert "After this lesson you can" in opening or "after this lesson" in opening.lower()


@in_solutions
def test_real_models_are_off(path):
    for cell in code(path):
        assert not re.search(r"^\s*REAL_MODEL *= *True", cell.source, re.MULTILINE), f"{path.name}, cell {cell.id}"


# ---------------------------------------------------------------------- exercises and quizzes have their place


@in_solutions
def test_exercises_are_checked_where_they_stand(path):
    source = [cell.source for cell in code(path)]
    placed = []
    for place, text in enumerate(source):
        for exercise_id in re.findall(r'^@exercise\("([^"]+)"\)', text, re.MULTILINE):
            name = exercise_id.split(".")[1]
            placed.append(exercise_id)
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{exercise_id} is not called {name}"
            assert re.search(rf"^check\({name}\)", source[place + 1], re.MULTILINE), (
                f"{exercise_id}: no check behind it"
            )
    topic = path.stem[3:]
    wanted = [exercise_id for exercise_id in exercises() if exercise_id.split(".")[0] == topic]
    assert sorted(placed) == sorted(wanted), f"{path.name}: exercises of the catalogue and of the lesson differ"


@in_solutions
def test_every_quiz_of_the_topic_is_asked_once(path):
    asked = re.findall(r'^quiz\("([^"]+)"\)', "\n".join(cell.source for cell in code(path)), re.MULTILINE)
    topic = path.stem[3:]
    for quiz_id in bank():
        if quiz_id.split(".")[0] == topic:
            assert asked.count(quiz_id) == 1, f"{path.name} asks {quiz_id} {asked.count(quiz_id)} times"


# ---------------------------------------------------------------------- what nbval compares, and what the text quotes


@in_solutions
def test_checks_and_stored_results_are_compared(path):
    """nbval compares tagged cells only, and nothing where nothing is stored."""
    for cell in code(path):
        place = f"{path.name}, cell {cell.id}"
        if re.search(r"^check\(", cell.source, re.MULTILINE) or ("load_result(" in cell.source and printed(cell)):
            assert CHECKED in tags(cell), f"{place} is to be tagged {CHECKED}"
        if CHECKED in tags(cell):
            assert cell.outputs, f"{place} is tagged and stores no output to compare with"


@in_solutions
def test_a_solution_passes_its_own_checks(path):
    for cell in code(path):
        for name in re.findall(r"^check\((\w+)\)", cell.source, re.MULTILINE):
            assert re.search(rf"^✓ \w+\.{name}: ", printed(cell), re.MULTILINE), f"{path.name}: {name}"


@in_solutions
def test_a_printed_table_fits_into_the_window(path):
    """JupyterLab beside its file browser shows 107 letters on a screen 1280 pixels wide; a longer row is folded.

    A remark in brackets at the end of a row may be.
    """
    for cell in code(path):
        lines = [re.sub(r" \([^()]*\)$", "", line) for line in printed(cell).splitlines()]
        rows = [line for line in lines if len(re.findall(r"\S  +\S", line)) > 2]
        assert max(map(len, rows), default=0) <= 107, f"{path.name}, cell {cell.id}: a row of its table is folded"


@in_solutions
def test_a_board_that_is_shown_has_every_lesson(path):
    for cell in code(path):
        if cell.source == "print(board())":
            shown, today = ([line.split()[:2] for line in text.splitlines()] for text in (printed(cell), str(board())))
            assert shown[:-1] == today[:-1]  # the last names the next exercise


@in_solutions
def test_the_text_quotes_no_number_of_a_live_cell(path):
    """A number with two decimals or more, printed by a cell that nbval does not compare, may differ tomorrow."""
    number = re.compile(r"(?<![\d.,])\d+\.\d{2,}(?![\d.])")
    compared, live = set(), {}
    for cell in code(path):
        found = set(number.findall(printed(cell)))
        if CHECKED in tags(cell):
            compared |= found
        else:
            live |= dict.fromkeys(found, cell.id)
    for cell_id, source in markdown(path):
        for quoted in set(number.findall(source)) - compared:
            assert quoted not in live, f"{path.name}: cell {cell_id} quotes {quoted} from the live cell {live[quoted]}"
