"""The labs of lesson 01: the pipeline's stages, and how far the policy drifts."""

import pytest

from rlhf_course.experiments import load_result
from rlhf_course.learn import diagrams, lab
from rlhf_course.learn.exercises.pipeline import models_in_memory
from rlhf_course.learn.labs.pipeline import Pipeline
from rlhf_course.learn.labs.pipeline_drift import PipelineDrift
from rlhf_course.pipeline import STAGES

PNG = b"\x89PNG\r\n\x1a\n"


def drawn(name):
    """The texts of a stage's diagram."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    diagrams.draw_stage(axes, name)
    return [text.get_text() for text in axes.texts]


def test_there_is_a_diagram_for_every_stage():
    assert len(diagrams.STAGES) == len(STAGES)
    view = Pipeline()
    assert list(view.widgets["stage"].options) == list(diagrams.STAGES)
    pictures = set()
    for name in diagrams.STAGES:
        view.widgets["stage"].value = name
        pictures.add(bytes(view.image.value))
        assert diagrams.STAGES[name].story in view.reading.value
    assert len(pictures) == len(STAGES)


@pytest.mark.parametrize("name", diagrams.STAGES)
def test_the_diagram_says_what_the_exercise_asks(name):
    texts = drawn(name)
    for role, state in models_in_memory(diagrams.STAGES[name].method).items():
        word = {"train": "LEARNS", "frozen": "frozen", None: "not needed"}[state]
        assert f"{diagrams.NAMES[role]}\n{word}" in texts
    boxes = set(diagrams.STAGES[name].roles) | {"data"}
    assert all({start, end} <= boxes for start, end, _ in diagrams.STAGES[name].flows)


def test_the_memory_bill():
    bill = {name: stage.memory for name, stage in diagrams.STAGES.items()}
    assert bill == {"pre-training": 4, "SFT": 4, "reward model": 4, "PPO": 10, "DPO": 5}
    assert "10N numbers" in Pipeline().reading.value


def test_the_road_is_shown_with_its_alt_text(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: calls.append(a[0]))
    diagrams.road()
    assert "DPO" in calls[0]["text/plain"] and calls[0]["image/png"]


def test_drift_is_read_from_the_shipped_runs():
    table = load_result("pipeline.kl_price")
    view = PipelineDrift()
    assert bytes(view.image.value).startswith(PNG)
    before = bytes(view.image.value)
    for beta in (0.0, 0.1):
        view.widgets["beta"].value = beta
        last = view.widgets["step"].max
        kl = table.series("step", "kl", beta=beta)[1][-1]
        assert f"{kl:.1f} nats" in view.reading.value
        assert f"after step {last}" in view.reading.value
    assert bytes(view.image.value) != before
    view.widgets["step"].value = 0
    assert "the policy is 0.0 nats" in view.reading.value


def test_the_drift_lab_has_a_button_for_every_beta():
    betas = [value for _, value in PipelineDrift().widgets["beta"].options]
    assert betas == list(dict.fromkeys(load_result("pipeline.kl_price").values("beta")))


@pytest.mark.parametrize("name", ["pipeline", "pipeline_drift"])
def test_a_lab_carries_a_still_figure(name, shown):
    lab(name)
    ((bundle, options),) = shown
    assert bundle["image/png"]
    assert options["metadata"]["image/png"]["alt"] == bundle["text/plain"]
