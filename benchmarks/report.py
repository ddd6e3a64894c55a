"""What README.md shows of the results: the table, the goals, and the plot."""

import json
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from benchmarks.generation import GENERATE
from benchmarks.training import BEST, DEFAULTS, THEIRS
from rlhf_course.plots import COLOURS, STYLE, png

FOLDER = Path(__file__).parent

#: How many times ours the others should take: work, then at TRL's best settings and at its defaults.
_TRAINING_GOALS = {
    "sft, tiny, 8 answers": (2, 3),
    "sft, tiny, 64 answers": (2, 3),
    "reward, tiny, 8 pairs": (2, 3),
    "reward, tiny, 64 pairs": (2, 3),
    "dpo, tiny, 8 pairs": (2, 3),
    "dpo, tiny, 64 pairs": (2, 3),
    "kto, tiny, 8 answers": (2, 3),
    "kto, tiny, 64 answers": (2, 3),
    "dpo, tiny-49k, 8 pairs": (6, 8),
    "grpo, tiny, 64 answers": (5, 5),
    "sft, smollm2, 4 answers": (1.15, 1.5),
    "reward, smollm2, 4 pairs": (1.15, 1.5),
    "dpo, smollm2, 4 pairs": (1.4, 2),
    "grpo, smollm2, 8 answers": (1.5, 1.5),
    # Of memory: at most 0.85 and 0.7 of what TRL takes.
    "dpo, smollm2, 8 pairs x 512 tokens": (1.18, 1.43),
    "dpo, smollm2, LoRA, 8 pairs x 512 tokens": (1.18, 1.43),
}
GOALS = {
    **{(case, side): goal for case, both in _TRAINING_GOALS.items() for side, goal in zip(THEIRS, both, strict=True)},
    ("sampling, tiny, 64 x 40", GENERATE): 1.3,
    ("sampling, tiny, 64 rows to real stop lengths", GENERATE): 2,
    ("sampling, smollm2, 8 rows to real stop lengths", GENERATE): 1.3,
}


def load(path: Path = FOLDER / "results.json") -> list[dict]:
    """The rows of a file of results; none if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def table(rows: list[dict]) -> str:
    """Results in Markdown. A ratio says how many times as much as ours a side takes."""
    lines = ["| work | side | median | ratio to ours |", "|---|---|---:|---:|"]
    for row in rows:
        took = f"{row['milliseconds']:.1f} ms" if "milliseconds" in row else f"{row['mebibytes']} MiB"
        lines.append(f"| {row['case']} | {row['side']} | {took} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def goals(rows: list[dict]) -> str:
    """Every goal in Markdown, and whether the results reach it."""
    ratios = {(row["case"], row["side"]): row["ratio"] for row in rows}
    lines = ["| work | against | goal | measured | |", "|---|---|---:|---:|---|"]
    for (case, side), goal in GOALS.items():
        ratio = ratios.get((case, side))
        found = "| not measured" if ratio is None else f"{ratio:.2f}x | {'reached' if ratio >= goal else 'missed'}"
        lines.append(f"| {case} | {side} | {goal}x | {found} |")
    return "\n".join(lines)


def plot(rows: list[dict]) -> Figure:
    """Each work's ratios beside its goals, on a logarithmic axis where 1 is "as fast as ours"."""
    ratios = {(row["case"], row["side"]): row["ratio"] for row in rows}
    shown = [key for key in GOALS if key in ratios]
    cases = list(dict.fromkeys(case for case, _ in shown))
    colours = {BEST: COLOURS["ppo"], DEFAULTS: COLOURS["reward model"], GENERATE: COLOURS["dpo"]}
    with matplotlib.style.context(STYLE):
        drawn = Figure(figsize=(7.6, 1.2 + 0.3 * len(cases)), layout="constrained")
        axes = drawn.subplots()
        for side, colour in colours.items():
            mine = [(ratios[key], GOALS[key], cases.index(key[0])) for key in shown if key[1] == side]
            found, wanted, heights = zip(*mine, strict=True) if mine else ((), (), ())
            axes.plot(found, heights, "o", color=colour, label=side)
            axes.plot(wanted, heights, "|", color=colour, markersize=11, label=f"{side}: the goal")
        axes.axvline(1, color="0.4", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks([1, 1.5, 2, 3, 5, 8], ["1", "1.5", "2", "3", "5", "8"])
        axes.minorticks_off()
        axes.set_yticks(range(len(cases)), cases)
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.set_xlabel("how many times what ours takes")
        drawn.legend(loc="outside lower center", ncols=3, fontsize=8)
    return drawn


def write(folder: Path = FOLDER) -> None:
    """Put the tables into README.md, and the plot beside it."""
    rows, readme = load(folder / "results.json"), folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    for head, made in (("| work | side |", table(rows)), ("| work | against |", goals(rows))):
        before, rest = text.split(head, 1)
        text = f"{before}{made}\n\n{rest.split(chr(10) * 2, 1)[1]}"
    readme.write_text(text, encoding="utf-8")
    (folder / "results.png").write_bytes(png(plot(rows)))
