"""The lab "break it", driven through its callbacks; live runs are cut to a few steps on a few rows."""

import base64
import re
import signal
import threading
from functools import partial

import pytest

from rlhf_course.experiments import break_it
from rlhf_course.experiments.break_it import FAULTS
from rlhf_course.learn import lab
from rlhf_course.learn.labs import break_it as module
from rlhf_course.learn.labs.break_it import MEASURES, BreakIt, stories
from rlhf_course.learn.mime import WIDGET_VIEW

every_fault = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few dots, which are drawn sooner."""
    monkeypatch.setattr("rlhf_course.learn.labs.base._DPI", 30)


@pytest.fixture
def view():
    return BreakIt()


@pytest.fixture
def short(monkeypatch):
    for name, value in {"COMPARISONS": 8, "RANKINGS": 4, "HELD_OUT": 12, "FRESH_ANSWERS": 4, "NEIGHBOURS": 4}.items():
        monkeypatch.setattr(break_it, name, value)
    few = {"per_device_train_batch_size": 8, "max_steps": 2, "eval_steps": 1}
    monkeypatch.setattr(break_it, "SHORT", {method: {**s, **few} for method, s in break_it.SHORT.items()})
    monkeypatch.setitem(break_it.RUNS, "no clip", partial(break_it.RUNS["no clip"], max_steps=2, eval_steps=1))
    module._start.cache_clear()
    yield
    module._start.cache_clear()


def right_number(fault):
    return next(number for number, option in stories()[fault].question.numbered.items() if option.correct)


# ---------------------------------------------------------------------- the stories


def test_every_fault_has_a_story_and_every_measure_a_name():
    assert list(stories()) == list(FAULTS)
    assert all(measure in MEASURES for fault in FAULTS.values() for measure in fault.measures)


@every_fault
def test_a_story_is_well_formed(fault):
    story = stories()[fault]
    assert 3 <= len(story.question.options) <= 4
    assert sum(option.correct for option in story.question.options) == 1
    assert len({option.why for option in story.question.options}) == len(story.question.options)
    assert story.changed and story.finding[-1] != "." and story.diagnosis.count("**") == 2


def test_the_steps_that_a_question_names_are_those_of_the_live_run():
    for fault, method in (("β = 0", "ppo"), ("equal rewards", "grpo")):
        assert f"{break_it.SHORT[method]['max_steps']} steps" in stories()[fault].question.text


def test_a_number_that_is_nothing_but_rounding_is_told_as_0():
    assert [module._number(value) for value in (1.6e-7, -2e-9, 0.0, 3.2e-4, -0.222)] == ["0"] * 3 + [
        "0.00032",
        "-0.222",
    ]


# ---------------------------------------------------------------------- the widget


def test_a_prediction_comes_first(view):
    before = bytes(view.image.value)
    for button in (view.live_button, view.stored_button):
        button.click()
        assert "Predict first" in view.feedback.value and 'role="alert"' in view.feedback.value
    assert bytes(view.image.value) == before and not view.live


def test_before_the_run_nothing_is_given_away(view):
    for fault in FAULTS:
        view.widgets["fault"].value = fault
        told = view.reading.value + view.text.value
        assert stories()[fault].finding not in told and "broken" not in view.reading.value
        assert view.choice.value is None and view.feedback.value == ""


@every_fault
def test_the_stored_runs_come_with_verdict_and_diagnosis(view, fault):
    view.widgets["fault"].value = fault
    before = bytes(view.image.value)
    right = right_number(fault)
    for number in (right, next(number for number in view.choice.options if number != right)):
        view.choice.value = number
        view.stored_button.click()
        verdict = "✓ You predicted it" if number == right else f"✗ Not {number}."
        assert verdict in view.feedback.value and 'role="alert"' in view.feedback.value
        assert number == right or f"{right} is what happens" in view.feedback.value
        assert "Diagnosis." in view.feedback.value and "**" not in view.feedback.value
    assert bytes(view.image.value) != before
    assert stories()[fault].finding.replace("'", "&#x27;") in view.reading.value
    assert "in the stored broken ones" in view.reading.value


def test_a_live_run_is_drawn_as_it_goes_and_then_diagnosed(view, short, monkeypatch):
    view.widgets["fault"].value = "equal rewards"
    view.choice.value = right_number("equal rewards")
    titles, allowed = [], []
    redraw = view._redraw
    monkeypatch.setattr(
        view,
        "_redraw",
        lambda *change: (redraw(*change), titles.append(view.reading.value), allowed.append(view.live_button.disabled)),
    )
    view.live_button.click()
    assert [f"step {step} of" in titles[step] for step in (0, 1, 2)] == [True] * 3 and all(allowed[:3])
    assert view.bar.value == 2 and [look["step"] for look in view.live] == [0, 1, 2]
    assert "✓ You predicted it" in view.feedback.value and " live" in view.reading.value
    assert not view.live_button.disabled and not view.choice.disabled


def test_a_live_run_of_another_method(view, short):
    view.widgets["fault"].value = "pad as last token"
    view.choice.value = "1"
    view.live_button.click()
    assert view.live[-1]["step"] == 2 and "Diagnosis." in view.feedback.value


@pytest.mark.parametrize("own_thread", [False, True])
def test_it_says_how_to_stop_where_it_runs(view, monkeypatch, own_thread):
    told = []
    monkeypatch.setattr(module, "run", lambda *_: told.append(view.feedback.value))
    view.choice.value = "1"
    if own_thread:  # as JupyterLab does it since it knows subshells
        thread = threading.Thread(target=view.live_button.click)
        thread.start()
        thread.join()
    else:
        view.live_button.click()
    assert ("restart the kernel" if own_thread else "interrupt the kernel") in told[0]


def test_an_interrupt_stops_a_run_where_the_kernel_ignores_them(view, monkeypatch):
    def long(name, start, on_look):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the interrupt was ignored")

    monkeypatch.setattr(module, "run", long)
    view.choice.value = "1"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        view.live_button.click()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Stopped before the first look" in view.feedback.value and not view.live_button.disabled


def test_an_interrupt_leaves_the_lab_usable(view, short, monkeypatch):
    def interrupted(name, start, on_look):
        on_look({"step": 0, "gold": 0.1, "zero_std": None, "passed": None}, 16)
        raise KeyboardInterrupt

    view.widgets["fault"].value = "equal rewards"
    view.choice.value = "1"
    with monkeypatch.context() as patch:
        patch.setattr(module, "run", interrupted)
        view.live_button.click()
    assert "Stopped after step 0" in view.feedback.value and "Diagnosis" not in view.feedback.value
    assert not view.live_button.disabled and not view.widgets["fault"].disabled
    view.live_button.click()
    assert "Diagnosis." in view.feedback.value


def test_another_fault_begins_anew(view):
    view.choice.value = "1"
    view.stored_button.click()
    view.widgets["fault"].value = "no reference"
    assert view.choice.value is None and view.feedback.value == "" and not view.revealed
    assert "in the stored broken ones" not in view.reading.value


# ---------------------------------------------------------------------- without widgets


def test_the_static_page_shows_stored_runs_and_folds_the_answers(monkeypatch):
    shown = []
    monkeypatch.setattr(module, "display", lambda *a, **k: shown.append(a[0]))
    lab("break_it")
    (bundle,) = shown
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    page = bundle["text/html"]
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)" alt="[^"]{100,}"', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG\r\n\x1a\n")
    assert page.count("<details>") == len(FAULTS)
    open_text = re.sub(r"<details>.*?</details>", "", page)
    for fault in FAULTS:
        assert f"<h4>{fault}</h4>" in open_text
        assert "is right." not in open_text and stories()[fault].diagnosis[:40] not in open_text


def test_it_draws_the_same_figure_again():
    assert bytes(BreakIt().image.value) == bytes(BreakIt().image.value)
