"""The command line: `rlhf-course doctor | lab | train | world | reproduce | build | progress`.

Only click is imported here. What a command needs comes in when it runs, so that `--help` answers at once.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click

from rlhf_course import REPOSITORY, __version__

#: What a wrong value or a missing thing raises, and the exit code it gets.
_EXIT_CODES = ((ValueError, 2), (OSError, 1), (MemoryError, 1))
_OUT_OF_MEMORY = "out of memory: lower --batch-size or --max-length (or use a smaller model)"


class _Sentence(click.ClickException):
    """One sentence on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class _Commands(click.Group):
    """A group whose commands end in one sentence where they cannot go on, and not in a traceback."""

    def list_commands(self, ctx):
        return list(self.commands)  # in the order in which they are written

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.ClickException, BrokenPipeError):
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
                raise _Sentence(_OUT_OF_MEMORY, 1) from None
            for kind, code in _EXIT_CODES:
                if isinstance(error, kind):
                    raise _Sentence(" ".join(str(error).split()) or kind.__name__, code) from None
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
        raise _Sentence("JupyterLab is not installed: run `make setup`, or `pip install jupyterlab`", 1)
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
        raise _Sentence(str(error), 1) from None
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
    raise _Sentence(
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
@click.option("--list", "listing", is_flag=True, help="Say what there is, and measure nothing.")
def reproduce(names, seeds, output, listing):
    """Measure the course's tables again, from pre-training on.

    NAMES are tables, such as reward_model.label_noise, or beginnings of them, such as reward_model; `all` is all of
    them. Interrupted? The same command goes on where it stopped.

    \b
      rlhf-course reproduce --list
      rlhf-course reproduce sft.length_grouping --seeds 1
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
    wanted = [name for name in known if "all" in names or name.startswith(names)]
    if strangers := [name for name in names if name != "all" and not any(table.startswith(name) for table in known)]:
        raise ValueError(f"there is no table {strangers[0]!r}; rlhf-course reproduce --list says which there are")
    try:
        for name in wanted:
            click.echo(f"written: {measure(name, range(seeds), output, click.echo)}")
    except KeyboardInterrupt:
        raise _Sentence(f"interrupted; the same command goes on from what is kept in {output}", 130) from None


# ---------------------------------------------------------------------- training


@main.group(cls=_Commands)
def train():
    """Train one stage of the pipeline and measure what it brought.

    Without --data a stage runs on the small world: it begins with the model that ships for it and is judged by the gold
    reward. With --data it trains a real model on your rows and is judged on prompts held out from them.

    \b
      rlhf-course train all
      rlhf-course train sft --output runs/sft
      rlhf-course train ppo --model runs/sft --reward-model tiny-reward --output runs/ppo
      rlhf-course train dpo --model smollm2-135m --data Anthropic/hh-rlhf --data-dir harmless-base
    """


def _stage(stage: str, **only_here):
    """Options of a stage, each named for what it sets; `only_here` are defaults to show for some of them."""
    shown = {"model": "", "batch": "", "rate": "", "steps": "", **only_here}
    yours = [
        click.option(
            "--model",
            help="Where to begin: tiny-base, tiny-sft, …, smollm2-135m, a folder, or a name on the Hub.  "
            f"[default: {shown['model']}; smollm2-135m with --data]",
        ),
        click.option("--data", help="Rows to train on: .json, .jsonl, .jsonl.gz, or a name on the Hub."),
        click.option("--split", default="train", show_default=True, help="Split of a data set on the Hub."),
        click.option("--data-dir", help="Part of a data set on the Hub, such as harmless-base."),
        click.option(
            "--max-length",
            type=click.IntRange(2),
            help="Longest row, in tokens.  [with --data: 256 on a CPU, else 512]",
        ),
    ]
    everyones = [
        click.option("--max-steps", type=click.IntRange(1), help=f"Steps in all.  [default: {shown['steps']}]"),
        click.option("--batch-size", type=click.IntRange(1), help=f"Rows a step.  [default: {shown['batch']}]"),
        click.option(
            "--learning-rate", type=click.FloatRange(0, min_open=True), help=f"Its peak.  [default: {shown['rate']}]"
        ),
        click.option(
            "--eval-size",
            type=click.IntRange(2),
            help="How much to measure on.  [default: 512; with --data a tenth, at most 64 on a CPU]",
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Names all random streams."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--output", type=click.Path(file_okay=False), help="Folder for model, tokenizer, history, run.json."
        ),
        click.option(
            "--save-steps",
            default=50,
            show_default=True,
            type=click.IntRange(1),
            help="Steps between checkpoints in --output; the newest is kept, and goes when the run is done.",
        ),
        click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --output."),
    ]

    def decorate(command):
        for option in reversed(everyones if stage == "pretrain" else yours + everyones):
            command = option(command)
        return train.command(name=stage)(command)

    return decorate


def _run(stage, batch_size, output, save_steps, **options):
    """Hand a stage's options to `runs.train`; an interrupt says how to go on."""
    from rlhf_course import runs
    from rlhf_course.trainers.checkpoint import checkpoints

    renamed = {"beta": "kl_coef" if stage == "ppo" else "beta"}
    names = ("max_steps", "learning_rate", "max_length", "beta", "gradient_accumulation_steps", "num_generations")
    settings = {renamed.get(name, name): options.pop(name) for name in names if name in options}
    settings |= {"per_device_train_batch_size": batch_size, "save_steps": save_steps if output else None}
    try:
        runs.train(runs.Run(stage, output=output, settings=settings, **options), say=click.echo)
    except KeyboardInterrupt:
        kept = checkpoints(output) if output else []
        hint = "nothing was kept (with --output, a run can be resumed)"
        if kept:
            hint = f"{kept[-1].name} is kept in {output}: the same command with --resume goes on from there"
        raise _Sentence(f"interrupted; {hint}", 130) from None


@train.command(name="all")
@click.option("--output", default="runs/pipeline", show_default=True, type=click.Path(file_okay=False), help="Folder.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Names all random streams.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--max-steps", type=click.IntRange(1), help="At most so many steps a stage, to see it run.")
def everything(output, seed, device, max_steps):
    """The whole pipeline, from nothing: pretrain, sft, reward, ppo and dpo, one after another.

    Takes minutes on a laptop. Interrupted? The same command goes on where it stopped.
    """
    from rlhf_course import runs

    try:
        runs.train_all(output, seed, device, click.echo, max_steps=max_steps)
    except KeyboardInterrupt:
        raise _Sentence(f"interrupted; the same command goes on from what is kept in {output}", 130) from None


@_stage("pretrain", batch="32 blocks of 64 tokens", rate="3e-3", steps="300")
def pretrain(**options):
    """Pre-training: a new tiny model learns to predict the corpus."""
    _run("pretrain", **options)


@_stage("sft", model="tiny-base", batch="64; 4 with --data", rate="2e-3; 1e-5 with --data", steps="one pass")
def sft(**options):
    """Supervised fine-tuning: imitate demonstrations.

    --data needs the columns prompt and completion, or messages; of comparisons, the chosen answer is imitated.
    """
    _run("sft", **options)


@_stage("reward", model="tiny-sft", batch="16; 4 with --data", rate="1e-3; 1e-5 with --data", steps="two passes; one")
def reward(**options):
    """Reward model: learn a score from comparisons.

    In the small world the model's own answers are ranked by a labeler who agrees with another one 72.6 % of the time.

    --data needs the columns chosen and rejected, with or without prompt (Anthropic/hh-rlhf, ultrafeedback and the
    like). The result loads with AutoModelForSequenceClassification.
    """
    _run("reward", **options)


@_stage("ppo", model="tiny-sft", batch="64; 8 with --data", rate="2e-4; 1e-6 with --data", steps="80; 50 with --data")
@click.option("--reward-model", help="What judges the answers.  [default: tiny-reward; none with --data]")
@click.option("--beta", type=click.FloatRange(0), help="Price of a nat of KL from the start.")
def ppo(**options):
    """PPO: raise a reward model's score of the policy's own answers.

    --data needs the column prompt, or comparisons, of which the prompts are used.
    """
    _run("ppo", **options)


@_stage("dpo", model="tiny-sft", batch="32; 4 with --data", rate="2e-4; 1e-6 with --data", steps="one pass")
@click.option(
    "--beta", type=click.FloatRange(0, min_open=True), help="Price of distance.  [default: 0.3; 0.1 with --data]"
)
def dpo(**options):
    """DPO: learn from comparisons directly, without a reward model.

    --data needs the columns chosen and rejected, with or without prompt.
    """
    _run("dpo", **options)


_GROUPS = {
    "model": "tiny-sft",
    "batch": "64 answers; 8 with --data",
    "rate": "2e-4; 1e-6 with --data",
    "steps": "80; 50 with --data",
}


def _group_options(command):
    """What GRPO and RLOO can be told besides."""
    for option in (
        click.option("--reward-model", help="What judges the answers.  [default: tiny-reward; none with --data]"),
        click.option("--num-generations", type=click.IntRange(2), help="Answers a group.  [default: 8; 4 with --data]"),
        click.option("--beta", type=click.FloatRange(0), help="Price of KL from the start, in the loss."),
    ):
        command = option(command)
    return command


@_stage("grpo", **_GROUPS)
@_group_options
def grpo(**options):
    """GRPO: what PPO does, with a group of answers in the critic's place.

    --data needs the column prompt, or comparisons, of which the prompts are used.
    """
    _run("grpo", **options)


@_stage("rloo", **_GROUPS)
@_group_options
def rloo(**options):
    """RLOO: the same, each answer against the mean of the others in its group.

    --data needs the column prompt, or comparisons, of which the prompts are used.
    """
    _run("rloo", **options)
