"""The pipeline, stage by stage: which models are in memory, which of them learn, and what flows between them."""

import ipywidgets
from matplotlib.figure import Figure

from rlhf_course.learn.diagrams import NAMES, STAGES, draw_stage
from rlhf_course.learn.labs.base import Lab

_NUMBERS = ("no", "one", "two", "three", "four")


class Pipeline(Lab):
    """A button a stage; the diagram of that stage."""

    size = (7.6, 4.2)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        # Buttons rather than a slider: Tab and Space reach each of them, in any notebook.
        return {"stage": ipywidgets.ToggleButtons(options=list(STAGES), value="PPO", description="stage")}

    def draw(self, figure: Figure, stage: str) -> str:
        shown = STAGES[stage]
        learn = [NAMES[role] for role, state in shown.roles.items() if state == "train"]
        frozen = [NAMES[role] for role, state in shown.roles.items() if state == "frozen"]
        count = _NUMBERS[len(learn) + len(frozen)]
        models = "model" if count == "one" else "models"
        axes = figure.subplots()
        title = f"{stage}: {count} {models} in memory, {_NUMBERS[len(learn)]} of them learning"
        axes.set_title(f"{stage}: one model in memory, and it learns" if count == "one" else title, loc="left")
        draw_stage(axes, stage)
        who = f"In memory: {_listed(learn)} ({'learns' if len(learn) == 1 else 'learn'})"
        who += f", {_listed(frozen)} (frozen)." if frozen else "."
        bill = f"With models of N parameters that makes {shown.memory}N numbers for weights, gradients and Adam."
        return f"{shown.story} {who} {bill}"


def _listed(names: list[str]) -> str:
    return " and ".join(names)


LAB = Pipeline
