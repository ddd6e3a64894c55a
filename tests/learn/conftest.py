"""What the tests of the learner's side share: progress in a folder of its own, and what labs display."""

import pytest

from rlhf_course.learn import progress


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_memory", {})
    monkeypatch.setattr(progress, "_said", set())
    return tmp_path / "home"


@pytest.fixture
def shown(monkeypatch):
    """What labs display: (bundle, keyword arguments) of each call."""
    calls = []
    monkeypatch.setattr("rlhf_course.learn.labs.base.display", lambda *a, **k: calls.append((a[0], k)))
    return calls
