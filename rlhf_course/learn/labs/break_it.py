"""Break it: choose a fault, predict what it does, train the broken thing live beside healthy runs, read the diagnosis.

The healthy runs are stored ones of three seeds, and so are the broken ones that are shown in the end. One more broken
run is trained in the cell, from the checkpoints that come with the course, and drawn as it goes.
"""

import base64
import html
import signal
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_course.experiments.break_it import FAULTS, SEEDS, Look, Start, Stored, run
from rlhf_course.learn.labs.base import Lab
from rlhf_course.learn.mime import block, widget_bundle
from rlhf_course.learn.question import Option, Question, as_html
from rlhf_course.plots import COLOURS, png
from rlhf_course.seeding import python_stream

MEASURES = {
    "score": "reward model's score",
    "gold": "gold reward",
    "kl": "KL from SFT (nats an answer)",
    "length": "tokens an answer",
    "approxkl": "approximate KL from π_old",
    "clipfrac": "clip fraction",
    "train_accuracy": "accuracy on training labels",
    "accuracy": "accuracy on held-out pairs",
    "shift": "shift of a score by neighbours",
    "passed": "answers that pass the rule",
    "zero_std": "groups without any spread",
}
#: Measures between 0 and 1, drawn on the whole of that range.
_SHARES = ("train_accuracy", "accuracy", "passed", "zero_std")
_BROKEN = "black"
#: The run's own chance: other prompts, samples and pairs than those of the stored runs, whose seeds are 0 to 2.
_SEED = 3


@dataclass(frozen=True)
class Story:
    """What a learner is told about a fault: before the run what is changed and what may happen, after it the rest."""

    changed: str
    question: Question
    finding: str
    diagnosis: str


@cache
def stories() -> dict[str, Story]:
    """Every fault's story, in the order of the menu."""
    text = (resources.files(__package__) / "break_it.toml").read_text(encoding="utf-8")
    found = {}
    for entry in tomllib.loads(text)["fault"]:
        options = tuple(Option(o["text"], o["why"], o.get("correct", False)) for o in entry["options"])
        question = Question(entry["id"], entry["question"], options).shuffled(python_stream(0, "quiz", entry["id"]))
        found[entry["id"]] = Story(entry["changed"], question, entry["finding"], " ".join(entry["diagnosis"].split()))
    return found


@lru_cache(maxsize=2)
def _start(seed: int) -> Start:
    return Start.shipped(seed)


class BreakIt(Lab):
    """A menu of faults, a prediction to make, a run to start.

    Attributes:
        choice: the predictions (RadioButtons).
        live_button, stored_button: "Run it live" and "Show the stored runs", which takes no time.
        bar: how far the live run is.
        feedback: the verdict on the prediction and the diagnosis, in a region that a screen reader speaks.
        live: the looks at the live run so far.
    """

    size = (9.0, 3.5)

    def __init__(self):
        self.choice = ipywidgets.RadioButtons(description="I predict:", options=[])
        self.live_button = ipywidgets.Button(description="Run it live")
        self.stored_button = ipywidgets.Button(
            description="Show the stored runs", layout=ipywidgets.Layout(width="180px")
        )
        self.bar = ipywidgets.IntProgress(value=0, min=0, max=1, layout=ipywidgets.Layout(width="220px"))
        self.text, self.feedback = ipywidgets.HTML(), ipywidgets.HTML()
        self.live_button.on_click(self._run)
        self.stored_button.on_click(self._show_stored)
        fault = next(iter(FAULTS))
        self._begin(fault)
        super().__init__()
        buttons = ipywidgets.HBox([self.live_button, self.stored_button, self.bar])
        self.box.children = [
            self.widgets["fault"],
            self.text,
            self.choice,
            buttons,
            self.image,
            self.reading,
            self.feedback,
        ]

    def controls(self) -> dict[str, ipywidgets.Widget]:
        fault = ipywidgets.Dropdown(options=list(FAULTS), description="The fault:")
        fault.observe(lambda change: self._begin(change["new"]), names="value")  # before the figure is drawn anew
        return {"fault": fault}

    def _begin(self, fault: str) -> None:
        """Forget what was predicted and run, and ask about this fault."""
        self.live: list[Look] = []
        self.revealed = False
        story = stories()[fault]
        self.text.value = block(f"<p>{as_html(story.changed)}</p>{story.question.to_html()}")
        self.choice.options = list(story.question.numbered)
        self.choice.value = None
        self.feedback.value = ""
        self.bar.value = 0

    # ------------------------------------------------------------------ the runs

    def _run(self, _button: ipywidgets.Button) -> None:
        if not self._predicted():
            return
        self.live, self.revealed = [], False
        self.bar.value = 0
        self._allow(False)
        try:
            with _interruptible() as how_to_stop:
                self.feedback.value = block(f"Training. {how_to_stop}", alert=True)
                run(self.widgets["fault"].value, _start(_SEED), self._look)
        except KeyboardInterrupt:
            told = f"Stopped after step {self.live[-1]['step']}." if self.live else "Stopped before the first look."
            self.feedback.value = block(f"{told} You can run it again, or choose another fault.", alert=True)
        else:
            self._reveal()
        finally:
            self._allow(True)

    def _show_stored(self, _button: ipywidgets.Button) -> None:
        if self._predicted():
            self.live = []
            self._reveal()

    def _predicted(self) -> bool:
        if self.choice.value is None:
            self.feedback.value = block("Predict first: choose a number.", alert=True)
        return self.choice.value is not None

    def _allow(self, allowed: bool) -> None:
        for widget in (self.widgets["fault"], self.choice, self.live_button, self.stored_button):
            widget.disabled = not allowed

    def _look(self, look: Look, steps: int) -> None:
        self.live.append(look)
        self.bar.max, self.bar.value = steps, look["step"]
        self._redraw()

    def _reveal(self) -> None:
        """Draw the stored broken runs, too, and give the verdict on the prediction and the diagnosis."""
        self.revealed = True
        self._redraw()
        story, number = stories()[self.widgets["fault"].value], self.choice.value
        chosen = story.question.numbered[number]
        right, answer = next((n, o) for n, o in story.question.numbered.items() if o.correct)
        if chosen.correct:
            verdict = f"<b>✓ You predicted it: {number}.</b> {as_html(chosen.why)}"
        else:
            verdict = (
                f"<b>✗ Not {number}.</b> {as_html(chosen.why)}</p><p><b>{right} is what happens:</b> "
                f"{as_html(answer.text)}. {as_html(answer.why)}"
            )
        others = f"<details><summary>All of them</summary>{story.question.answers_to_html()}</details>"
        self.feedback.value = block(f"<p>{verdict}</p>", alert=True) + block(
            f"<p><b>Diagnosis.</b> {as_html(story.diagnosis)}</p>{others}"
        )

    # ------------------------------------------------------------------ the figure

    def draw(self, figure: Figure, fault: str) -> str:
        measures = FAULTS[fault].measures
        for axes, measure in zip(figure.subplots(1, len(measures)), measures):
            self._panel(axes, fault, measure, self.revealed, self.live)
        _legend(figure)
        figure.suptitle(self._title(fault).rstrip("."), x=0.01, ha="left", fontsize=11, fontweight="bold")
        return f"{self._title(fault)} {self._numbers(fault, self.revealed)}"

    def _title(self, fault: str) -> str:
        if self.revealed:
            return f"{stories()[fault].finding}."
        if self.live:
            return f"Live: {fault}, step {self.live[-1]['step']} of {self.bar.max}."
        return f"The healthy runs, three seeds. What will the fault change ({fault})?"

    def _panel(self, axes: Axes, fault: str, measure: str, stored: bool, live: list[Look]) -> None:
        what = FAULTS[fault]
        healthy = {"color": COLOURS[what.method], "linewidth": 1.2}
        broken = {"color": _BROKEN, "linestyle": "--", "linewidth": 0.9, "alpha": 0.6}
        for seed in SEEDS:
            first = seed == SEEDS[0]
            _line(axes, what.healthy.looks(seed), measure, **healthy, label="healthy (stored)" if first else None)
            if stored:
                _line(axes, what.broken.looks(seed), measure, **broken, label="broken (stored)" if first else None)
        if live:
            _line(axes, live, measure, marker="o", markersize=4, color=_BROKEN, linewidth=2, label="broken (live)")
        axes.set_xlim(left=0)
        if measure in _SHARES:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("step", fontsize=9)
        axes.set_title(MEASURES[measure], loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)

    def _numbers(self, fault: str, stored: bool) -> str:
        """Where the measures stand, in words: the stored runs at their end, the live one as far as it is."""
        what, told = FAULTS[fault], []
        end = what.healthy.looks(SEEDS[0])[-1]["step"]
        for measure in what.measures:
            parts = [f"{_span(what.healthy, measure, end)} in the healthy runs"]
            if stored:
                parts.append(f"{_span(what.broken, measure, end)} in the stored broken ones")
            if self.live and self.live[-1][measure] is not None:
                step = self.live[-1]["step"]
                steps = [look["step"] for look in what.healthy.looks(SEEDS[0])]
                near = max([at for at in steps if at <= step] or steps[:1])
                then = _span(what.healthy, measure, near)
                now = _number(self.live[-1][measure])
                parts.append(f"{now} live at step {step} (healthy ones at step {near}: {then})")
            told.append(f"{MEASURES[measure]}: {', '.join(parts)}")
        return f"At step {end}, {'; '.join(told)}."

    # ------------------------------------------------------------------ where widgets do not live

    def show(self) -> None:
        """Display the lab; for where widgets do not live, the stored runs, and the answers behind folds."""
        text = "\n".join(f"{fault}: {stories()[fault].finding}." for fault in FAULTS)
        display(widget_bundle(self.box, text, {"text/html": self.to_static_html()}), raw=True)

    def to_static_html(self) -> str:
        """The measure that tells of every fault, in stored runs; each fault's question, and behind a fold the rest."""
        picture, alt = self.overview()
        parts = [f'<p><img src="data:image/png;base64,{picture}" alt="{html.escape(alt)}" width="860"></p>']
        for fault in FAULTS:
            story = stories()[fault]
            parts.append(
                f"<h4>{html.escape(fault)}</h4><p>{as_html(story.changed)}</p>{story.question.to_html()}"
                f"<details><summary>What happens, and why</summary>{story.question.answers_to_html()}"
                f"<p><b>{html.escape(story.finding)}.</b> {html.escape(self._numbers(fault, True))}</p>"
                f"<p>{as_html(story.diagnosis)}</p></details>"
            )
        return "".join(parts)

    def overview(self) -> tuple[str, str]:
        """A panel a fault with its first measure: the PNG in base64, and the picture in words."""
        figure = Figure(figsize=(8.6, 4.4), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (fault, what) in zip(figure.subplots(2, -(-len(FAULTS) // 2)).ravel(), FAULTS.items()):
            self._panel(axes, fault, what.measures[0], True, [])
            axes.set_ylabel(axes.get_title(loc="left"), fontsize=8)
            axes.set_title(fault, loc="left", fontsize=9, fontweight="bold")
            axes.tick_params(labelsize=8)
        _legend(figure)
        alt = "Eight small figures of healthy and broken runs. " + " ".join(f"{s.finding}." for s in stories().values())
        return base64.b64encode(png(figure)).decode(), alt


@contextmanager
def _interruptible() -> Iterator[str]:
    """Inside the `with`, an interrupt of the kernel raises KeyboardInterrupt; yields how to stop, in words.

    A kernel may ignore interrupts while it handles a widget's message, since no cell is running. Nothing helps where a
    callback has a thread of its own, which only newer kernels do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield "It takes less than a minute. An interrupt does not reach it here; to stop, restart the kernel."
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield "To stop, interrupt the kernel."
    finally:
        signal.signal(signal.SIGINT, before)


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False, fontsize=8)


def _line(axes: Axes, looks: list[Look], measure: str, **style: Any) -> None:
    found = [(look["step"], look[measure]) for look in looks if look.get(measure) is not None]
    if measure == "accuracy":  # before the first step nothing is ranked yet
        found = [(step, value) for step, value in found if step > 0]
    if found:
        axes.plot(*zip(*found), **style)


def _span(stored: Stored, measure: str, step: int) -> str:
    """A measure's lowest and highest value over seeds at a step; a dash where it is not known there."""
    values = [look[measure] for seed in SEEDS for look in stored.looks(seed) if look["step"] == step]
    if None in values:
        return "–"
    low, high = map(_number, (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    """Three digits; what rounding has left of a 0, such as the 1.6e-07 nats of a policy that has not moved, is 0."""
    return "0" if abs(value) < 1e-5 else f"{value:.3g}"


LAB = BreakIt
