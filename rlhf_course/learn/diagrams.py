"""The course's drawings: what happens in a stage of the pipeline, the road they make, and the way to a method."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from rlhf_course.learn.exercises.pipeline import models_in_memory
from rlhf_course.plots import COLOURS, figure

#: Numbers held for each parameter: the weight; for one that learns also its gradient and Adam's two.
FROZEN, LEARNS = 1, 4
NAMES = {"policy": "policy", "reference": "reference", "reward_model": "reward model", "value_model": "critic"}


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline, as it is drawn.

    Attributes:
        method: as `models_in_memory` knows it.
        data: what is read, in a few words.
        flows: (from, to, label) of each arrow; "data" is the box on the left.
        colour: of the model that learns, a name in `COLOURS`.
        story: a sentence or two: what goes in, what is asked, what comes out.
    """

    method: str
    data: str
    flows: tuple[tuple[str, str, str], ...]
    colour: str
    story: str

    @property
    def roles(self) -> dict[str, str]:
        """The models in memory: role → "train" or "frozen"."""
        return {role: state for role, state in models_in_memory(self.method).items() if state is not None}

    @property
    def memory(self) -> int:
        """Numbers held per parameter of one model, for weights, gradients and Adam."""
        return sum(LEARNS if state == "train" else FROZEN for state in self.roles.values())


STAGES = {
    "pre-training": Stage(
        "sft",
        "a large text",
        (("data", "policy", "every word"),),
        "base",
        "A new model reads a large text and learns to predict each next word. What comes out is the base model.",
    ),
    "SFT": Stage(
        "sft",
        "prompts, each with\nan answer somebody\nwrote",
        (("data", "policy", "the answer's\nwords"),),
        "sft",
        "The base model goes on predicting the next word, of demonstrations now, and only of the answers. "
        "What comes out is the SFT model.",
    ),
    "reward model": Stage(
        "reward_model",
        "the SFT model's\nanswers, ranked\nby labelers",
        (("data", "reward_model", "better, worse"),),
        "reward model",
        "The SFT model wrote the answers beforehand, and people ranked them. A copy of it gets a new head and learns "
        "to score the better answer higher. It writes nothing.",
    ),
    "PPO": Stage(
        "ppo",
        "prompts,\nno answers",
        (
            ("data", "policy", "prompts"),
            ("reference", "policy", "how far\nfrom me?"),
            ("policy", "reward_model", "answers →\n← score"),
            ("value_model", "policy", "what was\nexpected?"),
        ),
        "ppo",
        "The policy, at first the SFT model, writes. The reward model scores, a frozen copy of the SFT model says how "
        "far the policy has drifted, and the critic says what was to be expected. What was better than expected gets "
        "likelier.",
    ),
    "DPO": Stage(
        "dpo",
        "pairs: the SFT\nmodel's answers,\none chosen",
        (("data", "policy", "chosen,\nrejected"), ("reference", "policy", "how likely\nbefore?")),
        "dpo",
        "The shortcut: the policy learns from the comparisons themselves. It makes the chosen answer likelier and the "
        "rejected one less likely than the frozen reference has them. Nobody writes, and nobody scores.",
    ),
}

_CENTRES = {
    "data": (1.15, 2.0),
    "policy": (4.75, 2.0),
    "reference": (8.85, 3.45),
    "reward_model": (8.85, 2.0),
    "value_model": (8.85, 0.55),
}
_WIDTH, _HEIGHT = 2.1, 1.0


def draw_stage(axes: Axes, name: str) -> None:
    """Draw a stage of `STAGES` into axes: the models' places, who is in memory, who learns, and what flows."""
    stage = STAGES[name]
    axes.set(xlim=(0, 10), ylim=(-0.1, 5.1))
    axes.axis("off")
    for place, other in enumerate(STAGES):
        here = other == name
        x = 1.0 + 2.0 * place
        label = other if other != "DPO" else "or DPO"
        _box(axes, x, 4.75, label, 1.8, 0.45, fill=COLOURS[STAGES[other].colour] if here else None, bold=here)
        if place < 3:
            _arrow(axes, (x + 0.92, 4.75), (x + 1.08, 4.75))

    _box(axes, *_CENTRES["data"], stage.data, _WIDTH, 1.3, edge="0.6", round_=False)
    colours = {"reference": "sft", "reward_model": "reward model"}
    for role, title in NAMES.items():
        state = stage.roles.get(role)
        if state is None:
            _box(axes, *_CENTRES[role], f"{title}\nnot needed", _WIDTH, _HEIGHT, edge="0.85", line=":", grey=True)
        else:
            learns = state == "train"
            fill = COLOURS[stage.colour if role == "policy" else colours[role]] if role != "value_model" else "0.6"
            _box(
                axes,
                *_CENTRES[role],
                f"{title}\n{'LEARNS' if learns else 'frozen'}",
                _WIDTH,
                _HEIGHT,
                fill=fill,
                edge="black",
                line="-" if learns else "--",
                bold=learns,
            )
    for start, end, label in stage.flows:
        _flow(axes, start, end, label)


def road() -> None:
    """Display the pipeline from one end to the other, with the worked example in it."""
    alt = (
        "Boxes from left to right. A large text makes the base model; demonstrations make it the SFT model. The SFT "
        "model's answers, ranked by people, make the reward model: 2.1 for the answer in jargon, 3.7 for the one with "
        "magic coins. PPO writes, is scored by the reward model and held near the SFT model. DPO starts from the SFT "
        "model and learns from the ranked answers, with no reward model."
    )
    with figure("Each stage adds what the one before it could not learn", alt) as axes:
        axes.set(xlim=(-0.05, 10), ylim=(0, 4.0))
        axes.axis("off")
        for x, y, text in (
            (0.9, 3.55, "a large text"),
            (3.5, 3.55, "demonstrations"),
            (6.3, 3.55, "ranked answers"),
            (9.0, 3.55, "prompts"),
        ):
            _box(axes, x, y, text, 1.8, 0.6, edge="0.6", round_=False)
        for x, y, text, colour in (
            (0.9, 2.0, "base model\n\n“explain …” is\nfollowed by\n“explain …”", "base"),
            (3.5, 2.0, "SFT model\n\nanswers, as\nits teachers\ndid", "sft"),
            (6.3, 2.0, "reward model\n\njargon: 2.1\nmagic coins: 3.7\nwins 83 %", "reward model"),
            (9.0, 2.0, "PPO policy\n\nan SFT model that\nis paid for coins\nand kept close", "ppo"),
            (6.3, 0.3, "DPO policy: from the ranked answers, no reward model", "dpo"),
        ):
            _box(axes, x, y, text, *((1.8, 1.75) if y > 1 else (5.0, 0.5)), fill=COLOURS[colour])
        for x in (0.9, 3.5, 6.3, 9.0):
            _arrow(axes, (x, 3.22), (x, 2.92))
        for x in (1.85, 4.45, 7.25):
            _arrow(axes, (x, 2.0), (x + 0.7 + 0.15 * (x > 4), 2.0))
        _arrow(axes, (3.5, 1.08), (4.1, 0.6))
        for x, text in ((2.2, "starts\nfrom"), (4.88, "starts\nfrom"), (7.67, "scores\nfor")):
            axes.text(x, 2.15, text, ha="center", va="bottom", fontsize=7.5, color="0.3")


#: Questions in the order to ask them: (question, what to do on "yes", a name in `COLOURS`).
GUIDE = (
    (
        "Is best-of-16, by the judge or\nthe labels you have, no better than SFT?",
        "mend the judge first",
        "reward model",
    ),
    ("Can a program check the answer?", "GRPO or RLOO, on rules", "grpo"),
    ("Is there one answer to each prompt,\nwith a thumb up or down?", "KTO", "kto"),
    (
        "Are there pairs of answers like your model's,\nand is their better half good enough?",
        "DPO\n(IPO: few pairs, sure labels)",
        "dpo",
    ),
    ("Do you lack the time or the people\nto build and watch RL?", "online DPO, or best-of-n", "online dpo"),
    ("Does it matter where in the answer\nit went wrong, and is there memory?", "PPO", "ppo"),
)


def guide() -> None:
    """Display the way to a method: `GUIDE` from top to bottom, and what is left at its end."""
    asked = "; ".join(f"{question} Yes: {answer}" for question, answer, _ in GUIDE).replace("\n", " ")
    alt = f"Questions from top to bottom, a method beside each: {asked}. Six times no: GRPO or RLOO, on a reward model."
    with figure("Ask what you have before you ask what is best", alt, size=(7.6, 6.2)) as axes:
        axes.set(xlim=(0, 10), ylim=(0, 7.6))
        axes.axis("off")
        for place, (question, answer, colour) in enumerate(GUIDE):
            y = 7.1 - 1.12 * place
            _box(axes, 2.75, y, question, 5.3, 0.78, edge="0.6", round_=False)
            _box(axes, 8.25, y, answer, 3.3, 0.78, fill=COLOURS[colour])
            _arrow(axes, (5.45, y), (6.55, y))
            _arrow(axes, (2.75, y - 0.41), (2.75, y - 0.71))
            axes.text(6.0, y + 0.08, "yes", ha="center", va="bottom", fontsize=8, color="0.3")
            axes.text(2.85, y - 0.56, "no", ha="left", va="center", fontsize=8, color="0.3")
        _box(axes, 2.75, 0.4, "GRPO or RLOO, on a reward model", 5.3, 0.72, fill=COLOURS["grpo"])


def _box(axes, x, y, text, width, height, *, fill=None, edge="0.4", line="-", bold=False, grey=False, round_=True):
    style = "round,pad=0,rounding_size=0.12" if round_ else "square,pad=0"
    corner = (x - width / 2, y - height / 2)
    for face, alpha, edges in ((fill or "white", 0.3 if fill else 1.0, "none"), ("none", 1.0, edge)):
        drawn = {"facecolor": face, "alpha": alpha, "edgecolor": edges}
        axes.add_patch(
            FancyBboxPatch(corner, width, height, style, linestyle=line, linewidth=2.2 if bold else 1.2, **drawn)
        )
    weight = "bold" if bold else "normal"
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, fontweight=weight, color="0.65" if grey else "black")


def _arrow(axes, start: tuple[float, float], end: tuple[float, float], style: str = "-|>") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": style, "color": "0.3", "shrinkA": 0, "shrinkB": 0})


def _flow(axes, start: str, end: str, label: str) -> None:
    """An arrow with its label on it, from box to box."""
    (x0, y0), (x1, y1) = _CENTRES[start], _CENTRES[end]
    side = 1 if x1 > x0 else -1
    x0, x1 = x0 + side * (_WIDTH / 2 + 0.06), x1 - side * (_WIDTH / 2 + 0.06)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    if start == "data" and end == "reward_model":  # below the place where a policy would stand
        bend = {"arrowstyle": "-|>", "color": "0.3", "connectionstyle": "arc3,rad=0.25", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1 - 0.3), (x0, y0 - 0.45), arrowprops=bend)
        y = 0.98
    else:
        _arrow(axes, (x0, y0), (x1, y1 + 0.2 * ((y0 > y1) - (y0 < y1))), "<|-|>" if "←" in label else "-|>")
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(x, y, label, ha="center", va="center", fontsize=8, bbox=paper)
