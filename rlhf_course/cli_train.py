"""The commands `rlhf-course train …`, one a stage. Only click is imported here; `runs.py` does the work."""

import click

from rlhf_course._commands import Commands, Sentence


@click.group(cls=Commands)
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
    from rlhf_course.trainers.sharding import leave

    renamed = {"beta": "kl_coef" if stage == "ppo" else "beta"}
    weights = ("desirable_weight", "undesirable_weight")
    names = ("max_steps", "learning_rate", "max_length", "beta", "num_generations", *weights)
    settings = {renamed.get(name, name): options.pop(name) for name in names if name in options}
    settings |= {"per_device_train_batch_size": batch_size, "save_steps": save_steps if output else None}
    try:
        runs.train(runs.Run(stage, output=output, settings=settings, **options), say=click.echo)
        leave()
    except KeyboardInterrupt:
        kept = checkpoints(output) if output else []
        hint = "nothing was kept (with --output, a run can be resumed)"
        if kept:
            hint = f"{kept[-1].name} is kept in {output}: the same command with --resume goes on from there"
        raise Sentence(f"interrupted; {hint}", 130) from None


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
    from rlhf_course.trainers.sharding import leave

    try:
        runs.train_all(output, seed, device, click.echo, max_steps=max_steps)
        leave()
    except KeyboardInterrupt:
        raise Sentence(f"interrupted; the same command goes on from what is kept in {output}", 130) from None


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


@_stage("ipo", model="tiny-sft", batch="32; 4 with --data", rate="2e-4; 1e-6 with --data", steps="one pass")
@click.option(
    "--beta", type=click.FloatRange(0, min_open=True), help="The target is 1/(2β) nats a token.  [default: 1]"
)
def ipo(**options):
    """IPO: DPO with a margin to reach and not to exceed.

    --data needs the columns chosen and rejected, with or without prompt.
    """
    _run("ipo", **options)


@_stage("kto", model="tiny-sft", batch="32; 4 with --data", rate="2e-4; 1e-6 with --data", steps="one pass")
@click.option(
    "--beta", type=click.FloatRange(0, min_open=True), help="Price of distance.  [default: 0.3; 0.1 with --data]"
)
@click.option("--desirable-weight", type=click.FloatRange(0), help="What thumbs up count for, λ_D.  [default: 1]")
@click.option("--undesirable-weight", type=click.FloatRange(0), help="What thumbs down count for, λ_U.  [default: 1]")
def kto(**options):
    """KTO: learn from thumbs up and down, without pairs.

    --data needs the columns prompt, completion and label; or comparisons, which are taken apart.
    """
    _run("kto", **options)


@_stage("online-dpo", model="tiny-sft", batch="32 pairs; 4 with --data", rate="2e-4; 1e-6 with --data", steps="125; 50")
@click.option("--reward-model", help="What chooses between answers.  [default: tiny-reward; none with --data]")
@click.option(
    "--beta", type=click.FloatRange(0, min_open=True), help="Price of distance.  [default: 0.3; 0.1 with --data]"
)
def online_dpo(**options):
    """Online DPO: DPO on pairs that the policy writes as it learns.

    --data needs the column prompt, or comparisons, of which the prompts are used.
    """
    _run("online-dpo", **options)


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


@_stage("rlaif", model="tiny-sft", batch="64 answers", rate="2e-4", steps="80")
@click.option("--num-generations", type=click.IntRange(2), help="Answers a group.  [default: 8]")
@click.option("--beta", type=click.FloatRange(0), help="Price of KL, in the loss.")
def rlaif(**options):
    """Constitutional AI: critique, revision and imitation, then a model's verdicts, a reward model and GRPO.

    The constitution is the small world's. The options are those of the last part.
    """
    _run("rlaif", **options)


@_stage("rloo", **_GROUPS)
@_group_options
def rloo(**options):
    """RLOO: the same, each answer against the mean of the others in its group.

    --data needs the column prompt, or comparisons, of which the prompts are used.
    """
    _run("rloo", **options)
