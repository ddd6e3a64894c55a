"""The command line: `rlhf-course doctor | lab | train | world | recipe | reproduce | claims | bench | build | …`.

Only click is imported here. What a command needs comes in when it runs, so that `--help` answers at once.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click

from rlhf_course import REPOSITORY, __version__
from rlhf_course._commands import Commands, Sentence
from rlhf_course.cli_train import train


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main():
    """A hands-on course on RLHF and reward models.

    Begin with `rlhf-course lab`; `rlhf-course doctor` says what this machine is good for.
    """


# ---------------------------------------------------------------------- the machine and the lessons


@main.command()
@click.pass_context
def doctor(ctx):
    """Check this machine: libraries, device, models, room, progress.

    One line each, `ok` or `missing` with what to do, `-` for what is optional and not there. The exit code is 1 if
    something the course needs is missing.
    """
    from rlhf_course.doctor import examine

    findings = examine()
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.state:<8} {finding.what:<{width}}  {finding.detail}".rstrip())
    ctx.exit(int(any(finding.state == "missing" for finding in findings)))


@main.command()
@click.option("--browser/--no-browser", default=True, help="Open the browser (or only print the address).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: the first free from 8888]")
@click.pass_context
def lab(ctx, browser, port):
    """Open JupyterLab on lesson 00.

    Ctrl-C, twice, ends it.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise Sentence("JupyterLab is not installed: run `make setup`, or `pip install jupyterlab`", 1)
    root = _checkout("notebooks/00_start_here.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "notebooks/00_start_here.ipynb"]
    command += [] if browser else ["--no-browser"]
    command += [f"--port={port}"] if port else []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container there may be nobody else
    # JupyterLab's news and updates do not interrupt a lesson. What a learner has set goes before this.
    paths = [str(Path(__file__).with_name("jupyter")), os.environ.get("JUPYTER_CONFIG_PATH")]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(command, cwd=root, env=environment) as server:
        interrupted = False
        while True:
            try:
                code = server.wait()
                ctx.exit(0 if interrupted else code)
            except KeyboardInterrupt:  # it is the server's to ask whether it is meant
                interrupted = True


@main.command()
@click.option("--execute", is_flag=True, help="Run the solutions first and store their outputs.")
@click.option("--check", is_flag=True, help="Write nothing; list what is not as it should be (exit code 1 then).")
@click.argument("lessons", nargs=-1)
@click.pass_context
def build(ctx, execute, check, lessons):
    """Write the learner's notebooks from solutions/ (for authors).

    LESSONS are beginnings of names, such as 03; all of them if left out.
    """
    from rlhf_course.learn.build import BuildError
    from rlhf_course.learn.build import build as build_notebooks

    try:
        lines = build_notebooks(execute=execute, check=check, root=_checkout("solutions"), only=lessons)
    except BuildError as error:
        raise Sentence(str(error), 1) from None
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("everything is up to date")
    ctx.exit(int(check and bool(lines)))


@main.command()
def progress():
    """Show which exercises and quizzes are done, and where to go on."""
    from rlhf_course.learn.progress import board

    click.echo(board())


def _checkout(wanted: str) -> Path:
    """The clone of the repository: the folder we are in, or the one the package was installed from."""
    for root in (Path.cwd(), Path(__file__).resolve().parent.parent):
        if (root / wanted).exists():
            return root
    raise Sentence(
        f"there is no {wanted} here: run this in a clone of the repository (git clone {REPOSITORY}, then make lab)", 1
    )


# ---------------------------------------------------------------------- the small world


@main.command()
@click.option("--n", default=3, show_default=True, type=click.IntRange(1), help="How many answers.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed, other answers.")
@click.option("--model", help="Let this policy answer (tiny-base, tiny-sft, tiny-ppo, tiny-dpo, or a folder).")
def world(n, seed, model):
    """Show prompts of the small world, answers, and what they are worth.

    The answers are demonstrators', or a model's, and their gold reward is explained term by term.
    """
    from rlhf_course.data.world import concept_of, explain_gold, world_tokenizer, write_answer
    from rlhf_course.evaluation import Answer, draw_prompts, sample_answers
    from rlhf_course.models import load_policy
    from rlhf_course.seeding import python_stream

    prompts = draw_prompts(n, seed, "all")
    if model is None:
        rng = python_stream(seed, "demonstrators")
        answers = [Answer(prompt, write_answer(concept_of(prompt), rng), True) for prompt in prompts]
    else:
        policy, tokenizer = load_policy(model, "cpu")
        if tokenizer.get_vocab() != world_tokenizer().get_vocab():
            raise ValueError(f"{model!r} does not speak the small world's language")
        answers = sample_answers(policy, tokenizer, prompts, seed)
    for answer in answers:
        terms = explain_gold(answer.prompt, answer.text, ended=answer.ended)
        click.echo(f"{answer.prompt.removeprefix('<bos> ').removesuffix(' <sep>')}")
        click.echo(f"  {answer.text or '(nothing)'}{'' if answer.ended else ' …'}")
        for term in terms:
            amount = f"{term.amount:.2f}" if isinstance(term.amount, float) else f"{term.amount}"
            click.echo(f"    {term.name:<24}{amount:>6}{term.value:>+9.2f}")
        click.echo(f"    {'gold reward':<24}{'':>6}{sum(term.value for term in terms):>+9.2f}\n")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="How many: 0, 1, 2, …")
@click.option("--output", default="runs/results", show_default=True, type=click.Path(file_okay=False), help="Folder.")
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Processes at once, each with its share of cores.",
)
@click.option("--list", "listing", is_flag=True, help="Say what there is, and measure nothing.")
def reproduce(names, seeds, output, jobs, listing):
    """Measure the course's tables again, from pre-training on.

    NAMES are tables, such as reward_model.label_noise, or beginnings of them, such as reward_model; `all` is all of
    the small world's. (capstone, which trains SmolLM2-135M, has to be named.) Interrupted? The same command goes on
    where it stopped.

    \b
      rlhf-course reproduce --list
      rlhf-course reproduce sft.length_grouping --seeds 1
      rlhf-course reproduce all --jobs 2
    """
    from rlhf_course.experiments.reproduce import experiments
    from rlhf_course.experiments.reproduce import reproduce as measure

    known = experiments()
    if listing:
        for name, experiment in known.items():
            click.echo(f"{name:<36} {experiment.__doc__.splitlines()[0]}")
        return
    if not names:
        raise ValueError("name a table, a topic, or `all`; rlhf-course reproduce --list says which there are")
    everything = "all" in names
    wanted = [name for name in known if name.startswith(names) or (everything and not name.startswith("capstone"))]
    if strangers := [name for name in names if name != "all" and not any(table.startswith(name) for table in known)]:
        raise ValueError(f"there is no table {strangers[0]!r}; rlhf-course reproduce --list says which there are")
    try:
        for written in measure(wanted, range(seeds), output, click.echo, jobs):
            click.echo(f"written: {written}")
    except KeyboardInterrupt:
        raise Sentence(f"interrupted; the same command goes on from what is kept in {output}", 130) from None
    except RuntimeError as incomplete:
        raise Sentence(str(incomplete), 1) from None


@main.command()
@click.argument("name", required=False)
@click.option("--seed", default=0, show_default=True, type=int, help="Of all data, samples and training.")
@click.option(
    "--scale", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Share of the data."
)
def recipe(name, seed, scale):
    """Cook one of five systems in miniature, in under two minutes.

    NAME is instructgpt, llama2, zephyr, deepseek or claude. Without it, say what each does.
    """
    from rlhf_course.recipes import RECIPES, about, cook

    if name is None:
        for each, system in RECIPES.items():
            click.echo(f"{each:12} {system}\n{about(each)}\n")
        return
    cook(name, seed=seed, scale=scale, say=click.echo)


@main.command()
@click.option("--lesson", help="Only those of a lesson, such as 05.")
@click.option(
    "--tables",
    type=click.Path(path_type=Path),
    help="A folder of tables that `reproduce` measured: what they say of each claim.",
)
@click.option("--update", is_flag=True, help="Write what the tables hold now into the ledger (for authors).")
def claims(lesson, tables, update):
    """List what the course claims, who said it, what measures it, and what was measured in each seed.

    With --tables, judge your own measurements too; the exit status is then 1 if a claim does not hold in them.
    """
    from rlhf_course.experiments import claims as ledger
    from rlhf_course.experiments.table import read_table

    if tables and not any(tables.glob("*.json")):
        raise ValueError(f"{tables} holds no table; rlhf-course reproduce all measures them")
    if update:
        ledger.LEDGER.write_text(ledger.update(ledger.LEDGER.read_text(encoding="utf-8"), tables), encoding="utf-8")
        click.echo(f"written: {ledger.LEDGER}")
        return
    broken = []
    for claim in ledger.claims().values():
        if lesson is not None and lesson not in claim.lessons:
            continue
        click.echo(f"{claim.id} (lesson {', '.join(claim.lessons)})\n  {claim.says}")
        click.echo(f"  {claim.table}: {claim.measure} {claim.relation}, {claim.over}")
        for word, values in (("measured", claim.measured), ("measured again", claim.again)):
            if values:
                click.echo(f"  {word}: {', '.join(f'{value:g}' for value in values)}")
        if tables and (tables / f"{claim.table}.json").is_file():
            yours = claim.values(read_table(tables, claim.table))
            verdict = "it holds" if claim.holds(yours) else "IT DOES NOT HOLD"
            click.echo(f"  yours: {', '.join(f'{value:g}' for value in yours)}: {verdict}")
            broken += [] if claim.holds(yours) else [claim.id]
        click.echo(f"  source: {claim.source}\n" if claim.source else "")
    if broken:
        raise Sentence(f"{len(broken)} claims do not hold in {tables}: {', '.join(broken)}", 1)


@main.command()
@click.option(
    "--model",
    default="tiny",
    show_default=True,
    type=click.Choice(["tiny", "tiny-49k", "smollm2"]),
    help="The course's model, the same with 49,152 words, or SmolLM2-135M.",
)
@click.option("--only", multiple=True, help="Beginning of what to measure, such as dpo or sampling; may be repeated.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="CPU threads torch may use.")
@click.option("--save", is_flag=True, help="Keep the results in benchmarks/ (for authors).")
def bench(model, only, repeats, threads, save):
    """Measure our trainers and sampler side by side with TRL's and transformers'.

    All sides run in turns in every round. Printed are medians, and how many times as long as ours the others take; but
    nothing where the sides' losses or gradients differ. Needs a clone of the repository, and TRL.
    """
    root = _checkout("benchmarks/run.py")
    if importlib.util.find_spec("trl") is None:
        raise Sentence('TRL is not installed: pip install "trl>=1.16"', 1)
    sys.path.insert(0, str(root))
    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from benchmarks import report, run

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    tasks = {name: task for name, task in run.tasks(model).items() if name.startswith(only or ("",))}
    if not tasks:
        raise ValueError(f"--only matches nothing of {', '.join(run.tasks(model))}")
    rows = []
    for name in (bar := tqdm(tasks, unit="task")):
        bar.set_description(name)
        try:
            found = tasks[name](repeats)
        except RuntimeError as refused:  # the sides do not do the same work: the others are still worth measuring
            click.echo(f"{name}: no ratio. {refused}", err=True)
            continue
        rows += found
        if save:
            run.save(found, repeats, report.FOLDER / "results.json")
            report.write()
    click.echo(report.table(rows))
    if len(rows) == 0:
        raise Sentence("nothing could be compared", 1)


main.add_command(train)
