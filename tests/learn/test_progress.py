"""Progress survives whatever happens to its file."""

import json
import multiprocessing
import os

import pytest

from rlhf_course.learn import board, progress
from rlhf_course.learn.catalogue import exercises


def test_it_remembers_and_counts():
    assert progress.record_exercise("sft.sft_loss", passed=False) == ""
    progress.record_exercise("sft.sft_loss", passed=True)
    progress.record_exercise("sft.sft_loss", passed=False)
    assert progress.load()["exercises"] == {"sft.sft_loss": {"passed": True, "attempts": 3}}
    assert progress.has_passed("exercises", "sft.sft_loss")
    assert not progress.has_passed("quizzes", "sft.sft_loss")


def test_of_an_interview_question_the_best_score_is_kept():
    for points in (2, 4, 3):
        progress.record_interview("ppo.gae", points)
    assert progress.load()["interviews"] == {"ppo.gae": {"points": 4, "attempts": 3}}
    assert "◐ 1 of" in board() and "4 of 6 points by your own scores" in board()


def test_a_file_from_before_there_were_interviews_is_read(home):
    home.mkdir()
    (home / "progress.json").write_text('{"exercises": {"a.b": {"passed": true, "attempts": 2}}, "quizzes": {}}')
    assert progress.record_interview("ppo.gae", 1) == ""
    assert progress.has_passed("exercises", "a.b")
    assert progress.load()["interviews"] == {"ppo.gae": {"points": 1, "attempts": 1}}


def test_the_folder_is_the_one_that_the_variable_names(home, monkeypatch):
    assert progress.progress_file() == home / "progress.json"
    monkeypatch.setenv("RLHF_COURSE_HOME", "")
    assert progress.progress_file().parent.name == "rlhf-course"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"exercises": []}',
        b'{"exercises": {}, "quizzes": {"a": 1}}',
        b'{"exercises": {"a": {"passed": "yes", "attempts": 1}}, "quizzes": {}}',
        b'{"exercises": {}, "quizzes": {}, "interviews": {"a": {"points": true, "attempts": 1}}}',
    ],
)
def test_a_damaged_file_is_set_aside(home, content):
    home.mkdir()
    (home / "progress.json").write_bytes(content)
    assert progress.load() == {"exercises": {}, "quizzes": {}, "interviews": {}}

    notice = progress.record_quiz("sft.never_stops", passed=True)
    assert "could not be read" in notice
    assert "progress.damaged-1.json" in notice
    assert (home / "progress.damaged-1.json").read_bytes() == content
    assert progress.has_passed("quizzes", "sft.never_stops")


def test_a_second_damaged_file_does_not_replace_the_first(home):
    home.mkdir()
    for content in ("one", "two"):
        (home / "progress.json").write_text(content)
        progress.record_quiz("sft.never_stops", passed=True)
    assert (home / "progress.damaged-1.json").read_text() == "one"
    assert (home / "progress.damaged-2.json").read_text() == "two"


def test_where_nothing_can_be_written_it_lasts_as_long_as_the_kernel(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("not a folder")
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path / "a file" / "home"))
    notice = progress.record_exercise("sft.sft_loss", passed=True)
    assert "cannot be saved" in notice
    assert len(notice.splitlines()) == 1
    assert progress.record_exercise("sft.sft_loss", passed=True) == ""  # said once
    assert progress.has_passed("exercises", "sft.sft_loss")

    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path / "writable"))
    progress.record_quiz("sft.never_stops", passed=True)  # what was in memory is written too
    stored = json.loads((tmp_path / "writable" / "progress.json").read_text())
    assert stored["exercises"]["sft.sft_loss"] == {"passed": True, "attempts": 2}


def test_a_write_that_fails_leaves_the_old_file_whole(home, monkeypatch):
    progress.record_exercise("sft.sft_loss", passed=True)
    before = (home / "progress.json").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    assert "No space left" in progress.record_exercise("start_here.sigmoid", passed=True)
    assert (home / "progress.json").read_bytes() == before
    assert sorted(p.name for p in home.iterdir() if p.suffix == ".json") == ["progress.json"]
    assert progress.has_passed("exercises", "start_here.sigmoid")
    assert progress.has_passed("exercises", "sft.sft_loss")


def _work(name, times):
    for number in range(times):
        progress.record_quiz(f"{name}.{number % 3}", passed=number % 2 == 0)


def test_two_kernels_at_once_lose_nothing():
    context = multiprocessing.get_context("fork")
    kernels = [context.Process(target=_work, args=(name, 30)) for name in ("one", "two")]
    for kernel in kernels:
        kernel.start()
    for kernel in kernels:
        kernel.join()
        assert kernel.exitcode == 0
    quizzes = progress.load()["quizzes"]
    assert {id: entry["attempts"] for id, entry in quizzes.items()} == {
        f"{name}.{number}": 10 for name in ("one", "two") for number in range(3)
    }


def test_the_board_shows_what_is_done_and_what_is_next():
    assert "Next exercise: start_here.sigmoid" in board()
    progress.record_exercise("start_here.sigmoid", passed=True)
    progress.record_quiz("start_here.mirror", passed=True)
    line = next(line for line in board().splitlines() if line.startswith("00 start_here"))
    assert "✓ 1 of 1" in line
    assert "◐ 1 of 3" in line
    for id in exercises():
        progress.record_exercise(id, passed=True)
    assert "Every exercise is done" in board()


def test_in_colab_it_says_how_long_it_lasts(monkeypatch):
    assert "Colab" not in board()
    monkeypatch.setitem(progress.sys.modules, "google.colab", object())
    monkeypatch.delenv("RLHF_COURSE_HOME")
    assert "as long as the session" in board()
    assert "Drive" in board()
