"""Four answers to one prompt: drag their rewards, and see whom the group praises and whom it blames."""

import ipywidgets
import torch
from matplotlib.figure import Figure

from rlhf_course.advantages import group_advantages, rloo_advantages
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

_SCALES = {
    "GRPO: divided by the spread": "group",
    "Dr. GRPO: not divided": "none",
    "RLOO: against the others": "rloo",
}
_NAMES = ("first", "second", "third", "fourth")


class GroupAdvantage(Lab):
    """Sliders for the rewards of a group of four and a choice of baseline; rewards and advantages side by side."""

    size = (7.6, 3.3)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        rewards = {name: _slider(value, name) for name, value in zip(_NAMES, (2.1, 3.7, 2.6, 2.0))}
        kinds = ipywidgets.Dropdown(options=list(_SCALES.items()), description="advantage")
        return {**rewards, "kind": kinds}

    def draw(self, figure: Figure, kind: str, **rewards: float) -> str:
        values = torch.tensor([rewards[name] for name in _NAMES])
        found = rloo_advantages(values, 4) if kind == "rloo" else group_advantages(values, 4, kind)
        mean, spread = values.mean().item(), values.std().item()
        equal = bool((found == 0).all())

        left, right = figure.subplots(1, 2)
        left.bar(_NAMES, values.numpy(), color=COLOURS["reward model"])
        left.axhline(mean, color="black", linestyle="--", linewidth=1)
        left.set_title(f"Mean {mean:.2f} (dashed), spread {spread:.2f}")
        left.set_ylabel("reward")
        left.set_ylim(-1.2, 4.6)
        right.bar(_NAMES, found.numpy(), color=COLOURS["grpo"])
        best = int(found.argmax())
        right.set_title(
            "All alike: nothing is learnt" if equal else f"The {_NAMES[best]} answer gains {found[best]:.2f}"
        )
        right.set_ylabel("advantage")
        right.set_ylim(-4.4, 4.4)
        for axes in (left, right):
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        told = ", ".join(
            f"{name} {value:.1f} → {round(a, 2) + 0:+.2f}"  # + 0 makes 0 of −0
            for name, value, a in zip(_NAMES, values.tolist(), found.tolist())
        )
        end = " No answer beats another, so the step learns nothing from this prompt." if equal else ""
        return f"Rewards and advantages: {told}.{end}"


def _slider(value: float, name: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=-1, max=4.5, step=0.1, description=name, readout_format=".1f", continuous_update=False
    )


LAB = GroupAdvantage
