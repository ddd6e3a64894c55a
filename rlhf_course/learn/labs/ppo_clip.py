"""PPO's clip in its four quadrants: the sign of the advantage, the side of the ratio, and where the push ends."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rlhf_course.learn.labs.base import Lab
from rlhf_course.losses.ppo import clipped_objective
from rlhf_course.plots import COLOURS

_LOW, _HIGH, _MOST = 0.4, 1.8, 2.0  # the ratios shown, and the largest advantage


class PPOClip(Lab):
    """Sliders for a token's ratio, its advantage and ε; its objective on the left, the four quadrants on the right."""

    size = (7.6, 3.8)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        # The clear answer of the worked example, +0.8, whose token has already become likelier.
        return {
            "ratio": _slider(1.35, _LOW, _HIGH, "ratio"),
            "advantage": _slider(0.8, -_MOST, _MOST, "advantage", step=0.1),
            "epsilon": _slider(0.2, 0.05, 0.5, "ε"),
        }

    def draw(self, figure: Figure, ratio: float, advantage: float, epsilon: float) -> str:
        objective, push = _objective(torch.tensor([ratio]), advantage, epsilon)
        objective, push = objective.item(), push.item()
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        self._draw_objective(left, ratio, objective, advantage, epsilon)
        self._draw_quadrants(right, ratio, advantage, epsilon, on=push != 0)
        verdict = "no push" if push == 0 else f"pushed {'up' if push > 0 else 'down'}"
        left.set_title(f"Ratio {ratio:.2f}, advantage {_signed(advantage)}: {verdict}", loc="left")
        right.set_title(f"Gradient {'off' if push == 0 else 'on'} here", loc="left")
        for axes in (left, right):
            axes.title.set_fontsize(10)
            axes.spines[["top", "right"]].set_visible(False)

        moved = "likelier than" if ratio > 1 else "rarer than" if ratio < 1 else "as likely as"
        began = f"A token with advantage {_signed(advantage)} is {moved} when it was sampled, ratio {ratio:.2f}. "
        if advantage == 0:
            return began + "It did neither better nor worse than expected: there is nothing to push."
        if push == 0:
            bound = 1 + epsilon if advantage > 0 else 1 - epsilon
            return began + (
                f"It has already moved the way its advantage asks, past {bound:.2f}: the gradient is off, and it gains "
                "nothing by going on."
            )
        return began + (
            f"The gradient is on: the loss pushes its log-probability {'up' if push > 0 else 'down'} with "
            f"ratio · |advantage| = {abs(push):.2f}."
        )

    def _draw_objective(self, axes: Axes, ratio: float, objective: float, advantage: float, epsilon: float) -> None:
        ratios = torch.linspace(_LOW, _HIGH, 281)
        axes.plot(ratios, ratios * advantage, ":", color="0.5", label="ratio · advantage")
        clipped, _ = _objective(ratios, advantage, epsilon)
        axes.plot(ratios, clipped, color=COLOURS["ppo"], label="with the clip")
        axes.axvspan(1 - epsilon, 1 + epsilon, color="0.94", zorder=0)
        axes.plot([ratio], [objective], "o", color=COLOURS["labels"], zorder=4)
        axes.set_xlim(_LOW, _HIGH)
        axes.set_ylim(-_MOST * _HIGH, _MOST * _HIGH)
        axes.set_xlabel("ratio π/π_old")
        axes.set_ylabel("what is maximised")
        axes.legend(frameon=False, fontsize=8, loc="upper left" if advantage < 0 else "lower left")

    def _draw_quadrants(self, axes: Axes, ratio: float, advantage: float, epsilon: float, on: bool) -> None:
        for low, high, bottom in ((1 + epsilon, _HIGH, 0.0), (_LOW, 1 - epsilon, -_MOST)):
            axes.fill_between([low, high], bottom, bottom + _MOST, color="0.85", lw=0)
            axes.text((low + high) / 2, bottom + _MOST / 2, "off", ha="center", va="center", fontsize=10)
        axes.text(0.6, 1.5, "good, rarer:\npushed up", ha="center", fontsize=8)
        axes.text(1.5, -1.9, "bad, likelier:\npushed down", ha="center", fontsize=8)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.axvline(1, color="0.4", linewidth=0.8)
        for bound in (1 - epsilon, 1 + epsilon):
            axes.axvline(bound, color="0.6", linestyle=":", linewidth=1)
        face = COLOURS["ppo"] if on else "white"
        axes.plot([ratio], [advantage], "o", markersize=9, color=face, markeredgecolor=COLOURS["labels"], zorder=4)
        axes.set_xlim(_LOW, _HIGH)
        axes.set_ylim(-_MOST - 0.1, _MOST + 0.1)
        axes.set_xlabel("ratio π/π_old")
        axes.set_ylabel("advantage")


def _objective(ratios: Tensor, advantage: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """What PPO maximises for a token at each ratio, and how hard it pushes the token's log-probability up."""
    logps = ratios.log().requires_grad_()
    advantages, one = torch.full_like(ratios, advantage), torch.ones_like(ratios, dtype=torch.bool)
    objective = -clipped_objective(logps.exp(), advantages, one, epsilon, epsilon)
    (push,) = torch.autograd.grad(objective.sum(), logps)
    return objective.detach(), push


def _signed(x: float) -> str:
    return f"{x:+.1f}".replace("-", "−") if x else "0"


def _slider(value: float, low: float, high: float, name: str, step: float = 0.05) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        readout_format=".2f" if step < 0.1 else ".1f",
        continuous_update=False,
    )


LAB = PPOClip
