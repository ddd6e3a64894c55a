"""Make what README shows and links: `python docs/make.py overoptimization | lesson | badges`.

- `overoptimization`: docs/images/overoptimization.png, from the shipped table of lesson 10.
- `lesson`: docs/images/lesson.png, some cells of lesson 03's solution as stored, photographed by a headless Chromium.
- `badges`: the links to Colab at README's end, and the repository's address in the solutions, after a change of the
  address in pyproject.toml. Then `rlhf-course build`.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
CELLS = ("rm-probability-1", "rm-probability-2", "rm-probability-3", "rm-lab")
_STYLE = "<style>body { width: 800px; margin: 8px } .jp-Cell { padding: 2px 4px } img { max-width: 100% }</style>"


def overoptimization() -> None:
    """The reward model's score and the gold reward against KL, PPO, three seeds."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from rlhf_course.experiments.table import load_result
    from rlhf_course.plots import COLOURS, STYLE, png

    table = load_result("overoptimization.curves")
    with matplotlib.style.context(STYLE):
        drawn = Figure(figsize=(7.6, 3.4), layout="constrained")
        axes = drawn.subplots()
        for name, colour, words in (
            ("proxy", COLOURS["reward model"], "what the reward model says"),
            ("gold", COLOURS["gold"], "what is true: the gold reward"),
        ):
            for seed in table.settings["seeds"]:
                rows = table.where(method="ppo", seed=seed)
                shown = {"color": colour, "marker": "o" if name == "gold" else "^", "markersize": 3}
                axes.plot(
                    [row["kl"] for row in rows],
                    [row[name] for row in rows],
                    label=words if seed == table.settings["seeds"][0] else None,
                    **shown,
                )
        axes.set_title("The score only rises; what it stands for rises, then falls")
        axes.set(xlabel="KL from the SFT model (nats an answer)", ylabel="mean over answers")
        axes.legend()
        _store("overoptimization.png", png(drawn))


def lesson() -> None:
    """A picture of a lesson: an exercise, its check, and a lab."""
    import nbformat
    from nbconvert import HTMLExporter

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium on this machine: on Debian, apt-get install chromium")
    notebook = nbformat.read(ROOT / "solutions/03_reward_model.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in CELLS]
    for cell in notebook.cells:
        cell.source = re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", cell.source)  # marks that no learner sees
    page, _ = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(notebook)
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)  # of the network nothing is asked
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(page.replace("</head>", f"{_STYLE}</head>"), encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=830,1100"]
        command += ["--force-device-scale-factor=1.5", "--screenshot=shot.png", "page.html"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        _store("lesson.png", (Path(folder) / "shot.png").read_bytes())


def _store(name: str, picture: bytes) -> None:
    """Cut the empty lower edge off, and keep few colours: a page downloads it each time."""
    from PIL import Image, ImageChops

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    image = image.crop((0, 0, image.width, min(box[3] + 12, image.height)))
    IMAGES.mkdir(exist_ok=True)
    image.quantize(64, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def badges() -> None:
    """Put the repository's address where it has to be written out."""
    from rlhf_course import REPOSITORY

    for path in (ROOT / "README.md", *sorted((ROOT / "solutions").glob("*.ipynb"))):
        before = path.read_text(encoding="utf-8")
        after = re.sub(
            r"(https://colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(?=/blob/)",
            rf"\g<1>{REPOSITORY.removeprefix('https://github.com/')}",
            before,
        )
        after = re.sub(r"(?<=git\+)https://github\.com/[\w.-]+/[\w-]+", REPOSITORY, after)
        if path.name == "README.md":
            after = re.sub(r"\n(\[\d\d\]: .+\n)+", f"\n{_definitions()}", after)
        if after != before:
            path.write_text(after, encoding="utf-8")


def _definitions() -> str:
    """`[00]: address` of every lesson in Colab, a line each."""
    from rlhf_course.learn.opening import badge
    from rlhf_course.learn.topics import TOPICS

    names = [f"{number:02d}_{topic}" for number, topic in enumerate(TOPICS)]
    return "".join(f"[{name[:2]}]: {re.search(r'[(]([^()]+)[)]$', badge(name))[1]}\n" for name in names)


if __name__ == "__main__":
    made = {made.__name__: made for made in (overoptimization, lesson, badges)}
    for wanted in sys.argv[1:] or sys.exit(__doc__):
        made[wanted]()
