"""Five projects side by side: what their labels, their sampling and their training cost, at prices to be changed."""

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlhf_course.costs import METHODS, PARTS, Plan, costs
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

_LOOKS = {
    "labels": {"color": COLOURS["labels"]},
    "sampling": {"color": COLOURS["sft"], "hatch": "//"},
    "training": {"color": COLOURS["reward model"]},
}


class Cost(Lab):
    """Boxes and a slider for a `costs.Plan`; stacked bars in USD, with the labels and without."""

    size = (8.2, 3.6)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        plan = Plan()
        return {
            "prompts": _whole(plan.prompts, "prompts that are labelled", 10_000_000),
            "answers_each": ipywidgets.IntSlider(
                value=plan.answers_each,
                min=2,
                max=9,
                description="answers to each",
                continuous_update=False,
                style=_STYLE,
            ),
            "human_label": _amount(plan.human_label, "a person's comparison (USD)", 1_000),
            "ai_label": _amount(plan.ai_label, "a model's verdict (USD)", 1_000),
            "gpu_hour": _amount(plan.gpu_hour, "an hour of one H100 (USD)", 1_000),
            "billions": _amount(plan.billions, "model size (billions)", 10_000),
            "tokens": _whole(plan.tokens, "tokens, prompt and answer", 1_000_000),
            "rl_answers": _whole(plan.rl_answers, "answers sampled in RL", 1_000_000_000),
        }

    def draw(self, figure: Figure, **values: float) -> str:
        found = costs(Plan(**values))
        everything, compute = figure.subplots(1, 2, sharey=True)
        _bars(everything, found, PARTS)
        _bars(compute, found, PARTS[1:])
        share = _share(found["PPO"], "labels")
        everything.set_title(f"Labels are {share} of PPO's bill", loc="left", fontsize=10)
        ppo, dpo = (_total(found[method], PARTS[1:]) for method in ("PPO", "DPO"))
        ratio = f"PPO {ppo / dpo:.1f} times DPO" if dpo else "nothing to do"
        compute.set_title(f"The computer alone: {ratio}", loc="left", fontsize=10)
        everything.invert_yaxis()
        figure.legend(*everything.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        told = "; ".join(
            f"{method} {_usd(_total(parts))} (labels {_usd(parts['labels'])}, sampling {_usd(parts['sampling'])}, "
            f"training {_usd(parts['training'])})"
            for method, parts in found.items()
        )
        return f"USD at these prices: {told}. Labels are {share} of PPO's bill."


def _bars(axes: Axes, found: dict[str, dict[str, float]], parts: tuple[str, ...]) -> None:
    """A bar a method, its parts side by side and their sum behind it."""
    left = dict.fromkeys(METHODS, 0.0)
    for part in parts:
        widths = [found[method][part] for method in METHODS]
        axes.barh(METHODS, widths, left=list(left.values()), label=part, edgecolor="white", linewidth=0, **_LOOKS[part])
        left = {method: left[method] + width for method, width in zip(METHODS, widths)}
    for place, total in enumerate(left.values()):
        axes.text(total, place, f" {_usd(total)}", va="center", fontsize=8)
    axes.set_xlim(0, 1.3 * max(max(left.values()), 1e-9))
    axes.set_xlabel("USD")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)


def _total(parts: dict[str, float], names: tuple[str, ...] = PARTS) -> float:
    return sum(parts[name] for name in names)


def _share(parts: dict[str, float], name: str) -> str:
    total = _total(parts)
    share = parts[name] / total if total else 0.0
    return f"{100 * share:.2f} %" if share > 0.99 else f"{100 * share:.0f} %"


def _usd(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


_STYLE = {"description_width": "190px"}
_LAYOUT = {"width": "330px", "max_width": "100%"}


def _whole(value: int, description: str, high: int) -> ipywidgets.BoundedIntText:
    return ipywidgets.BoundedIntText(
        value=value, min=0, max=high, description=description, style=_STYLE, layout=_LAYOUT
    )


def _amount(value: float, description: str, high: float) -> ipywidgets.BoundedFloatText:
    return ipywidgets.BoundedFloatText(
        value=value, min=0, max=high, step=0.01, description=description, style=_STYLE, layout=_LAYOUT
    )


LAB = Cost
