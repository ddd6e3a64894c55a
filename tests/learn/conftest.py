"""Every test of the learner's side keeps its progress in a folder of its own."""

import pytest

from rlhf_course.learn import progress


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_memory", {})
    monkeypatch.setattr(progress, "_said", set())
    return tmp_path / "home"
