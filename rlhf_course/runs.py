"""A training run from the command line: load, train, judge, write down.

Without data a stage trains on the small world and is judged by the gold reward (`pipeline.py` holds the settings).
With data it trains on real text, and what it learned is measured on prompts held out from training.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlhf_course import pipeline
from rlhf_course.advantages import rloo_advantages
from rlhf_course.data import load_preferences, load_rows, preference_rows, split_train_eval, unpair_preferences
from rlhf_course.data.preferences import tokenize_preferences
from rlhf_course.data.rows import Rows
from rlhf_course.data.tokenize import tokenize_prompts, tokenize_sft
from rlhf_course.data.world import world_tokenizer
from rlhf_course.device import pick_device
from rlhf_course.evaluation import evaluate_policy, reward_accuracy, wilson_interval
from rlhf_course.models import RewardModel, load_policy, load_reward_model, weights_note
from rlhf_course.models.tiny import TINY_MODELS
from rlhf_course.seeding import derive_seed, numpy_stream
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.checkpoint import checkpoints, errors_in_a_sentence, model_weights, write_model
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.kto import KTOConfig, KTOTrainer, tokenize_thumbs
from rlhf_course.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer
from rlhf_course.trainers.sft import SFTConfig, SFTTrainer

#: Stages that train on the policy's own answers, judged by a reward model.
ONLINE = ("ppo", "grpo", "rloo", "online-dpo")
#: Stages that train on preferences directly, and what they train with.
DIRECT = {
    "dpo": (DPOTrainer, DPOConfig),
    "ipo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
}
_GROUPS = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "learning_rate": 1e-6,
    "max_steps": 50,
    "max_completion_length": 64,
}
_DIRECT = {"per_device_train_batch_size": 4, "learning_rate": 1e-6, "warmup_steps": 10, "logging_steps": 5}
#: A real model's settings where they differ from the trainers' defaults, which suit the tiny model.
REAL_SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"per_device_train_batch_size": 4, "learning_rate": 1e-5, "warmup_steps": 10, "logging_steps": 5},
    "reward": {"per_device_train_batch_size": 4, "learning_rate": 1e-5, "warmup_steps": 10, "logging_steps": 5},
    "dpo": _DIRECT,
    "ipo": {**_DIRECT, "loss_type": "ipo", "beta": 1.0},
    "kto": _DIRECT,
    "ppo": {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-6,
        "value_learning_rate": 1e-5,
        "max_steps": 50,
        "response_length": 64,
    },
    "grpo": _GROUPS,
    "rloo": _GROUPS,
    "online-dpo": {"per_device_train_batch_size": 4, "learning_rate": 1e-6, "max_steps": 50, "max_new_tokens": 64},
}
#: The stage whose model a stage begins with.
BEGINS_WITH = {"sft": "pretrain", **dict.fromkeys(("reward", *DIRECT, *ONLINE, "rlaif"), "sft")}
#: The shipped model of a stage.
SHIPPED = dict(zip(pipeline.STAGES, TINY_MODELS, strict=True))
#: What a run on data begins with where no model is named; in the small world it is a shipped one.
REAL_MODEL = "smollm2-135m"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What the command line asks for. `settings` are a trainer's, by its own names; None stands for the default."""

    stage: str
    model: str | None = None
    reward_model: str | None = None
    data: str | None = None
    split: str = "train"
    data_dir: str | None = None
    eval_size: int | None = None
    seed: int = 0
    device: str = "auto"
    output: str | None = None
    resume: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> str | None:
        """The model it begins with: None for pre-training, which begins with a new one."""
        return self.model or (SHIPPED.get(BEGINS_WITH.get(self.stage)) if self.data is None else REAL_MODEL)


def train(run: Run, say: Say = print) -> dict[str, float]:
    """Carry out a run: train, measure, and with an output folder write model, tokenizer, history and `run.json`.

    Returns the measurements. Of several processes (`accelerate launch`), the first alone speaks and writes.

    Raises:
        ValueError, OSError: for what cannot be loaded, used or resumed, in one sentence each.
    """
    began = time.perf_counter()
    device = pick_device(run.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    first = os.environ.get("RANK", "0") == "0"
    say = say if first else _silent
    if first:
        _prepare_output(run)
    settings = {
        **run.settings,
        "seed": run.seed,
        "use_cpu": device.type == "cpu",
        "output_dir": run.output,
        "save_total_limit": 1,
    }
    say(f"{run.stage}: from {run.start or 'a new tiny model'}, on {run.data or 'the small world'}, seed {run.seed}")
    trainer, results = (_in_the_world if run.data is None else _on_data)(run, settings, device, say)
    if run.output is not None:
        weights = model_weights(trainer)
        if first:
            _write(run, trainer, weights, results)
        trainer.accelerator.wait_for_everyone()
        say(f"written to {run.output}: model, tokenizer, history.csv, run.json")
    say(f"done in {time.perf_counter() - began:.0f} s")
    return results


def _silent(text: str) -> None:
    """What processes say that are not the first."""


def train_all(
    output: str,
    seed: int = 0,
    device: str = "auto",
    say: Say = print,
    stages: Sequence[str] = pipeline.STAGES,
    **settings: Any,
) -> None:
    """The pipeline of the small world, from nothing: one folder a stage in `output`, each on the one before it.

    A stage that is there already is not trained again, and one that was interrupted goes on where it stopped.

    Raises:
        ValueError: a folder holds a stage of another seed.
    """
    folder = Path(output)
    for stage in stages:
        target = folder / stage
        start = str(folder / BEGINS_WITH[stage]) if stage in BEGINS_WITH else None
        run = Run(
            stage,
            model=start,
            reward_model=str(folder / "reward") if stage in ONLINE else None,
            seed=seed,
            device=device,
            output=str(target),
            resume=bool(checkpoints(target)),
            settings={"save_steps": 50, **settings},
        )
        if _finished(target):
            _check_same_run(run, target)
            say(f"{stage}: {target} is there already")
        else:
            train(run, say)


def _finished(folder: Path) -> bool:
    try:
        return "results" in json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------------- the small world


def _in_the_world(run: Run, settings: dict[str, Any], device: torch.device, say: Say):
    settings = {"resume": run.output if run.resume else None, **settings}
    if run.stage == "pretrain":
        trainer = pipeline.pretrain(**settings)
        return trainer, _judge(run, say, trainer)
    start = _world_model(run.start, load_policy, device)
    if run.stage == "sft":
        trainer = pipeline.sft(start, **settings)
        return trainer, _judge(run, say, trainer, start)
    if run.stage == "reward":
        trainer = pipeline.reward(start, **settings)
        held_out = pipeline.collect_rankings(start, run.eval_size or 512, 2, run.seed, name="held out")
        with trainer.whole_weights():
            results = reward_accuracy(trainer.model, world_tokenizer(), held_out)
        names = ("rm_gold_accuracy", "label_gold_accuracy", "difference", "difference_low", "difference_high")
        by_model, by_labels, difference, low, high = (_percent(results[name]) for name in names)
        say(
            f"of {results['pairs']} held-out pairs that differ in gold, {by_model} are in gold order by the reward "
            f"model, {by_labels} by the labels (difference {difference}, 95 % interval {low} to {high})"
        )
        return trainer, results
    if run.stage in DIRECT or run.stage == "rlaif":
        trainer = getattr(pipeline, run.stage)(start, **settings)
        return trainer, _judge(run, say, trainer, start, ref_model=start)
    rewarder = _world_model(run.reward_model or "tiny-reward", load_reward_model, device)
    trainer = getattr(pipeline, run.stage.replace("-", "_"))(start, rewarder, **settings)
    return trainer, _judge(run, say, trainer, start, ref_model=start, reward_model=rewarder)


def _world_model(name: str, load: Callable, device: torch.device):
    model, tokenizer = load(name, device)
    if tokenizer.get_vocab() != world_tokenizer().get_vocab():
        raise ValueError(f"{name!r} does not speak the small world's language: name data in its own with --data")
    return model


def _judge(run: Run, say: Say, trainer: Trainer, before=None, **others) -> dict[str, float]:
    """Gold reward of fresh answers, before and after, with 95 % intervals; KL and proxy where there are any."""
    settings = {"n": run.eval_size or 512, "seed": derive_seed(run.seed, "judge")}
    with trainer.whole_weights():
        results = evaluate_policy(trainer.model, world_tokenizer(), **settings, **others)
    told = _gold(results)
    if before is not None:
        earlier = evaluate_policy(before, world_tokenizer(), **settings)
        results |= {f"{name}_before": earlier[name] for name in ("gold", "gold_se")}
        told = f"{_gold(earlier)} before, {told} after"
    say(f"gold reward: {told} ({settings['n']} fresh answers, 95 % interval)")
    if "kl" in results:
        say(f"KL from the start: {results['kl']:.2f} nats an answer")
    if "proxy" in results:
        say(f"the reward model's score of the same answers: {results['proxy']:.2f}")
    return results


def _gold(results: dict[str, float]) -> str:
    return f"{results['gold']:.2f} ± {1.96 * results['gold_se']:.2f}"


# ---------------------------------------------------------------------- real models and data


def _on_data(run: Run, settings: dict[str, Any], device: torch.device, say: Say):
    if run.stage == "rlaif":
        raise ValueError("rlaif's constitution speaks of the small world only: leave --data out")
    on_cpu = device.type == "cpu"
    given = {name: value for name, value in settings.items() if value is not None}
    settings = {"max_length": 256 if on_cpu else 512, **REAL_SETTINGS[run.stage], **given}
    if run.stage in ONLINE and run.reward_model is None:
        stage = run.stage.upper()
        raise ValueError(f"{stage} on data of your own needs --reward-model: train one with `rlhf-course train reward`")
    policy, tokenizer = load_policy(run.start, device)
    note = f" ({weights_note(policy)} weights)" if weights_note(policy) else ""
    rows = _read(run, tokenizer, settings["max_length"])
    say(f"{run.data}: {rows.report} (at most {settings['max_length']} tokens each)")
    if len(rows) < 2:
        raise ValueError(f"{run.data} leaves too few rows to train on and to hold out: raise --max-length")
    if run.stage in ONLINE:
        return _online_on_data(run, settings, policy, tokenizer, device, rows, say)

    eval_size = run.eval_size or min(64 if on_cpu else 512, max(len(rows) // 10, 1))
    rows, held_out = split_train_eval(rows, eval_size, run.seed)
    rows = _enough(rows, settings, run.seed)
    say(f"{len(held_out):,} rows held out, none of their prompts trained on; training on {len(rows):,}")
    trainers = {"sft": (SFTTrainer, SFTConfig), "reward": (RewardTrainer, RewardConfig), **DIRECT}
    trainer_class, config = trainers[run.stage]
    if run.stage == "reward":
        policy = RewardModel.from_policy(policy, run.seed)
    trainer = trainer_class(
        policy, args=config(**settings), train_dataset=rows, eval_dataset=held_out, processing_class=tokenizer
    )
    # Implicit rewards are all 0 before the first step: there is nothing to measure.
    earlier = {} if run.stage in DIRECT else trainer.evaluate()
    if run.resume:
        trainer.resume(run.output)
    trainer.train()
    if run.stage == "sft":
        results = {"eval_loss_before": earlier["eval_loss"], "eval_loss": trainer.history.last("eval_loss")}
        say(f"held-out loss: {results['eval_loss_before']:.3f} before, {results['eval_loss']:.3f} after{note}")
        return trainer, results

    if run.stage == "kto":
        results = {name: trainer.history.last(f"eval_rewards/{name}") for name in ("chosen", "rejected")}
        by_label = f"{results['chosen']:+.3f} with thumbs up, {results['rejected']:+.3f} with thumbs down"
        say(f"mean implicit reward of held-out answers: {by_label}{note}")
        return trainer, results

    name = "eval_accuracy" if run.stage == "reward" else "eval_rewards/accuracies"
    accuracy, n = trainer.history.last(name), len(trainer.eval_rows)
    right = round(accuracy * n)
    low, high = wilson_interval(right, n)
    results = {"eval_pairs": n, "eval_accuracy": accuracy, "interval_low": low, "interval_high": high}
    if earlier:
        results["eval_accuracy_before"] = earlier[name]
        say(f"held-out accuracy before training, with a new head: {_percent(earlier[name])}")
    interval = f"95 % interval {_percent(low)} to {_percent(high)}"
    say(f"held-out accuracy: {_percent(accuracy)}, {right} of {n} pairs; {interval}{note}")
    return trainer, results


def _online_on_data(run, settings, policy, tokenizer, device, rows, say: Say):
    rewarder, its_tokenizer = load_reward_model(run.reward_model, device)
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"the reward model {run.reward_model!r} has another vocabulary than {run.start!r}")
    trainers = {"ppo": (PPOTrainer, PPOConfig), "online-dpo": (OnlineDPOTrainer, OnlineDPOConfig)}
    trainer_class, config = trainers.get(run.stage, (GRPOTrainer, GRPOConfig))
    trainer = trainer_class(
        policy,
        reward_funcs=rewarder,
        args=config(**settings),
        train_dataset=_enough(rows, settings, run.seed),
        processing_class=tokenizer,
        **({"advantage_fn": rloo_advantages} if run.stage == "rloo" else {}),
    )
    if run.resume:
        trainer.resume(run.output)
    history = trainer.train()
    scores = history["objective/scores" if run.stage in trainers else "reward"]
    tenth = max(len(scores) // 10, 1)
    results = {
        "score_first": sum(scores[:tenth]) / tenth,
        "score_last": sum(scores[-tenth:]) / tenth,
    }
    say(f"mean score: {results['score_first']:.3f} in the first tenth, {results['score_last']:.3f} in the last")
    if run.stage in trainers:
        results["kl"] = history.last("objective/kl")
        say(f"KL from the start: {results['kl']:.2f} nats an answer")
    return trainer, results


def _read(run: Run, tokenizer, max_length: int) -> Rows:
    """The rows a stage can use, tokenised; what was left out is counted in their report."""
    try:
        if run.stage in ("reward", "dpo", "ipo"):
            rows = load_preferences(run.data, run.split, run.data_dir)
            return tokenize_preferences(rows, tokenizer, max_length)
        rows = load_rows(run.data, run.split, run.data_dir)
        if rows and isinstance(rows[0], dict) and "chosen" in rows[0]:
            # Comparisons do for the other stages too: imitate what was chosen, answer what was asked.
            rows = preference_rows(rows, run.data)
            if run.stage == "kto":
                return tokenize_thumbs(unpair_preferences(rows), tokenizer, max_length)
            rows = Rows(({"prompt": r["prompt"], "completion": r["chosen"]} for r in rows), rows.dropped)
        tokenize = tokenize_prompts if run.stage in ONLINE else tokenize_thumbs if run.stage == "kto" else tokenize_sft
        return tokenize(rows, tokenizer, max_length)
    except TypeError as error:  # a column that holds something else than text
        raise ValueError(str(error)) from None


def _enough(rows: Rows, settings: dict[str, Any], seed: int) -> Rows:
    """As many rows as the steps asked for will use, drawn at random: DPO works on every row before its first step."""
    batch = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = settings.get("max_steps", -1) * batch * processes // settings.get("num_generations", 1)
    if not 0 < wanted < len(rows):
        return rows
    places = numpy_stream(seed, "training rows").permutation(len(rows))[:wanted]
    return Rows(rows[i] for i in sorted(places.tolist()))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# ---------------------------------------------------------------------- the output folder


def _prepare_output(run: Run) -> None:
    """Make the folder, or refuse one that holds another run's work; note the run in it."""
    if run.output is None:
        if run.resume:
            raise ValueError("--resume needs --output, the folder of the run to go on with")
        return
    folder = Path(run.output)
    unfinished = checkpoints(folder)
    if unfinished and not run.resume:
        raise ValueError(
            f"{folder} holds a run that did not come to its end ({unfinished[-1].name}): add --resume to go on with "
            "it, or name another folder"
        )
    if run.resume:
        if not unfinished:
            raise ValueError(f"there is nothing to resume in {folder}: it holds no checkpoint of an unfinished run")
        _check_same_run(run, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "run.json", _facts(run))


def _check_same_run(run: Run, folder: Path) -> None:
    """Settings are compared with the checkpoint's; models and data are only known from `run.json`."""
    try:
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if differing := [name for name, value in _facts(run).items() if before.get(name) != value]:
        changes = ", ".join(f"{name} {before.get(name)!r} → {_facts(run)[name]!r}" for name in differing)
        raise ValueError(f"the run in {folder} was another one ({changes}): resume with the same options")


def _facts(run: Run) -> dict[str, Any]:
    names = ("stage", "data", "split", "data_dir", "eval_size", "seed")
    return {"model": run.start, "reward_model": run.reward_model, **{name: getattr(run, name) for name in names}}


def _write(run: Run, trainer: Trainer, weights: dict[str, torch.Tensor], results: dict[str, float]) -> None:
    """The model as plain transformers reads it; then the checkpoints, which only a resume needs, can go."""
    folder = Path(run.output)
    with errors_in_a_sentence(folder):
        write_model(trainer, folder, weights)
    trainer.history.to_csv(folder / "history.csv")
    here = ("output_dir", "save_steps", "save_total_limit", "disable_tqdm", "use_cpu")
    _write_json(
        folder / "run.json",
        {
            **_facts(run),
            "settings": {name: value for name, value in asdict(trainer.args).items() if name not in here},
            "steps": trainer.global_step,
            "results": results,
            "versions": versions(),
        },
    )
    for left in (*folder.glob("checkpoint-*"), *folder.glob(".checkpoint-*.writing")):
        shutil.rmtree(left)


def versions() -> dict[str, str]:
    """What a run was made with."""
    return {name: version(name) for name in ("rlhf-course", "torch", "transformers")}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
