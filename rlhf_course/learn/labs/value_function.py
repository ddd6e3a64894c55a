"""What a gain and a loss are worth in KTO: value and slope around a point of reference, after prospect theory."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.learn.labs.base import Lab
from rlhf_course.losses import kto_loss
from rlhf_course.plots import COLOURS

_FARTHEST = 20  # nats of log-ratio on either side
_UP, _DOWN = COLOURS["kto"], COLOURS["base"]


class ValueFunction(Lab):
    """Sliders for an answer's log-ratio, z, β and both λ; value on the left, pull on log π on the right."""

    size = (7.6, 3.8)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        return {
            "log_ratio": _slider(2.0, -_FARTHEST, _FARTHEST, 0.5, "log-ratio r"),
            "z": _slider(4.0, 0, 15, 0.5, "z"),
            "beta": ipywidgets.FloatLogSlider(
                value=0.3, min=-2, max=0.5, step=0.05, description="β", readout_format=".2f", continuous_update=False
            ),
            "desirable": _slider(1.0, 0, 3, 0.1, "λ_D (up)"),
            "undesirable": _slider(1.0, 0, 3, 0.1, "λ_U (down)"),
        }

    def draw(
        self, figure: Figure, log_ratio: float, z: float, beta: float, desirable: float, undesirable: float
    ) -> str:
        settings = z, beta, desirable, undesirable
        ratios = torch.linspace(-_FARTHEST, _FARTHEST, 401)
        here = torch.tensor([log_ratio])
        left, right = figure.subplots(1, 2)
        found = {}
        for up, colour, dash, name in ((True, _UP, "-", "thumbs up"), (False, _DOWN, "--", "thumbs down")):
            values, pulls = _value_and_pull(ratios, up, *settings)
            value, pull = (x.item() for x in _value_and_pull(here, up, *settings))
            left.plot(ratios, values, dash, color=colour, label=name)
            left.plot(here, [value], "o", color=colour)
            right.plot(ratios, pulls, dash, color=colour)
            right.plot(here, [pull], "o", color=colour)
            found[up] = value, pull
        for axes, title, what in (
            (left, "A gain or a loss is felt against z", "value"),
            (right, f"The pull at r = {log_ratio:+.1f}: {_share(log_ratio, z, beta)} of that at z", "pull on log π"),
        ):
            _finish(axes, title, what, z)
        # Above the curves, which never exceed the larger λ.
        left.set_ylim(-0.05, 1.35 * max(desirable, undesirable, 0.1))
        left.legend(framealpha=1, edgecolor="white", fontsize=8, loc="upper left", ncols=2)
        (value_up, pull_up), (value_down, pull_down) = found[True], found[False]
        place = "above" if log_ratio > z else "below" if log_ratio < z else "at"
        gap = f"{abs(log_ratio - z):.1f} nats {place} z" if log_ratio != z else "exactly z"
        return (
            f"A log-ratio of {log_ratio:+.1f} is {gap}. With thumbs up the answer has the value {value_up:.3f} of at "
            f"most {desirable:.1f}, and its log-probability is pulled by {pull_up:+.4f}; with thumbs down its value is "
            f"{value_down:.3f} of at most {undesirable:.1f}, and the pull is {pull_down:+.4f}. "
            f"{_aversion(desirable, undesirable)}"
        )


def _value_and_pull(ratios: torch.Tensor, up: bool, z: float, beta: float, desirable: float, undesirable: float):
    """λ − the loss of each answer, and how its loss pulls at log π: (N,) each."""
    ratios = ratios.clone().requires_grad_()
    weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    labels = torch.full(ratios.shape, up)
    losses = kto_loss(ratios, torch.zeros_like(ratios), labels, z, beta, **weights, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), ratios)
    return (desirable if up else undesirable) - losses.detach(), 0 - slope


def _share(log_ratio: float, z: float, beta: float) -> str:
    """The slope of the sigmoid here, as a share of its slope at z."""
    s = torch.sigmoid(torch.tensor(beta * (log_ratio - z))).item()
    return f"{100 * 4 * s * (1 - s):.0f} %"


def _aversion(desirable: float, undesirable: float) -> str:
    if desirable == undesirable:
        return "Both kinds weigh the same: there is no loss aversion in this."
    heavier, times = ("down", undesirable / max(desirable, 1e-9)), ("up", desirable / max(undesirable, 1e-9))
    kind, factor = heavier if undesirable > desirable else times
    if min(desirable, undesirable) == 0:
        return f"Only thumbs {kind} count."
    meaning = "that is loss aversion" if kind == "down" else "gains weigh more than losses"
    return f"Thumbs {kind} weigh {factor:.1f} times as much: {meaning}."


def _finish(axes: Axes, title: str, what: str, z: float) -> None:
    axes.axvline(z, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(" z", (z, 0), xycoords=("data", "axes fraction"), va="bottom", color="0.4")
    axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("log-ratio r of the answer (nats)")
    axes.set_ylabel(what)
    axes.spines[["top", "right"]].set_visible(False)


def _slider(value: float, low: float, high: float, step: float, name: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=name, readout_format=".1f", continuous_update=False
    )


LAB = ValueFunction
