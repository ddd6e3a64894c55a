"""What lesson 07 claims about DPO's relatives: label noise, margins without end, thumbs for pairs, and fresh pairs.

No loss was tuned on the seeds reported: β is that of the pipeline's DPO, but for IPO, whose β means something else (its
default of 0.1 for sums, 1 for averages).
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data import unpair_preferences
from rlhf_course.data.world import Labeler, gold_reward, label_rankings, world_tokenizer
from rlhf_course.evaluation import draw_prompts, judge_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.losses import ipo_loss
from rlhf_course.seeding import derive_seed, numpy_stream
from rlhf_course.trainers import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    OnlineDPOConfig,
    OnlineDPOTrainer,
)
from rlhf_course.trainers.base import Trainer

SEEDS = (0, 1, 2)
JUDGED_ANSWERS = 512
LOOK_ANSWERS = 256

DPO, IPO, IPO_AVERAGED, HINGE = "DPO", "IPO", "IPO, averaged", "hinge"
CDPO, ROBUST, KTO = "cDPO", "robust", "KTO"
#: Each loss's settings. "IPO" is the paper's, of sums; "IPO, averaged" is TRL's, of means over tokens.
SETTINGS: dict[str, dict[str, Any]] = {
    DPO: {"beta": 0.3},
    IPO: {"beta": 0.1},
    IPO_AVERAGED: {"beta": 1.0, "loss_type": "ipo"},
    HINGE: {"beta": 0.3, "loss_type": "hinge"},
    CDPO: {"beta": 0.3},
    ROBUST: {"beta": 0.3, "loss_type": "robust"},
    KTO: {"beta": 0.3},
}
LEARNING_RATE = 2e-4
_QUIET = {"use_cpu": True, "disable_tqdm": True, "learning_rate": LEARNING_RATE}


def new_trainer(method: str, sft: nn.Module, pairs: list[dict], seed: int, **changes: Any) -> Trainer:
    """A trainer of one of the losses on comparisons, which KTO gets as thumbs. `changes` go over `SETTINGS`."""
    more = {name: changes.pop(name) for name in ("eval_dataset", "compute_metrics") if name in changes}
    settings = {**_QUIET, "seed": seed, **SETTINGS[method], **changes}
    if method == KTO:
        # As many updates as the others make, each of as many answers.
        settings["per_device_train_batch_size"] = 64
        trainer_class, config, rows = KTOTrainer, KTOConfig, unpair_preferences(pairs)
    else:
        trainer_class, config, rows = DPOTrainer, DPOConfig, pairs
    return trainer_class(
        copy.deepcopy(sft),
        args=config(**settings),
        train_dataset=rows,
        processing_class=world_tokenizer(),
        loss_fn=ipo_loss if method == IPO else None,
        **more,
    )


def judged(model: nn.Module, sft: nn.Module, seed: int, n: int | None = None) -> dict[str, float]:
    """Mean gold of fresh answers, their KL from the SFT model in nats an answer, and the share worth less than 0."""
    found = judge_answers(
        model, world_tokenizer(), ref_model=sft, n=n or JUDGED_ANSWERS, seed=derive_seed(seed, "judge")
    )
    means = found.means()
    return {"gold": means["gold"], "kl": means["kl"], "bad": float((found.gold < 0).mean())}


# ---------------------------------------------------------------------- noise

FLIP_RATES = (0.0, 0.2, 0.4)
NOISY_COMPARISONS = 2_000


def label_noise(
    seeds: Sequence[int] = SEEDS,
    flip_rates: Sequence[float] = FLIP_RATES,
    methods: Sequence[str] = tuple(SETTINGS),
    comparisons: int = NOISY_COMPARISONS,
) -> Table:
    """Every loss on the same comparisons, with a share of the labels turned round after the labelers chose.

    cDPO and robust DPO are told the share; without flips they are DPO, and are left out. One pass over the pairs.

    Columns: `seed`, `loss`, `flip_rate`, `beta`; of fresh answers `gold`, `kl` (nats an answer from the SFT model) and
    `bad`, the share below 0 in gold. About nine seconds a run on one core, of which there are 57.
    """
    rows = []
    for seed in seeds:
        sft, groups = trained("sft", seed), _groups(seed, comparisons)
        for flip_rate in flip_rates:
            pairs = label_rankings(groups, Labeler(flip_rate=flip_rate), derive_seed(seed, "noisy comparisons"))
            for method in methods:
                if method in (CDPO, ROBUST) and flip_rate == 0:
                    continue
                told = {"label_smoothing": flip_rate} if method in (CDPO, ROBUST) else {}
                trainer = new_trainer(method, sft, pairs, seed, **told)
                trainer.train()
                if method == DPO:
                    pairs = trainer.train_rows  # which have the reference's log-probabilities now
                facts = {"seed": seed, "loss": method, "flip_rate": flip_rate, "beta": trainer.args.beta}
                rows.append({**facts, **judged(trainer.model, sft, seed)})
    return Table("dpo_variants.label_noise", _settings(seeds, comparisons=comparisons), rows)


@cache
def _groups(seed: int, n: int) -> list[dict]:
    return pipeline.sample_groups(trained("sft", seed), n, 2, seed, name="comparisons")


# ---------------------------------------------------------------------- few pairs, seen often

FEW, EPOCHS, EPOCHS_BETWEEN_LOOKS = 256, 24, 4
CERTAIN, FLIPPED = "certain", "a quarter flipped"
DPO_DEAR = "DPO, β = 1"
#: The runs of `few_pairs`: a loss and what is changed of its settings.
FEW_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    DPO: (DPO, {}),
    DPO_DEAR: (DPO, {"beta": 1.0}),
    IPO: (IPO, {}),
    CDPO: (CDPO, {"label_smoothing": 0.1}),
}


def few_pairs(
    seeds: Sequence[int] = SEEDS,
    labels: Sequence[str] = (CERTAIN, FLIPPED),
    runs: Sequence[str] = tuple(FEW_RUNS),
    epochs: int = EPOCHS,
) -> Table:
    """IPO's home ground: 256 comparisons without doubt, gone over again and again; and the same with a quarter flipped.

    The labels are the gold order itself ("certain"), so that no pair ever meets its opposite.

    Columns: `seed`, `labels`, `run`, `epoch`; `margin`, the mean log-ratio of chosen minus rejected in nats, of the
    training pairs by their labels, `held_out_margin` of unseen pairs by the gold order, and `held_out_accuracy`; of
    fresh answers `gold`, `kl` and `bad` as in `label_noise`. About 25 seconds a run on one core, of which there are 24.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        unseen = certain_pairs(pipeline.sample_groups(sft, 2 * FEW, 2, seed, name="held-out comparisons"), FEW)
        pairs = certain_pairs(_groups(seed, 4 * FEW), FEW)
        flips = numpy_stream(seed, "a quarter of few pairs").permutation(FEW) < FEW // 4
        given = {CERTAIN: pairs, FLIPPED: [_turned(row) if flip else row for row, flip in zip(pairs, flips)]}
        for kind in labels:
            for run in runs:
                for look in _few_run(run, sft, given[kind], unseen, seed, epochs):
                    rows.append({"seed": seed, "labels": kind, "run": run, **look})
    more = {"comparisons": FEW, "epochs": epochs, "fresh_answers": LOOK_ANSWERS}
    return Table("dpo_variants.few_pairs", _settings(seeds, **more), rows)


def _few_run(run: str, sft: nn.Module, pairs, unseen, seed: int, epochs: int) -> list[dict[str, float]]:
    method, changes = FEW_RUNS[run]

    def look(trainer: Trainer) -> dict[str, float]:
        return {"train_margin": _margin(trainer), **judged(trainer.model, sft, seed, LOOK_ANSWERS)}

    steps = FEW // 32 * EPOCHS_BETWEEN_LOOKS
    schedule = {"num_train_epochs": epochs, "lr_scheduler_type": "constant", "eval_steps": steps}
    trainer = new_trainer(method, sft, pairs, seed, **schedule, **changes, eval_dataset=unseen, compute_metrics=look)
    trainer.precompute_reference()
    trainer.history.log(0, trainer.evaluate())
    trainer.train()
    return [
        {
            "epoch": row["step"] * 32 // FEW,
            "margin": row["eval_train_margin"],
            "held_out_margin": row["eval_rewards/margins"] / trainer.args.beta,
            "held_out_accuracy": row["eval_rewards/accuracies"],
            **{name: row[f"eval_{name}"] for name in ("gold", "kl", "bad")},
        }
        for row in trainer.history
        if "eval_gold" in row
    ]


@torch.no_grad()
def _margin(trainer: DPOTrainer) -> float:
    """The mean margin of the training pairs, in nats."""
    margins = []
    for rows in (trainer.train_rows[i : i + 64] for i in range(0, len(trainer.train_rows), 64)):
        (chosen, rejected), (ref_chosen, ref_rejected) = (
            trainer.row_logps(trainer.policy_logps, rows),
            trainer.reference(rows),
        )
        margins.append((chosen - ref_chosen) - (rejected - ref_rejected))
    return torch.cat(margins).mean().item()


def certain_pairs(groups: Sequence[dict], n: int) -> list[dict]:
    """The first `n` pairs whose two answers differ in gold, in gold order."""
    kept = []
    for group in groups:
        golds = [gold_reward(group["prompt"], a, ended=e) for a, e in zip(group["answers"], group["ended"])]
        if abs(golds[0] - golds[1]) > 1e-9 and len(kept) < n:
            best = int(golds[1] > golds[0])
            ended = (group["ended"][best], group["ended"][1 - best])
            chosen, rejected = group["answers"][best], group["answers"][1 - best]
            kept.append({"prompt": group["prompt"], "chosen": chosen, "rejected": rejected, "ended": ended})
    if len(kept) < n:
        raise ValueError(f"groups must hold {n} pairs that differ in gold, got {len(kept)}")
    return kept


def _turned(row: dict) -> dict:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"], "ended": row["ended"][::-1]}


# ---------------------------------------------------------------------- thumbs

SINGLE_ANSWERS = 4_000
HALF_UP, FEW_UP = "half thumbs up", "one in six thumbs up"
#: What share of answers is to get thumbs up.
_UP = {HALF_UP: 1 / 2, FEW_UP: 1 / 6}
#: The runs of `thumbs`: data, λ_D, λ_U.
THUMB_RUNS = (
    (HALF_UP, 1.0, 1.0),
    (HALF_UP, 1.0, 2.0),
    (HALF_UP, 2.0, 1.0),
    (FEW_UP, 1.0, 1.0),
    (FEW_UP, 5.0, 1.0),
)


def thumbs(
    seeds: Sequence[int] = SEEDS, runs: Sequence[tuple[str, float, float]] = THUMB_RUNS, answers: int = SINGLE_ANSWERS
) -> Table:
    """KTO where DPO cannot start: one answer a prompt, with thumbs up or down, and λ_D and λ_U in several ratios.

    A labeler gives thumbs up with probability σ((utility − bar)/T), T as in comparisons; the bar sets their number.

    Columns: `seed`, `data`, `desirable_weight`, `undesirable_weight`, `up` (the share that got thumbs up); of fresh
    answers `gold`, `kl` and `bad` as in `label_noise`. About ten seconds a run on one core, of which there are 15.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        data = {kind: give_thumbs(_groups(seed, answers), seed, up) for kind, up in _UP.items()}
        for kind, desirable, undesirable in runs:
            weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
            args = KTOConfig(**_QUIET, seed=seed, **SETTINGS[KTO], **weights, per_device_train_batch_size=64)
            trainer = KTOTrainer(
                copy.deepcopy(sft), args=args, train_dataset=data[kind], processing_class=world_tokenizer()
            )
            trainer.train()
            up = float(np.mean([row["label"] for row in data[kind]]))
            rows.append({"seed": seed, "data": kind, **weights, "up": up, **judged(trainer.model, sft, seed)})
    return Table("dpo_variants.thumbs", _settings(seeds, answers=answers), rows)


def give_thumbs(groups: Sequence[dict], seed: int, share_up: float) -> list[dict]:
    """The first answer of each group with thumbs up or down, about `share_up` of them up."""
    labeler = people(groups)
    utilities = np.array([labeler.utility(g["prompt"], g["answers"][0], g["ended"][0]) for g in groups])
    low, high = utilities.min() - 10, utilities.max() + 10
    for _ in range(50):  # the bar, by bisection
        bar = (low + high) / 2
        up = labeler.preference_probability(utilities, bar)
        low, high = (bar, high) if up.mean() > share_up else (low, bar)
    labels = numpy_stream(seed, "thumbs").random(len(groups)) < up
    return [
        {"prompt": g["prompt"], "completion": g["answers"][0], "ended": g["ended"][0], "label": bool(label)}
        for g, label in zip(groups, labels)
    ]


def people(groups: Sequence[dict]) -> Labeler:
    """The labeler of comparisons, at the temperature at which two of them agree 72.6 % of the time on these answers."""
    both = [[Labeler().utility(g["prompt"], *x) for x in zip(g["answers"], g["ended"])] for g in groups]
    return Labeler().calibrated(*np.array(both).T)


# ---------------------------------------------------------------------- fresh pairs

OFFLINE, ONLINE, ONLINE_RM = "offline, people", "online, people", "online, reward model"
#: Comparisons of each run, as many as the pipeline's DPO has, and how many there are between two looks.
LABELS, LABELS_BETWEEN_LOOKS = pipeline.COMPARISONS, 800


def online(
    seeds: Sequence[int] = SEEDS, methods: Sequence[str] = (OFFLINE, ONLINE, ONLINE_RM), labels: int = LABELS
) -> Table:
    """The same loss, the same number of labels and steps: pairs of the SFT model, or of the policy as it learns.

    The online pairs are judged by the same people, or by the pipeline's reward model, whose labels cost nothing new (it
    learned from 5,000 rankings of four).

    Columns: `seed`, `method`, `labels` (comparisons so far); of fresh answers `gold`, `kl` and `bad` as in
    `label_noise`. About 40 seconds a run on one core, of which there are nine.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)

        def look(trainer: Trainer, sft=sft, seed=seed) -> dict[str, float]:
            return judged(trainer.model, sft, seed, LOOK_ANSWERS)

        for method in methods:
            trainer = _fresh_trainer(method, sft, seed, labels, look)
            trainer.history.log(0, trainer.evaluate())
            trainer.train()
            for row in trainer.history:
                if "eval_gold" in row:
                    found = {name: row[f"eval_{name}"] for name in ("gold", "kl", "bad")}
                    rows.append({"seed": seed, "method": method, "labels": row["step"] * 32, **found})
    more = {"labels": labels, "fresh_answers": LOOK_ANSWERS}
    return Table("dpo_variants.online", _settings(seeds, **more), rows)


def _fresh_trainer(method: str, sft: nn.Module, seed: int, labels: int, look: Callable) -> Trainer:
    settings = {"eval_steps": LABELS_BETWEEN_LOOKS // 32, "lr_scheduler_type": "cosine"}
    if method == OFFLINE:
        pairs = label_rankings(_groups(seed, labels), Labeler(), derive_seed(seed, "comparisons"))
        return new_trainer(DPO, sft, pairs, seed, **settings, compute_metrics=look)
    judge = trained("reward", seed) if method == ONLINE_RM else Panel(people(_groups(seed, labels)))
    prompts = draw_prompts(labels, derive_seed(seed, "online dpo"))
    return OnlineDPOTrainer(
        copy.deepcopy(sft),
        ref_model=sft,
        reward_funcs=judge,
        args=OnlineDPOConfig(**_QUIET, seed=seed, max_steps=labels // 32, **SETTINGS[DPO], **settings),
        train_dataset=[{"prompt": prompt} for prompt in prompts],
        processing_class=world_tokenizer(),
        compute_metrics=look,
    )


class Panel:
    """Labelers as a judge of fresh answers: utility plus Gumbel noise, so that the higher one wins by Bradley–Terry."""

    def __init__(self, labeler: Labeler):
        self.labeler = labeler

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> torch.Tensor:
        utilities = torch.tensor([self.labeler.utility(p, c) for p, c in zip(prompts, completions)])
        uniform = torch.rand(len(utilities)).clamp(1e-6, 1 - 1e-6)  # of the step's own stream
        return utilities - self.labeler.temperature * torch.log(-torch.log(uniform))


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "learning_rate": LEARNING_RATE, **more}
