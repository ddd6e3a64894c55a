"""The best policy for its price: where probability goes as a nat of KL gets cheaper."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_course.experiments import load_result
from rlhf_course.kl import exact_kl
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

#: The seed whose reward model scores one fact told four times the highest: what that leads to can be seen.
_SEED = 1
_LOWEST, _HIGHEST = -2.5, 1  # of β, as powers of ten
_PRICES = torch.logspace(_LOWEST, _HIGHEST, 141, dtype=torch.float64)


class TiltedPolicy(Lab):
    """A slider for β; the eight answers' probabilities on the left, what the policy earns over its KL on the right."""

    size = (7.6, 3.8)

    def __init__(self):
        rows = load_result("kl.answers").where(seed=_SEED)
        self.names = [row["kind"] for row in rows]
        columns = ("ref_logp", "reward", "gold")
        self.ref_logps, self.rewards, self.gold = torch.tensor(
            [[row[name] for name in columns] for row in rows], dtype=torch.float64
        ).T
        super().__init__()

    def controls(self) -> dict[str, ipywidgets.Widget]:
        return {
            "beta": ipywidgets.FloatLogSlider(
                value=0.3,
                min=_LOWEST,
                max=_HIGHEST,
                step=0.05,
                description="β",
                readout_format=".3f",
                continuous_update=False,
            )
        }

    def draw(self, figure: Figure, beta: float) -> str:
        policy, kl, score, gold = self._best(beta)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        self._draw_answers(left, policy)
        left.set_title(f"β = {beta:.3g}: {kl:.2f} nats away", loc="left", fontsize=11)
        curve = [self._best(price)[1:] for price in _PRICES.tolist()]
        distances, scores, golds = zip(*curve)
        right.plot(distances, scores, color=COLOURS["reward model"], label="the reward model's score")
        right.plot(distances, golds, "--", color=COLOURS["gold"], label="gold, the truth")
        right.plot([kl, kl], [score, gold], "o", color=COLOURS["labels"])
        right.set_title(f"score {score:.2f}, gold {gold:.2f}", loc="left", fontsize=11)
        right.set_xlabel("KL from the reference (nats)")
        right.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        first = int(policy.argmax())
        return (
            f"β = {beta:.3g}: the best policy for this price is {kl:.2f} nats from the reference. Its expected score "
            f"is {score:.2f}, its expected gold reward {gold:.2f}. The likeliest answer, “{self.names[first]}”, "
            f"has probability {policy[first]:.2f}; the reference gives it {self.ref_logps[first].exp():.2g}."
        )

    def _best(self, beta: float) -> tuple[torch.Tensor, float, float, float]:
        """π* for a β: its probabilities, its KL, its expected score and its expected gold."""
        logps = (self.ref_logps + self.rewards / beta).log_softmax(0)
        policy = logps.exp()
        return (
            policy,
            exact_kl(logps, self.ref_logps).item(),
            (policy * self.rewards).sum().item(),
            (policy * self.gold).sum().item(),
        )

    def _draw_answers(self, axes: Axes, policy: torch.Tensor) -> None:
        order = self.rewards.argsort().tolist()  # the highest score on top
        above, below = ([place + shift for place in range(len(order))] for shift in (0.2, -0.2))
        axes.barh(above, policy[order].tolist(), 0.4, color=COLOURS["ppo"], label="best policy for this β")
        axes.barh(below, self.ref_logps.exp()[order].tolist(), 0.4, color=COLOURS["sft"], label="reference (SFT)")
        labels = [f"{self.names[i]}  ({self.rewards[i]:.2f})" for i in order]
        axes.set_yticks(range(len(order)), labels, fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_xlabel("probability, by answer (and its score)")
        axes.legend(frameon=False, fontsize=8, loc="lower right")


LAB = TiltedPolicy
