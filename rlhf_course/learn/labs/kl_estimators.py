"""Three ways to estimate a KL divergence from samples: which is off, and which is noisy."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.kl import kl_estimate
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS
from rlhf_course.seeding import torch_stream

_NAMES = ("k1", "k2", "k3")
_COLOURS = (COLOURS["base"], COLOURS["kto"], COLOURS["dpo"])
_BATCHES = 400


class KLEstimators(Lab):
    """Sliders for the distance of two bell curves and for the batch; a cloud of batch means for each estimator.

    π is a normal distribution with its centre at the distance, π_ref one around 0, both of width 1. Then KL(π‖π_ref) is
    half the distance squared.
    """

    size = (7.6, 3.6)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        return {
            "distance": ipywidgets.FloatSlider(
                value=0.5, min=0.1, max=2.0, step=0.1, description="distance", continuous_update=False
            ),
            "samples": ipywidgets.ToggleButtons(options=[4, 16, 64, 256], value=16, description="samples"),
        }

    def draw(self, figure: Figure, distance: float, samples: int) -> str:
        truth = distance**2 / 2
        noise = torch.randn(_BATCHES, samples, generator=torch_stream(0, "clouds"), dtype=torch.float64)
        x = noise + distance
        logps, ref_logps = -((x - distance) ** 2) / 2, -(x**2) / 2
        means = {name: kl_estimate(logps, ref_logps, name).mean(dim=1) for name in _NAMES}

        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        self._draw_clouds(left, means, truth)
        spread = {name: means[name].std().item() for name in _NAMES}
        left.set_title(
            f"{samples} samples: k1 is off by {spread['k1']:.2f}, k3 by {spread['k3']:.2f}", loc="left", fontsize=11
        )
        self._draw_curves(right)
        found = "; ".join(
            f"{name} averages {means[name].mean():.3f}, and a batch is off by {spread[name]:.3f} either way"
            for name in _NAMES
        )
        below = (means["k1"] < 0).double().mean().item()
        return (
            f"The exact KL is {truth:.3f} nats. Over {_BATCHES} batches of {samples} samples, {found}. "
            f"{100 * below:.0f} % of the batches have a negative k1; k2 and k3 are never negative."
        )

    def _draw_clouds(self, axes: Axes, means: dict[str, torch.Tensor], truth: float) -> None:
        jitter = 0.5 * torch.rand(_BATCHES, generator=torch_stream(0, "jitter")) - 0.25
        for place, (name, colour) in enumerate(zip(_NAMES, _COLOURS)):
            axes.scatter(place + jitter, means[name], s=6, color=colour, alpha=0.5, linewidths=0)
            axes.plot([place - 0.35, place + 0.35], [means[name].mean()] * 2, color=colour, linewidth=2.5)
        axes.axhline(truth, color=COLOURS["labels"], linestyle=":")
        axes.annotate("exact KL", (2.4, truth), (0, 3), textcoords="offset points", fontsize=8, ha="left")
        axes.set_xlim(-0.5, 2.9)
        axes.set_xticks(range(len(_NAMES)), _NAMES)
        axes.set_ylabel("mean of a batch (nats)")
        axes.spines[["top", "right"]].set_visible(False)

    def _draw_curves(self, axes: Axes) -> None:
        d = torch.linspace(-2, 2, 201, dtype=torch.float64)
        for name, colour, dash in zip(_NAMES, _COLOURS, ("-", "--", "-")):
            axes.plot(d, kl_estimate(d, torch.zeros_like(d), name), dash, color=colour, label=name)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_ylim(-2.2, 4.6)
        axes.set_title("what one sample adds", loc="left", fontsize=11)
        axes.set_xlabel("d = log π − log π_ref of the sample")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)


LAB = KLEstimators
