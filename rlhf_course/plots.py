"""One look for every figure of the course: a colour a method, a title that says what was found, a text for those who
do not see it.

    with figure("The model ranks better than its labels", alt="Accuracy over flips; …") as axes:
        axes.plot(x, y, color=COLOURS["reward model"])

Colours are Okabe and Ito's, with some of Paul Tol's, both made for colour-blind eyes. A method keeps its colour in all
lessons, and lines that share a figure differ in their marker or dash as well.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

#: Every method and every yardstick of the course.
COLOURS = {
    "base": "#7F7F7F",
    "sft": "#56B4E9",
    "labels": "#000000",
    "reward model": "#0072B2",
    "gold": "#E69F00",
    "ppo": "#D55E00",
    "dpo": "#009E73",
    "grpo": "#CC79A7",
    "ipo": "#332288",
    "kto": "#999933",
    "best-of-n": "#882255",
    "rlaif": "#661100",
    "online dpo": "#44AA99",
}

STYLE = Path(__file__).resolve().parent / "course.mplstyle"
#: Dots an inch of the stored picture: twice what a plain screen shows, sharp on a retina one.
DPI = 200
_SHOWN_DPI = 100


@contextmanager
def figure(finding: str, alt: str, *, columns: int = 1, size: tuple[float, float] = (7.6, 3.4)) -> Iterator[Any]:
    """A figure in the course's style, displayed when the block ends.

    Args:
        finding: the title, a sentence that says what the figure shows.
        alt: the figure in words, for screen readers: axes, lines, and what they do.
        columns: how many axes stand side by side; with more than one, a tuple of axes is given.
        size: width and height in inches, 100 dots of a plain screen each.
    """
    if not finding.strip() or not alt.strip():
        raise ValueError("a figure must have a finding and an alt text, got an empty one")
    with matplotlib.style.context(STYLE):
        drawn = Figure(figsize=size, dpi=_SHOWN_DPI)
        FigureCanvasAgg(drawn)
        axes = drawn.subplots(1, columns)
        if columns == 1:
            axes.set_title(finding)
        else:
            drawn.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
        yield axes if columns == 1 else tuple(axes)
        show(drawn, alt)


def show(drawn: Figure, alt: str) -> None:
    """Display a matplotlib figure: opaque, sharp on any screen, with an alt text."""
    from IPython.display import display

    width = round(drawn.get_figwidth() * _SHOWN_DPI)
    picture = base64.b64encode(png(drawn)).decode()
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)


def png(drawn: Figure) -> bytes:
    """A figure as an opaque PNG of `DPI` dots an inch; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return in_few_colours(buffer.getvalue())


def in_few_colours(picture: bytes) -> bytes:
    """The same PNG with 256 colours, which no eye tells from all of them: a third of the bytes in a notebook."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, "png")
    return buffer.getvalue()


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """The mean over `window` neighbours of each value, fewer at the ends: a noisy curve's course, as long as it was."""
    values = np.asarray(values, float)
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
