"""What breaks when one thing is wrong: eight faults, each beside the healthy run, in runs as short as a lab's.

`FAULTS` says which run has which fault and what to compare it with; `run` trains one; `runs` ships them all.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from rlhf_course import pipeline
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import draw_prompts, evaluate_policy, reward_accuracy
from rlhf_course.experiments.grpo import states_the_truth
from rlhf_course.experiments.kl import BETA, IN_THE_LOSS, PPOWithPenalty
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.ppo import MANY_EPOCHS, DropoutPPOTrainer, unclipped_loss
from rlhf_course.experiments.reward_model import score_answers
from rlhf_course.experiments.table import Table, load_result
from rlhf_course.logprobs import upcast
from rlhf_course.models import load_policy, load_reward_model
from rlhf_course.models.reward import RewardModel
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer

SEEDS = (0, 1, 2)
FRESH_ANSWERS = 128
#: What is changed in the pipeline's settings to make a run of it last some twenty seconds at most: fewer steps alone.
SHORT: dict[str, dict[str, Any]] = {
    "ppo": {"max_steps": 30, "eval_steps": 6},
    "dpo": {"eval_steps": 8},
    "reward": {"eval_steps": 10},
    "grpo": {"max_steps": 16, "eval_steps": 4},
}
#: Six passes take three times as long as two.
NO_CLIP = {"num_ppo_epochs": MANY_EPOCHS, "max_steps": 15, "eval_steps": 3}
#: Data of the short runs: pairs for DPO, rankings of four for the reward model, pairs to judge both by.
COMPARISONS, RANKINGS, HELD_OUT = 1_024, 400, 300
#: Answers whose score is asked for alone and among longer ones.
NEIGHBOURS = 64


@dataclass
class Start:
    """What every run begins with: an SFT model, the reward model of its answers, and the data of a seed.

    Attributes:
        seed: names the pairs, the prompts and the run's own chance; it need not be the models'.
    """

    sft: nn.Module
    judge: nn.Module
    seed: int = 0

    @classmethod
    def of(cls, seed: int) -> Self:
        """The pipeline's models of a seed, which are trained if there are none yet."""
        return cls(trained("sft", seed), trained("reward", seed), seed)

    @classmethod
    def shipped(cls, seed: int) -> Self:
        """The checkpoints that come with the course, tiny-sft and tiny-reward."""
        return cls(load_policy("tiny-sft", "cpu")[0], load_reward_model("tiny-reward", "cpu")[0], seed)

    @cached_property
    def comparisons(self) -> list[dict]:
        return pipeline.collect_rankings(self.sft, COMPARISONS, 2, self.seed, name="break it, comparisons")

    @cached_property
    def rankings(self) -> list[dict]:
        return pipeline.collect_rankings(
            self.sft, RANKINGS, pipeline.ANSWERS_EACH, self.seed, name="break it, rankings"
        )

    @cached_property
    def held_out(self) -> list[dict]:
        return pipeline.collect_rankings(self.sft, HELD_OUT, 2, self.seed, name="break it, held out")

    def prompts(self, n: int) -> list[dict]:
        return [{"prompt": prompt} for prompt in draw_prompts(n, derive_seed(self.seed, "break it"))]

    def settings(self, method: str, **changes: Any) -> dict[str, Any]:
        """The short run's settings of a method, with changes on top; a line of the history for each look."""
        settings = pipeline.settings(method, **SHORT[method], seed=self.seed, use_cpu=True, disable_tqdm=True)
        return settings | {"logging_steps": settings["eval_steps"]} | changes


Look = dict[str, Any]
#: From a trainer, as it stands, to what a look at it finds.
Measure = Callable[[Trainer], dict[str, float]]


# ---------------------------------------------------------------------- the methods, each with its measures


def _ppo(start: Start, trainer=PPOTrainer, loss_fn: Callable | None = None, **changes: Any) -> tuple[Trainer, Measure]:
    args = PPOConfig(**start.settings("ppo", **changes))
    return trainer(
        copy.deepcopy(start.sft),
        ref_model=start.sft,
        reward_funcs=start.judge,
        args=args,
        train_dataset=start.prompts(args.max_steps * args.per_device_train_batch_size),
        processing_class=world_tokenizer(),
        loss_fn=loss_fn,
    ), lambda trainer: {
        **_fresh(trainer, start),
        **_since(trainer, approxkl="policy/approxkl_avg", clipfrac="policy/clipfrac_avg"),
    }


def _grpo(start: Start, rule: Callable = states_the_truth, **changes: Any) -> tuple[Trainer, Measure]:
    args = GRPOConfig(**start.settings("grpo", **changes))
    return GRPOTrainer(
        copy.deepcopy(start.sft),
        ref_model=start.sft,
        reward_funcs=rule,
        args=args,
        train_dataset=start.prompts(args.max_steps * args.per_device_train_batch_size // args.num_generations),
        processing_class=world_tokenizer(),
    ), lambda trainer: {
        **_fresh(trainer, start),
        **_since(trainer, passed="reward", zero_std="frac_reward_zero_std"),
    }


def _dpo(start: Start, **changes: Any) -> tuple[Trainer, Measure]:
    trainer = DPOTrainer(
        copy.deepcopy(start.sft),
        args=DPOConfig(**start.settings("dpo", **changes)),
        train_dataset=start.comparisons,
        processing_class=world_tokenizer(),
    )
    held_out = trainer.prepare_rows(start.held_out)

    def log_probabilities() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return trainer.row_logps(trainer.policy_logps, held_out)

    before = log_probabilities()

    def measure(trainer: Trainer) -> dict[str, float]:
        chosen, rejected = (now - then for now, then in zip(log_probabilities(), before))
        return {**_fresh(trainer, start), "accuracy": (chosen > rejected).float().mean().item()}

    return trainer, measure


def _reward(start: Start, model=RewardModel, flipped: bool = False, **changes: Any) -> tuple[Trainer, Measure]:
    rows = [{**row, **{name: row[name][::-1] for name in ("ranked", "ended")}} for row in start.rankings]

    def measure(trainer: Trainer) -> dict[str, float]:
        judged = reward_accuracy(trainer.model, world_tokenizer(), start.held_out)
        return {
            **_since(trainer, train_accuracy="accuracy"),
            "accuracy": judged["rm_gold_accuracy"],
            "shift": neighbours_shift(trainer.model, start.held_out[:NEIGHBOURS]),
        }

    return RewardTrainer(
        model.from_policy(start.sft, start.seed),
        args=RewardConfig(**start.settings("reward", **changes)),
        train_dataset=rows if flipped else start.rankings,
        processing_class=world_tokenizer(),
    ), measure


def _fresh(trainer: Trainer, start: Start) -> dict[str, float]:
    """The reward model's and the truth's word on fresh answers, always to the same prompts."""
    found = evaluate_policy(
        trainer.model,
        world_tokenizer(),
        ref_model=start.sft,
        reward_model=start.judge,
        n=FRESH_ANSWERS,
        seed=derive_seed(start.seed, "looks"),
    )
    return {"score": found["proxy"], **{name: found[name] for name in ("gold", "kl", "length")}}


def _since(trainer: Trainer, **names: str) -> dict[str, float | None]:
    """Metrics of the training, their means over the steps since the last look; before the first step there are none."""
    row = trainer.history.rows[-1] if len(trainer.history) else {}
    return {name: row.get(key) for name, key in names.items()}


def neighbours_shift(model: nn.Module, rows: Sequence[dict]) -> float:
    """How far an answer's score moves, on the mean, when it is not asked for alone but in a batch with all others."""
    answers = [(row["prompt"], row["chosen"]) for row in rows]
    alone = torch.cat([score_answers(model, [answer]) for answer in answers])
    return (score_answers(model, answers) - alone).abs().mean().item()


# ---------------------------------------------------------------------- the faults


class LastColumnRewardModel(RewardModel):
    """The fault: the score is read in the batch's last column, where all answers but the longest have padding."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # With its padding: our own models never run it, and have nothing to say there.
        hidden = self._inner().base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        return upcast(self._inner().score(hidden[:, -1])).squeeze(-1)


def stands_in_tags(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A rule that no answer passes: 1 for an answer in <answer> tags, which the SFT model has never seen."""
    return [float(answer.startswith("<answer>")) for answer in completions]


#: Every run by its name: a function of a `Start` to a trainer and its measure.
RUNS: dict[str, Callable[[Start], tuple[Trainer, Measure]]] = {
    "PPO": _ppo,
    "β = 0": partial(_ppo, kl_coef=0.0),
    "no clip": partial(_ppo, loss_fn=unclipped_loss, **NO_CLIP),
    "dropout on": partial(_ppo, trainer=DropoutPPOTrainer),
    "KL as a loss": partial(
        _ppo,
        trainer=partial(PPOWithPenalty, penalty=IN_THE_LOSS["k1 as a loss"], beta=BETA),
        kl_coef=0.0,
    ),
    "DPO": _dpo,
    "no reference": partial(_dpo, reference_free=True),
    "reward model": _reward,
    "labels flipped": partial(_reward, flipped=True),
    "pad as last token": partial(_reward, model=LastColumnRewardModel),
    "GRPO": _grpo,
    "equal rewards": partial(_grpo, rule=stands_in_tags),
}


def run(name: str, start: Start, on_look: Callable[[Look, int], None] = lambda look, steps: None) -> list[Look]:
    """Train one of `RUNS`, and look at it before the first step and every so often.

    Args:
        on_look: called with each look as it is made, and with the number of steps of the whole run.

    Returns:
        The looks: `step`, and what the method's measure finds; what is not known before the first step is None there.
    """
    trainer, measure = RUNS[name](start)
    looks: list[Look] = []

    def look(trainer: Trainer) -> dict[str, float]:
        looks.append({"step": trainer.global_step, **measure(trainer)})
        on_look(looks[-1], trainer.max_steps)
        return {}

    trainer.compute_metrics = look
    trainer.evaluate()
    trainer.train()
    return looks


@dataclass(frozen=True)
class Stored:
    """Runs that ship: the rows of a table that have these values."""

    table: str
    where: dict[str, str]

    def looks(self, seed: int) -> list[Look]:
        """The looks at a seed's run, the reward model's mean score called `score` in all of them."""
        rows = load_result(self.table).where(seed=seed, **self.where)
        return [{**row, "score": row["proxy"]} if "proxy" in row else row for row in rows]


@dataclass(frozen=True)
class Fault:
    """What a broken run is to be compared with, and in what.

    Attributes:
        method: as `plots.COLOURS` calls it.
        healthy, broken: stored runs of the pipeline's settings, or as `runs` has them.
        measures: names in a look; the first is the one that gives the fault away.
    """

    method: str
    healthy: Stored
    broken: Stored
    measures: tuple[str, ...]


def _fault(method: str, table: str, column: str, healthy: str, broken: str, *measures: str) -> Fault:
    return Fault(method, Stored(table, {column: healthy}), Stored(table, {column: broken}), measures)


#: Every fault by the name of its run.
FAULTS = {
    "β = 0": _fault("ppo", "ppo.broken_runs", "run", "healthy", "β = 0", "gold", "score", "kl"),
    "no clip": _fault(
        "ppo", "ppo.broken_runs", "run", "healthy", "many epochs, no clip", "clipfrac", "approxkl", "gold"
    ),
    "no reference": _fault("dpo", "dpo.broken_runs", "run", "healthy", "no reference", "gold", "length", "accuracy"),
    "dropout on": _fault("ppo", "ppo.broken_runs", "run", "healthy", "dropout on", "approxkl", "clipfrac", "gold"),
    "labels flipped": _fault(
        "reward model", "break_it.runs", "run", "reward model", "labels flipped", "accuracy", "train_accuracy"
    ),
    "pad as last token": _fault(
        "reward model",
        "break_it.runs",
        "run",
        "reward model",
        "pad as last token",
        "shift",
        "accuracy",
        "train_accuracy",
    ),
    "equal rewards": _fault("grpo", "break_it.runs", "run", "GRPO", "equal rewards", "zero_std", "passed", "gold"),
    "KL as a loss": _fault("ppo", "kl.kl_placement", "form", "k1 in the reward", "k1 as a loss", "kl", "score", "gold"),
}
#: Runs that no other experiment has measured.
MEASURED_HERE = ("reward model", "labels flipped", "pad as last token", "GRPO", "equal rewards")
COLUMNS = ("gold", "kl", "length", "passed", "zero_std", "train_accuracy", "accuracy", "shift")


def runs(seeds: Sequence[int] = SEEDS, names: Sequence[str] = MEASURED_HERE) -> Table:
    """A reward model with its labels flipped, one that reads its score at the padding, GRPO under a rule that no answer
    passes, and their healthy twins, as short as the lab trains them.

    Columns: `seed`; `run`, of `RUNS`; `step`; of fresh answers `gold`, `kl` (nats an answer from the SFT model) and
    `length` in tokens; over the steps since the last look `passed`, the share of answers that pass the rule, and
    `zero_std`, the share of groups without spread (GRPO), and `train_accuracy` on the labels (reward model); of
    held-out pairs `accuracy`, the share in gold order, and `shift`, as `neighbours_shift` says (reward model). What a
    run does not have is None. A minute a seed.
    """
    rows = []
    for seed in seeds:
        start = Start.of(seed)
        for name in names:
            for look in run(name, start):
                rows.append({"seed": seed, "run": name, "step": look["step"]} | {c: look.get(c) for c in COLUMNS})
    settings = {"seeds": list(seeds), "rankings": RANKINGS, "held_out": HELD_OUT, "fresh_answers": FRESH_ANSWERS}
    return Table("break_it.runs", settings | {name: SHORT[name] for name in ("reward", "grpo")}, rows)
