"""What lesson 11 claims: every method from one SFT model and the same labels, with what it costs; and five systems.

Nothing was tuned for the comparison: every method has the pipeline's settings, with the pipeline's β and most of them
with a third of it as well. All that learn from people learn from the same comparisons, directly or through one reward
model.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from math import log
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data import unpair_preferences
from rlhf_course.data.world import gold_reward, world_tokenizer
from rlhf_course.evaluation import Answer, draw_prompts, judge_answers, sample_answers, win_rate
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.reward_model import score_answers
from rlhf_course.experiments.table import Table
from rlhf_course.models.reward import RewardModel
from rlhf_course.recipes import RECIPES, cook
from rlhf_course.rlaif import ai_comparisons, teach_labeler
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.reward import RewardConfig
from rlhf_course.trainers.rlaif import SoftLabelRewardTrainer

SEEDS = (0, 1, 2)
#: Comparisons of two answers of the SFT model each: what everyone learns from.
COMPARISONS = pipeline.COMPARISONS
#: Steps of 64 sampled answers that every online method has: half of the pipeline's, by when they have nearly settled.
STEPS = 40
#: The prices of a nat: the pipeline's, and a third of it. The methods' names are those of `plots.COLOURS`, and RLOO.
PRICES: dict[str, tuple[float, ...]] = {
    "ppo": (0.1, 0.033),
    "grpo": (0.3, 0.1),
    "rloo": (0.2,),
    "dpo": (0.3, 0.1),
    "ipo": (1.0, 0.333),
    "kto": (0.3, 0.1),
    "online dpo": (0.3, 0.1),
    "rlaif": (0.3,),
}
#: Those that learn from the comparisons themselves; the others ask a reward model.
DIRECT = ("dpo", "ipo", "kto")
#: Best of how many; from so many answers to each of so many prompts.
COUNTS = (4, 16, 64)
POOL_PROMPTS = 128
FRESH_ANSWERS = 512
#: Groups of two answers that the AI labeler of "rlaif" is taught the constitution with.
TEACHING_GROUPS = 1_500
_QUIET = {"use_cpu": True, "disable_tqdm": True}


def frontier(
    seeds: Sequence[int] = SEEDS,
    prices: dict[str, tuple[float, ...]] = PRICES,
    counts: Sequence[int] = COUNTS,
    comparisons: int = COMPARISONS,
) -> Table:
    """Every method from the same SFT model and the same comparisons: what it reaches, how far it goes, what it takes.

    "ppo", "grpo", "rloo", "online dpo" and "best-of-n" ask one reward model, which has learnt from the comparisons;
    "dpo", "ipo" and "kto" learn from the comparisons themselves, KTO from each answer's thumb. "rlaif" is "grpo" with a
    reward model that has learnt from the verdicts of a language model, which was taught a constitution, on the same
    pairs of answers.

    Columns: `seed`; `method`, "sft" being where all begin; `beta` or `n`, None where there is none; of fresh answers
    `gold`, its standard error `gold_se`, `wins` (how often its gold beats the SFT model's answer to the same prompt),
    `kl` (nats an answer from the SFT model; of best-of-n, the bound log n − (n − 1)/n) and `length`; then the cost:
    `seconds` of processor time that training the policy took, and `judge_seconds` for the judge before that; numbers of
    weights `trained` and `frozen` that are held meanwhile (best-of-n's: whenever it answers); `labels`, and by whom, in
    `labeler`; `answers` sampled in training (by best-of-n: for each answer given). Six minutes a seed.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        pairs = pipeline.collect_rankings(sft, comparisons, 2, seed, name="comparisons")
        people, people_seconds = _timed(_peoples_judge, sft, pairs, seed)
        start = {"beta": None, "n": None, "seconds": 0.0, "judge_seconds": 0.0, "trained": 0, "frozen": 0}
        nobody = {"labels": 0, "labeler": None, "answers": 0}
        rows.append({"seed": seed, "method": "sft", **start, **nobody, **_judged(sft, seed)})
        paid = {"labels": len(pairs), "labeler": "people"}
        for row in best_of(sft, people, seed, counts):
            held = {"judge_seconds": people_seconds, "frozen": _size(sft, people), "answers": row["n"]}
            rows.append({"seed": seed, "method": "best-of-n", **start, **paid, **held, **row})
        for method, betas in prices.items():
            judge, judge_seconds = people, people_seconds
            if method == "rlaif":
                judge, judge_seconds = _timed(_taught_judge, sft, pairs, seed)
            for beta in betas:
                trainer, seconds = _timed(_train, method, sft, judge, pairs, seed, beta)
                direct = method in DIRECT
                rows.append(
                    {
                        "seed": seed,
                        "method": method,
                        **start,
                        "beta": beta,
                        **_judged(trainer.model, seed),
                        "seconds": seconds,
                        "judge_seconds": 0.0 if direct else judge_seconds,
                        **_held(trainer),
                        "labels": len(pairs),
                        "labeler": "a model" if method == "rlaif" else "people",
                        "answers": 0 if direct else STEPS * 64,
                    }
                )
    columns = list(rows[0])
    in_order = [{column: row[column] for column in columns} for row in rows]
    return Table("choosing.frontier", _settings(seeds, comparisons=comparisons), in_order)


def systems(seeds: Sequence[int] = SEEDS, names: Sequence[str] = tuple(RECIPES), scale: float = 1.0) -> Table:
    """The five systems in miniature, each from the pipeline's pre-trained model.

    Columns: `seed`, `recipe`, `place` from 1 on, `step` (its name), `gold` and `kl` (from the recipe's first step) of
    fresh answers, `note`, and `seconds`, the processor time of the whole recipe, its judging included. Six minutes a
    seed.
    """
    rows = []
    for seed in seeds:
        base = trained("pretrain", seed)
        for name in names:
            steps, seconds = _timed(cook, name, base, seed, scale, say=_silence)
            for place, step in enumerate(steps, 1):
                about = {"seed": seed, "recipe": name, "place": place, "step": step.name}
                rows.append({**about, "gold": step.gold, "kl": step.kl, "note": step.note, "seconds": seconds})
    return Table("choosing.systems", {"seeds": list(seeds), "scale": scale}, rows)


# ---------------------------------------------------------------------- one run


def _train(method: str, sft: nn.Module, judge: nn.Module, pairs: list[dict], seed: int, beta: float) -> Trainer:
    """One method's trainer, trained: the pipeline's stage of that name, with another β."""
    if method == "ppo":
        return pipeline.ppo(sft, judge, seed, kl_coef=beta, max_steps=STEPS, **_QUIET)
    if method in ("grpo", "rlaif"):
        return pipeline.grpo(sft, judge, seed, beta=beta, max_steps=STEPS, **_QUIET)
    if method == "rloo":
        return pipeline.rloo(sft, judge, seed, beta=beta, max_steps=STEPS, **_QUIET)
    if method == "online dpo":
        return pipeline.online_dpo(sft, judge, seed, beta=beta, max_steps=STEPS, **_QUIET)
    if method == "kto":  # as many updates as the others make, each of as many answers
        size = {"per_device_train_batch_size": 64}
        return pipeline.kto(sft, seed, unpair_preferences(pairs), beta=beta, **size, **_QUIET)
    return {"dpo": pipeline.dpo, "ipo": pipeline.ipo}[method](sft, seed, pairs, beta=beta, **_QUIET)


def best_of(sft: nn.Module, judge: nn.Module, seed: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """What the answer that `judge` scores highest of n is worth: for each n a dict, as `_judged` returns it, with `n`.

    The largest n's answers are sampled once, and cut into groups for a smaller one.
    """
    stream, size = derive_seed(seed, "fresh answers"), max(counts)
    prompts = draw_prompts(FRESH_ANSWERS, stream)[:POOL_PROMPTS]  # the first of those that all are judged on
    repeated = [prompt for prompt in prompts for _ in range(size)]
    pool = sample_answers(sft, world_tokenizer(), repeated, derive_seed(seed, "pool to choose from"))
    scores = score_answers(judge, [(a.prompt, a.text) for a in pool]).numpy().reshape(len(prompts), size)
    gold = _golds(pool).numpy().reshape(scores.shape)
    length = np.array([len(a.text.split()) + a.ended for a in pool]).reshape(scores.shape)
    theirs = _opponents_golds(seed)[: len(prompts)]
    found = []
    for n in counts:
        groups = size // n
        best = scores[:, : groups * n].reshape(len(prompts), groups, n).argmax(axis=2) + n * np.arange(groups)
        winners = np.take_along_axis(gold, best, axis=1)
        games = (torch.tensor(winners).flatten(), theirs.repeat_interleave(groups))
        found.append(
            {
                "n": n,
                "gold": float(winners.mean()),
                "gold_se": float(winners.mean(axis=1).std(ddof=1) / len(prompts) ** 0.5),
                "wins": win_rate(*games),
                "kl": log(n) - (n - 1) / n,
                "length": float(np.take_along_axis(length, best, axis=1).mean()),
            }
        )
    return found


def _peoples_judge(sft: nn.Module, pairs: list[dict], seed: int) -> RewardModel:
    return pipeline.reward(sft, seed, pairs, **_QUIET).model


def _taught_judge(sft: nn.Module, pairs: list[dict], seed: int) -> RewardModel:
    """A reward model that has learnt from a language model's verdicts on the same pairs, asked in both orders."""
    tokenizer = world_tokenizer()
    teaching = pipeline.sample_groups(sft, TEACHING_GROUPS, 2, seed, name="teaching the labeler")
    labeler = teach_labeler(sft, tokenizer, teaching, seed, use_cpu=True)
    groups = [
        {"prompt": row["prompt"], "answers": [row["chosen"], row["rejected"]], "ended": row["ended"]} for row in pairs
    ]
    judge = RewardModel.from_policy(sft, seed)
    args = RewardConfig(**pipeline.settings("reward", seed=seed, **_QUIET))
    labels = ai_comparisons(groups, labeler)
    SoftLabelRewardTrainer(judge, args=args, train_dataset=labels, processing_class=tokenizer).train()
    return judge.eval()


# ---------------------------------------------------------------------- what is measured of it


def _judged(policy: nn.Module, seed: int) -> dict[str, float]:
    """Gold, KL and length of fresh answers, and how often they beat the SFT model's to the same prompts."""
    stream = derive_seed(seed, "fresh answers")
    found = judge_answers(policy, world_tokenizer(), ref_model=trained("sft", seed), n=FRESH_ANSWERS, seed=stream)
    means = found.means()
    return {
        **{name: means[name] for name in ("gold", "gold_se", "kl", "length")},
        "wins": win_rate(torch.tensor(found.gold, dtype=torch.float32), _opponents_golds(seed)),
    }


@cache
def _opponents_golds(seed: int) -> torch.Tensor:
    """Gold of the SFT model's answers to the prompts that all are judged on, in a draw of their own."""
    prompts = draw_prompts(FRESH_ANSWERS, derive_seed(seed, "fresh answers"))
    return _golds(sample_answers(trained("sft", seed), world_tokenizer(), prompts, derive_seed(seed, "opponent")))


def _golds(answers: Sequence[Answer]) -> torch.Tensor:
    return torch.tensor([gold_reward(a.prompt, a.text, ended=a.ended) for a in answers])


def _timed(work: Callable[..., Any], *args: Any, **more: Any) -> tuple[Any, float]:
    """What it returns, and the processor seconds it took."""
    began = time.process_time()
    return work(*args, **more), time.process_time() - began


def _silence(line: str) -> None:
    """What a recipe says when nobody listens."""


def _size(*models: nn.Module) -> int:
    return sum(p.numel() for model in models for p in model.parameters())


def _held(trainer: Trainer) -> dict[str, int]:
    """Numbers of weights that learn, and of those that are held to be asked."""
    judges = trainer.reward_funcs if isinstance(trainer.reward_funcs, list) else [trainer.reward_funcs]
    asked = [model for model in (trainer.ref_model, *judges) if isinstance(model, nn.Module)]
    return {"trained": _size(*trainer.trained_models().values()), "frozen": _size(*asked)}


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "steps": STEPS, "fresh_answers": FRESH_ANSWERS, "prices": PRICES, **more}
