"""What the learner has done, kept in one JSON file on this computer: no account, nothing is sent anywhere.

The file is `progress.json` in the user's data folder, or in the folder that RLHF_COURSE_HOME names. It is
replaced as a whole, never half written; a lock and a fresh read before every write let two kernels share
it. A damaged file is set aside, and where nothing can be written progress lasts as long as the kernel.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from rlhf_course.learn.catalogue import exercises
from rlhf_course.learn.topics import TOPICS

#: What is kept of each kind besides the number of attempts: the best result so far, and its type.
_BEST = {"exercises": ("passed", bool), "quizzes": ("passed", bool), "interviews": ("points", int)}
_memory: dict[str, dict] = {}  # what could not be written
_said: set[str] = set()  # notices are given once a kernel


def progress_file() -> Path:
    """Where progress is kept."""
    home = os.environ.get("RLHF_COURSE_HOME") or platformdirs.user_data_dir("rlhf-course")
    return Path(home).expanduser() / "progress.json"


def record_exercise(exercise_id: str, passed: bool) -> str:
    """Note one check of an exercise. Returns a sentence to show the learner, mostly empty."""
    return _record("exercises", exercise_id, passed)


def record_quiz(quiz_id: str, passed: bool) -> str:
    """Note one answer to a quiz. Returns a sentence to show the learner, mostly empty."""
    return _record("quizzes", quiz_id, passed)


def record_interview(question_id: str, points: int) -> str:
    """Note what a learner gave their own answer, in points. Returns a sentence to show them, mostly empty."""
    return _record("interviews", question_id, points)


def has_passed(kind: str, item_id: str) -> bool:
    """Whether an exercise (`kind` "exercises") or a quiz ("quizzes") was ever done right."""
    return bool(load()[kind].get(item_id, {}).get("passed"))


def load() -> dict[str, dict]:
    """{"exercises": {id: {"passed", "attempts"}}, "quizzes": the same, "interviews": {id: {"points", "attempts"}}}.

    Of several results the best is kept. Everything is empty without a readable file.
    """
    try:
        stored = _parse(progress_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = _empty()
    return _merge(stored, _memory)


def board() -> str:
    """Progress as a table: one line for each lesson that has exercises or quizzes, and what comes next."""
    from rlhf_course.learn.interview_bank import interview_bank
    from rlhf_course.learn.quiz_widget import bank

    state = load()
    totals = {"exercises": list(exercises()), "quizzes": list(bank())}
    done = {kind: [i for i in ids if state[kind].get(i, {}).get("passed")] for kind, ids in totals.items()}
    lines = [f"{'lesson':<22}{'exercises':<18}quizzes"]
    for number, topic in enumerate(TOPICS):
        counts = [
            [sum(i.startswith(f"{topic}.") for i in ids) for ids in (done[kind], totals[kind])] for kind in totals
        ]
        if any(total for _, total in counts):
            cells = [_cell(*count) for count in counts]
            lines.append(f"{f'{number:02d} {topic}':<22}{cells[0]:<18}{cells[1]}".rstrip())
    scores = {i: state["interviews"][i]["points"] for i in interview_bank() if i in state["interviews"]}
    possible = sum(len(interview_bank()[i].points) for i in scores)
    own = f", {sum(scores.values())} of {possible} points by your own scores" if scores else ""
    lines.append(f"Interview questions (lesson 13): {_cell(len(scores), len(interview_bank()))}{own}")
    left = [i for i in totals["exercises"] if i not in done["exercises"]]
    lines.append(f"Next exercise: {left[0]}" if left else "Every exercise is done.")
    if "google.colab" in sys.modules and not os.environ.get("RLHF_COURSE_HOME"):
        lines.append(
            "In Colab this lasts as long as the session. To keep it, mount your Drive and set, before "
            "anything else: %env RLHF_COURSE_HOME=/content/drive/MyDrive/rlhf-course"
        )
    return "\n".join(lines)


def _cell(done: int, total: int) -> str:
    if not total:
        return "–"
    mark = "✓" if done == total else "◐" if done else "○"
    return f"{mark} {done} of {total}"


def _record(kind: str, item_id: str, result: bool | int) -> str:
    notice = ""
    path = progress_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            try:
                state = _parse(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                state = _empty()
            except ValueError:
                aside = _set_aside(path)
                state = _empty()
                notice = (
                    f"Your progress file could not be read. It is kept as {aside.name} beside a new one, "
                    f"in {path.parent}."
                )
            state = _merge(state, _memory)
            _note(state, kind, item_id, result)
            _write(path, state)
        _memory.clear()
    except OSError as error:
        state = _merge(_empty(), _memory)
        _note(state, kind, item_id, result)
        _memory.update(state)
        notice = (
            f"Progress cannot be saved in {path.parent} ({error.strerror or type(error).__name__}): it "
            f"lasts as long as this kernel. RLHF_COURSE_HOME may name a folder you can write to."
        )
    if notice in _said:
        return ""
    _said.add(notice)
    return notice


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path, timeout=5)
    try:
        lock.acquire()
    except NotImplementedError:  # a folder without locks, as some network drives are
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _note(state: dict[str, dict], kind: str, item_id: str, result: bool | int, attempts: int = 1) -> None:
    best, made = _BEST[kind]
    entry = state[kind].setdefault(item_id, {best: made(), "attempts": 0})
    entry[best] = max(entry[best], made(result))
    entry["attempts"] += attempts


def _empty() -> dict[str, dict]:
    return {kind: {} for kind in _BEST}


def _parse(text: str) -> dict[str, dict]:
    """The file's content; ValueError if it is anything but what `_write` writes (or wrote, before interviews)."""
    state = json.loads(text)
    if isinstance(state, dict):
        state.setdefault("interviews", {})
    for kind, (best, made) in _BEST.items():
        entries = state.get(kind) if isinstance(state, dict) else None
        if not isinstance(entries, dict) or not all(_is_entry(entry, best, made) for entry in entries.values()):
            raise ValueError(f"no {kind}")
    return {kind: state[kind] for kind in _BEST}


def _is_entry(entry: Any, best: str, made: type) -> bool:
    return isinstance(entry, dict) and type(entry.get(best)) is made and type(entry.get("attempts")) is int


def _merge(one: dict[str, dict], other: dict[str, dict]) -> dict[str, dict]:
    merged = _empty()
    for state in (one, other):
        for kind, entries in state.items():
            for item_id, entry in entries.items():
                _note(merged, kind, item_id, entry[_BEST[kind][0]], entry["attempts"])
    return merged


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"progress.damaged-{number}.json")).exists():
        number += 1
    return path.rename(aside)


def _write(path: Path, state: dict[str, dict]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".progress-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
