"""How hard DPO pulls on a pair, by what the policy already makes of it, and what that does to the two answers."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.learn.labs.base import Lab
from rlhf_course.losses import dpo_loss
from rlhf_course.plots import COLOURS

_FARTHEST = 30  # nats of margin on either side
_PULL, _PAIR = COLOURS["dpo"], COLOURS["labels"]


class DPOGradient(Lab):
    """Sliders for β and the pair's margin; its weight on the left, the push on each answer on the right."""

    size = (7.6, 3.6)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        # The worked example: at β = 0.3, a margin of 5.3 nats is a gap of 1.6 in implicit reward.
        return {
            "margin": ipywidgets.FloatSlider(
                value=5.3,
                min=-_FARTHEST,
                max=_FARTHEST,
                step=0.1,
                description="margin",
                readout_format=".1f",
                continuous_update=False,
            ),
            "beta": ipywidgets.FloatLogSlider(
                value=0.3, min=-2, max=1, step=0.02, description="β", readout_format=".2f", continuous_update=False
            ),
        }

    def draw(self, figure: Figure, margin: float, beta: float) -> str:
        weight = _weights(torch.tensor([margin]), beta).item()
        gap = beta * margin
        vote = torch.sigmoid(torch.tensor(gap)).item()
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        margins = torch.linspace(-_FARTHEST, _FARTHEST, 601)
        left.plot(margins, _weights(margins, beta) / beta, color=_PULL, zorder=3, label=f"β = {beta:.2f}")
        for other, dash in ((0.1, ":"), (0.3, "--"), (1.0, "-")):
            left.plot(margins, _weights(margins, other) / other, dash, color="0.75", linewidth=1, label=f"β = {other}")
        left.legend(frameon=False, fontsize=8, loc="upper right")
        left.plot([margin], [weight / beta], "o", color=_PAIR, zorder=4)
        left.set_title(f"Margin {margin:+.1f}: {100 * weight / beta:.0f} % of the full pull", loc="left")
        left.set_xlabel("margin: log-ratio of chosen − log-ratio of rejected (nats)")
        left.set_ylabel("pull on the pair, as a share of β")
        left.set_ylim(-0.03, 1.03)
        self._draw_pushes(right, weight, beta)
        for axes in (left, right):
            axes.title.set_fontsize(10)
            axes.spines[["top", "right"]].set_visible(False)
        return (
            f"β = {beta:.2f} and a margin of {margin:+.1f} nats: the implicit rewards are {gap:+.2f} apart, so the "
            f"policy expects the chosen answer to win {100 * vote:.1f} % of the time. The pair pulls with "
            f"β·σ(−β·margin) = {weight:.3f}, {100 * weight / beta:.0f} % of the most it can: the chosen answer's "
            f"log-probability is pushed up by that much, the rejected one's down by as much."
        )

    def _draw_pushes(self, axes: Axes, weight: float, beta: float) -> None:
        colours = (_PULL, COLOURS["base"])
        axes.bar(["chosen", "rejected"], [weight, -weight], 0.5, color=colours)
        for x, push in enumerate((weight, -weight)):
            offset, place = ((0, 4), "bottom") if push > 0 else ((0, -4), "top")
            axes.annotate(f"{push:+.3f}", (x, push), offset, textcoords="offset points", ha="center", va=place)
        for limit in (beta, -beta):
            axes.axhline(limit, color="0.6", linestyle=":", linewidth=1)
        axes.text(1.45, beta, "β ", ha="right", va="bottom", color="0.4")
        axes.text(-0.45, -beta, " −β", ha="left", va="top", color="0.4")
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_xlim(-0.5, 1.5)
        axes.set_ylim(-1.3 * beta, 1.3 * beta)
        axes.set_title("Up and down, equally hard", loc="left")
        axes.set_ylabel("push on log π")


def _weights(margins: torch.Tensor, beta: float) -> torch.Tensor:
    """How hard each pair's loss pulls its margin up, −d loss / d margin."""
    margins = margins.clone().requires_grad_()
    zero = torch.zeros_like(margins)
    loss = dpo_loss(margins, zero, zero, zero, beta, reduction="sum")
    return 0.0 - torch.autograd.grad(loss, margins)[0]  # never −0


LAB = DPOGradient
