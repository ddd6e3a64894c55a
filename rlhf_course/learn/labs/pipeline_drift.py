"""What a nat of KL costs decides how far the policy goes: real PPO runs at several β."""

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.data.world import concept_of
from rlhf_course.experiments import Table, load_result
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS


class PipelineDrift(Lab):
    """A button a β and a slider over the steps; the drift on the left, score and truth on the right."""

    size = (7.6, 3.6)

    def __init__(self):
        self.table = load_result("pipeline.kl_price")
        super().__init__()

    def controls(self) -> dict[str, ipywidgets.Widget]:
        betas = list(dict.fromkeys(self.table.values("beta")))
        steps = sorted(set(self.table.values("step")))
        return {
            # Buttons, which Tab and Space reach in any notebook; the slider's number can be typed.
            "beta": ipywidgets.ToggleButtons(
                options=[(f"{beta:g}", beta) for beta in betas],
                value=0.0,
                description="β",
                style={"button_width": "auto"},
            ),
            "step": ipywidgets.IntSlider(
                value=steps[-1],
                min=0,
                max=steps[-1],
                step=steps[1],
                description="after step",
                continuous_update=False,
            ),
        }

    def draw(self, figure: Figure, beta: float, step: int) -> str:
        here = {"beta": beta, "step": step}
        kl, proxy, gold = (np.mean(self.table.values(column, **here)) for column in ("kl", "proxy", "gold"))
        left, right = figure.subplots(1, 2)
        self._draw_drift(left, beta)
        left.set_title(f"β = {beta:g}, step {step}: {kl:.1f} nats from SFT", loc="left", fontsize=11)
        _draw_runs(right, self.table, "proxy", beta, COLOURS["reward model"], "-", "the reward model's score")
        _draw_runs(right, self.table, "gold", beta, COLOURS["gold"], "--", "gold, the truth")
        right.set_title(f"score {proxy:+.1f}, gold {gold:+.1f}".replace("-", "−"), loc="left", fontsize=11)
        lowest, highest = self.table.span("gold")[0], self.table.span("proxy")[1]
        right.set_ylim(lowest - 0.5, highest + 0.5)
        right.legend(frameon=False, loc="lower left", fontsize=8)
        for axes in (left, right):
            axes.axvline(step, color="0.6", linewidth=0.8)
            axes.set_xlabel("step of PPO")
            axes.spines[["top", "right"]].set_visible(False)
        answer = self.table.values("answer", **here, seed=0)[0]
        asked = concept_of(self.table.settings["prompt"]).name
        return (
            f"β = {beta:g}, after step {step}, mean of three seeds: the policy is {kl:.1f} nats from the SFT model, "
            f"the reward model gives its answers {proxy:.2f}, and they are worth {gold:.2f} in truth. "
            f"To “explain {asked}” it now answers (seed 0): “{answer}”"
        )

    def _draw_drift(self, axes: Axes, beta: float) -> None:
        for other in self.widgets["beta"].options:
            xs, ys = self.table.series("step", "kl", beta=other[1])
            axes.plot(xs, ys, color="0.8", linewidth=1, zorder=0)
            axes.annotate(
                f"β {other[0]}", (xs[-1], ys[-1]), (3, 0), textcoords="offset points", fontsize=8, va="center"
            )
        _draw_runs(axes, self.table, "kl", beta, COLOURS["ppo"], "-", "")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set_ylabel("KL from the SFT model (nats an answer)")


def _draw_runs(axes: Axes, table: Table, column: str, beta: float, colour: str, line: str, label: str) -> None:
    """The mean over seeds, and each seed thinly."""
    for seed in table.settings["seeds"]:
        axes.plot(*table.series("step", column, beta=beta, seed=seed), line, color=colour, linewidth=0.8, alpha=0.5)
    axes.plot(*table.series("step", column, beta=beta), line, color=colour, label=label)


LAB = PipelineDrift
