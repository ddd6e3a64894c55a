"""One answer of six tokens and λ: from the critic's next guess alone to the rewards alone."""

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rlhf_course.advantages import gae, kl_shaped_rewards
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

# An example in round numbers. The critic takes heart at "linked", the word that makes the fact right.
_WORDS = ("it", "is", "linked", "particles", ".", "<eos>")
_LOG_RATIOS = torch.tensor([[0.0, 0.5, 2.0, 0.5, 0.0, -0.5]])
_VALUES = torch.tensor([[1.0, 1.0, 0.8, 2.0, 2.1, 2.0]])
_BETA = 0.1
_MASK = torch.ones(1, len(_WORDS))
_PPO = COLOURS["ppo"]


class GAE(Lab):
    """Sliders for λ and for the score at the end; rewards and values on the left, each token's advantage right."""

    size = (7.6, 3.7)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        return {
            "lam": _slider(0.95, 0.0, 1.0, "λ", 0.05, ".2f"),
            "score": _slider(2.5, -1.0, 4.0, "score", 0.1, ".1f"),
        }

    def draw(self, figure: Figure, lam: float, score: float) -> str:
        rewards = kl_shaped_rewards(torch.tensor([score]), _LOG_RATIOS, torch.zeros_like(_LOG_RATIOS), _MASK, _BETA)
        found, one_step, monte_carlo = (_advantages(rewards, x) for x in (lam, 0.0, 1.0))
        left, right = figure.subplots(1, 2)
        self._draw_answer(left, rewards[0])
        self._draw_advantages(right, found, one_step, monte_carlo)
        left.set_title(f"Paid and expected, score {score:.1f}".replace("-", "−"), loc="left")
        right.set_title(f"λ = {lam:.2f}: the first token gets {_signed(found[0])}", loc="left")
        for axes in (left, right):
            axes.title.set_fontsize(10)
            axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
            axes.set_xticks(range(len(_WORDS)), _WORDS, fontsize=8, rotation=20)
            axes.spines[["top", "right"]].set_visible(False)
        told = ", ".join(f"“{word}” {_signed(a)}" for word, a in zip(_WORDS, found.tolist()))
        trust = "the critic's next value alone" if lam == 0 else "the rewards alone" if lam == 1 else "some of both"
        return (
            f"λ = {lam:.2f}, {trust}. Advantages: {told}. λ = 0 would give the first token {_signed(one_step[0])}, "
            f"λ = 1 {_signed(monte_carlo[0])}. Were the score higher by 1, the first token would get "
            f"{lam ** (len(_WORDS) - 1):.2f} more, the last one 1.00."
        )

    def _draw_answer(self, axes: Axes, rewards: Tensor) -> None:
        axes.bar(
            range(len(_WORDS)),
            rewards.tolist(),
            0.5,
            color=COLOURS["reward model"],
            label="reward: −β·log-ratio, score",
        )
        axes.plot(range(len(_WORDS)), _VALUES[0], "o-", color=_PPO, label="value, before the token")
        axes.set_ylim(-1.5, 5.6)
        axes.set_ylabel("units of the score")
        axes.legend(frameon=False, fontsize=8, loc="upper left")

    def _draw_advantages(self, axes: Axes, found: Tensor, one_step: Tensor, monte_carlo: Tensor) -> None:
        axes.bar(range(len(_WORDS)), found.tolist(), 0.5, color=_PPO, alpha=0.75)
        axes.plot(
            range(len(_WORDS)), one_step, "v", color="0.35", markerfacecolor="white", label="λ = 0: by the critic"
        )
        axes.plot(range(len(_WORDS)), monte_carlo, "_", markersize=14, color="black", label="λ = 1: by what was paid")
        axes.set_ylim(-4.2, 4.6)
        axes.set_ylabel("advantage")
        axes.legend(frameon=False, fontsize=8, loc="upper right")


def _advantages(rewards: Tensor, lam: float) -> Tensor:
    return gae(rewards, _VALUES, _MASK, 1.0, lam)[0][0]


def _signed(x: float | Tensor) -> str:
    return f"{float(x):+.2f}".replace("-", "−")


def _slider(value: float, low: float, high: float, name: str, step: float, shown: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=name, readout_format=shown, continuous_update=False
    )


LAB = GAE
