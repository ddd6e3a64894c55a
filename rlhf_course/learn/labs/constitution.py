"""Strike principles out of the constitution: whom the labeler prefers now, and what the policy becomes."""

import textwrap
from statistics import mean

import ipywidgets
import torch
from matplotlib.figure import Figure

from rlhf_course.data.world import CONCEPTS, CONSTITUTION, critique
from rlhf_course.experiments import load_result
from rlhf_course.learn.labs.base import Lab
from rlhf_course.plots import COLOURS

_BLACK_HOLE = CONCEPTS[1]
_PAIRS = {
    "false but plain, true but full of jargon": (
        f"it is {CONCEPTS[0].fact} . in short it is easy . hope that helps .",
        f"it is {_BLACK_HOLE.fact} . by spectral entropy we get kernel . hope that helps .",
    ),
    "flattering, hedging": (
        f"what a great question . it is {_BLACK_HOLE.fact} . ask me for more .",
        f"maybe it is {_BLACK_HOLE.fact} . ask me for more .",
    ),
    "says it twice, compares it badly": (
        f"it is {_BLACK_HOLE.fact} . it is {_BLACK_HOLE.fact} . hope that helps .",
        f"it is {_BLACK_HOLE.fact} . think of {CONCEPTS[0].analogy} . hope that helps .",
    ),
}
#: How many broken principles make a lean of one log-odd.
_TEMPERATURE = 0.5


class Constitution(Lab):
    """A box to tick for each principle and a choice of answers; the labeler's verdict beside the policy's habits.

    The policy's bars come from stored runs: a principle that is in force is read off the run with all of them, one that
    is struck out off the run in which it alone was.
    """

    size = (8.6, 4.2)

    def controls(self) -> dict[str, ipywidgets.Widget]:
        boxes = {_key(p.name): ipywidgets.Checkbox(value=True, description=p.name, indent=False) for p in CONSTITUTION}
        pairs = ipywidgets.Dropdown(options=list(_PAIRS), description="answers")
        return {"pair": pairs, **boxes}

    def draw(self, figure: Figure, pair: str, **in_force: bool) -> str:
        kept = [principle for principle in CONSTITUTION if in_force[_key(principle.name)]]
        answers = dict(zip("AB", _PAIRS[pair]))
        broken = {
            name: [p.name for p in kept if critique(_BLACK_HOLE.prompt, answer, p)] for name, answer in answers.items()
        }
        lean = torch.tensor((len(broken["B"]) - len(broken["A"])) / _TEMPERATURE)
        p = torch.sigmoid(lean).item()
        verdict = "is undecided" if p == 0.5 else f"prefers {'A' if p > 0.5 else 'B'}, P = {max(p, 1 - p):.2f}"

        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        left.axis("off")
        left.set_title(f"The labeler {verdict}", loc="left")
        for height, (name, answer) in zip((0.95, 0.6), answers.items()):
            breaks = f"breaks: {', '.join(broken[name]) or 'nothing'}"
            text = "\n".join([*textwrap.wrap(f"{name}. {answer}", 44), *textwrap.wrap(breaks, 44)])
            left.text(0, height, text, va="top", transform=left.transAxes)

        table, names = load_result("rlaif.revision"), [principle.name for principle in CONSTITUTION]
        shares = {
            name: mean(table.values(name, left_out="nothing" if in_force[_key(name)] else name)) for name in names
        }
        before = [mean(table.values(name, left_out="before")) for name in names]
        places = range(len(names))
        right.barh([i - 0.19 for i in places], before, 0.36, color=COLOURS["sft"], label="before (SFT)")
        right.barh([i + 0.19 for i in places], shares.values(), 0.36, color=COLOURS["rlaif"], label="after")
        right.set_yticks(places, [name if in_force[_key(name)] else f"({name})" for name in names])
        right.invert_yaxis()
        right.set_xlim(0, 0.6)
        right.set_xlabel("share of the policy's answers that break it")
        right.set_title("What the policy becomes (stored runs)", loc="left")
        right.legend(frameon=False, loc="lower right")
        right.spines[["top", "right"]].set_visible(False)
        struck = [name for name in names if not in_force[_key(name)]]
        habits = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        force = f"Struck out: {', '.join(struck)}." if struck else "All principles are in force."
        return (
            f"{force} A breaks {len(broken['A'])}, B {len(broken['B'])} of them: the labeler {verdict}. "
            f"Share of the policy's answers that break each principle: {habits}."
        )


def _key(name: str) -> str:
    return name.replace(" ", "_")


LAB = Constitution
