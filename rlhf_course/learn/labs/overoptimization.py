"""Four ways to push against a reward model, each with its own brake: where the truth turns, in stored runs."""

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.experiments import Table, load_result
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

METHODS = {"mean": "mean", "lowest (WCO)": "wco", "mean − variance (UWO)": "uwo"}


class Overoptimization(Lab):
    """Gold over √KL for PPO at a β, best of n, GRPO against a reward model of so many rankings, and an ensemble."""

    size = (7.6, 4.6)

    def __init__(self):
        self.price = load_result("pipeline.kl_price")
        self.curves = load_result("overoptimization.curves")
        self.models = load_result("overoptimization.reward_models")
        self.ensembles = load_result("overoptimization.ensemble_size")
        super().__init__()

    def controls(self) -> dict[str, ipywidgets.Widget]:
        def buttons(values, value, description):
            return ipywidgets.ToggleButtons(
                options=[(f"{x:,}" if isinstance(x, int) else f"{x:g}", x) for x in values],
                value=value,
                description=description,
                style={"button_width": "auto", "description_width": "110px"},
            )

        def found(table: Table, column: str, **where):
            return list(dict.fromkeys(table.values(column, **where)))

        counts = found(self.curves, "step", method="best of n")
        return {
            "beta": buttons(found(self.price, "beta"), 0.0, "β of PPO"),
            "n": buttons(counts, counts[-1], "best of n"),
            "rankings": buttons(found(self.models, "value", varied="rankings"), 300, "rankings"),
            "members": buttons(found(self.ensembles, "members"), 4, "ensemble of"),
            "method": ipywidgets.Dropdown(
                options=list(METHODS.items()),
                value="wco",
                description="taken is their",
                style={"description_width": "110px"},
            ),
        }

    def draw(self, figure: Figure, beta: float, n: int, rankings: int, members: int, method: str) -> str:
        panels = figure.subplots(2, 2).ravel()
        way = "mean" if members == 1 else method
        ensemble = {"members": members, "method": way}
        told = [
            _panel(panels[0], self.price, "ppo", {"beta": beta}, f"PPO at β = {beta:g}", "beta"),
            _panel(panels[1], self.curves, "best-of-n", {"method": "best of n"}, f"Best of {n}", last=n),
            _panel(
                panels[2],
                self.models,
                "grpo",
                {"varied": "rankings", "value": rankings},
                f"GRPO, {rankings:,} rankings",
                "value",
            ),
            _panel(
                panels[3],
                self.ensembles,
                "best-of-n",
                ensemble,
                f"{members} noisy judges, best of {n}" if members > 1 else f"1 noisy judge, best of {n}",
                last=n,
            ),
        ]
        for axes in panels:
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.set_xlabel("√KL from the SFT model (√nats)")
            axes.set_ylabel("reward gained")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, fontsize=8)
        return " ".join(told)


def _panel(
    axes: Axes, table: Table, colour: str, chosen: dict, name: str, varied: str | None = None, last: int | None = None
) -> str:
    """Proxy and gold of one setting, counted from the SFT model; gold of the others in grey. Returns a sentence."""
    where = {key: value for key, value in chosen.items() if key != varied}
    for number, value in enumerate(dict.fromkeys(table.values(varied, **where)) if varied else ()):
        label = None if number else "gold, the other settings"
        axes.plot(*_path(table, "gold", {**where, varied: value}), color="0.82", linewidth=1, zorder=0, label=label)
    proxy, gold = (_path(table, column, chosen, last) for column in ("proxy", "gold"))
    axes.plot(*proxy, color=COLOURS["reward model"], label="the reward model's score")
    axes.plot(*gold, "--", color=COLOURS["gold"], label="gold, the truth")
    peak, end = int(np.argmax(gold[1])), len(gold[1]) - 1
    turned = gold[1][peak] - gold[1][end] > 0.1
    if turned:
        axes.plot(gold[0][peak], gold[1][peak], "o", color=COLOURS["gold"])
    verdict = f"gold peaks at {gold[0][peak] ** 2:.1f} nats" if turned else "gold has not turned"
    axes.set_title(f"{name}: {verdict}", loc="left", fontsize=9, color=COLOURS[colour])
    return (
        f"{name}, mean of three seeds: {gold[0][end] ** 2:.1f} nats away, score {proxy[1][end]:+.2f}, gold "
        f"{gold[1][end]:+.2f}, {verdict}.".replace("-", "−")
    )


def _path(table: Table, column: str, where: dict, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """√KL and what a column has gained since the first look, means over seeds."""
    steps = [step for step in dict.fromkeys(table.values("step", **where)) if last is None or step <= last]
    kl = np.array([np.mean(table.values("kl", step=step, **where)) for step in steps])
    values = np.array([np.mean(table.values(column, step=step, **where)) for step in steps])
    return np.sqrt(kl.clip(min=0)), values - values[0]


LAB = Overoptimization
