"""Two scores, one probability, one loss: what a pair asks of a reward model."""

import ipywidgets
import torch
from matplotlib.figure import Figure

from rlhf_course.learn.labs.base import Lab
from rlhf_course.losses import reward_loss
from rlhf_course.plots import COLOURS

_MODEL, _VOTE = COLOURS["reward model"], COLOURS["labels"]


class BradleyTerry(Lab):
    """Sliders for the two scores; P, the loss and its gradient over their gap."""

    size = (7.6, 3.4)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        # The worked example of lesson 03: 3.7 for the clear answer, 2.1 for the one in jargon.
        return {"chosen": _slider(3.7, "chosen"), "rejected": _slider(2.1, "rejected")}

    def draw(self, figure: Figure, chosen: float, rejected: float) -> str:
        gaps = torch.linspace(-8, 8, 321, requires_grad=True)
        losses = reward_loss(gaps, torch.zeros_like(gaps), reduction="none")
        pulls = -torch.autograd.grad(losses.sum(), gaps)[0]
        gap = chosen - rejected
        probability = torch.sigmoid(torch.tensor(gap)).item()
        loss = reward_loss(torch.tensor([chosen]), torch.tensor([rejected])).item()
        x = gaps.detach().numpy()

        left, right = figure.subplots(1, 2)
        left.plot(x, gaps.detach().sigmoid().numpy(), color=_MODEL)
        left.plot([gap], [probability], "o", color=_VOTE)
        left.set_title(f"A gap of {gap:+.1f} is a preference of {100 * probability:.1f} %")
        left.set_ylabel("P(chosen ≻ rejected)")
        right.plot(x, losses.detach().numpy(), color=_MODEL, label="loss (nats)")
        right.plot(x, pulls.numpy(), "--", color=_VOTE, label="pull on the gap, −d loss / d gap")
        right.plot([gap, gap], [loss, 1 - probability], "o", color=_VOTE)
        right.set_title(f"It costs {loss:.3f} and pulls with {1 - probability:.3f}")
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("gap: chosen score − rejected score")
            axes.set_xticks(range(-8, 9, 4))
            axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
        return (
            f"Scores {chosen:.1f} and {rejected:.1f}: a gap of {gap:+.1f}. The model expects the chosen "
            f"answer to win {100 * probability:.1f} % of the time. The pair costs {loss:.3f} nats and "
            f"pulls the gap up with {1 - probability:.3f}, the probability of the vote going the other "
            f"way."
        )


def _slider(value: float, name: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=-4, max=4, step=0.1, description=name, readout_format=".1f", continuous_update=False
    )


LAB = BradleyTerry
