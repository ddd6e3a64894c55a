"""What lesson 06 claims about DPO: how it fails, what it does to the answers people chose, what its pairs must hold."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from rlhf_course import pipeline
from rlhf_course.data.world import (
    WORLD,
    Labeler,
    concept_of,
    label_rankings,
    parse_sentence,
    split_sentences,
    world_tokenizer,
)
from rlhf_course.evaluation import evaluate_policy, judge_answers, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.losses import dpo_loss
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer

SEEDS = (0, 1, 2)
STEPS_BETWEEN_LOOKS = 25
FRESH_ANSWERS = 256
#: Pairs that are not trained on, from the same SFT model and labelers.
HELD_OUT = 400
#: The prompt whose answer every look keeps.
ASKED = WORLD.prompts("train")[0]

#: The pipeline's DPO, and what people do to it.
HEALTHY, NO_REFERENCE, MEAN = "healthy", "no reference", "mean of log-probabilities"
RUNS: dict[str, dict[str, Any]] = {
    HEALTHY: {},
    NO_REFERENCE: {"reference_free": True},
    MEAN: {},
    "β = 0.01": {"beta": 0.01},
    "β = 5": {"beta": 5.0},
}


# ---------------------------------------------------------------------- healthy and broken runs


class MeanDPOTrainer(DPOTrainer):
    """The fault: each completion's log-probabilities are averaged over its tokens where the loss wants their sum."""

    def pair_loss(self, chosen, rejected, ref_chosen, ref_rejected, rows) -> Tensor:
        lengths = {
            name: chosen.new_tensor([len(row[f"{name}_ids"]) for row in rows]) for name in ("chosen", "rejected")
        }
        return dpo_loss(
            chosen / lengths["chosen"],
            rejected / lengths["rejected"],
            ref_chosen / lengths["chosen"],
            ref_rejected / lengths["rejected"],
            self.args.beta,
        )


def broken_runs(
    seeds: Sequence[int] = SEEDS, runs: Sequence[str] = tuple(RUNS), comparisons: int | None = None
) -> Table:
    """The pipeline's DPO healthy and broken: without a reference, with means for sums, with β too small and too large.

    Columns: `seed`, `run` (one of `RUNS`), `beta`, then as `dpo_run` returns them. A run takes about 40 seconds on one
    core.
    """
    rows = [
        {"seed": seed, "run": run, "beta": pipeline.settings("dpo", **RUNS[run])["beta"], **look}
        for seed in seeds
        for run in runs
        for look in dpo_run(seed, run, comparisons or pipeline.COMPARISONS)
    ]
    settings = {
        "seeds": list(seeds),
        "learning_rate": pipeline.SETTINGS["dpo"]["learning_rate"],
        "comparisons": comparisons or pipeline.COMPARISONS,
        "held_out": HELD_OUT,
        "fresh_answers": FRESH_ANSWERS,
        "prompt": ASKED,
    }
    return Table("dpo.broken_runs", settings, rows)


def dpo_run(
    seed: int, run: str = HEALTHY, comparisons: int = pipeline.COMPARISONS, every: int = STEPS_BETWEEN_LOOKS
) -> list[dict[str, Any]]:
    """One DPO run from the pipeline's SFT model of a seed, on the pipeline's own pairs, looked at every so many steps.

    Returns:
        A dict a look, the first before any step. Of held-out pairs, in nats and summed over tokens whatever the loss
        does: `chosen`, `rejected`, mean log π − log π_ref; `chosen_logp`, `rejected_logp`, mean log π; `accuracy`, the
        share whose chosen log-ratio is the larger. Of fresh answers: `gold`, `kl` (nats an answer from the SFT model),
        `length` in tokens. `answer`: one to the prompt `ASKED`, always of the same random numbers.
    """
    if run not in RUNS:
        raise ValueError(f"run must be one of {', '.join(RUNS)}, got {run!r}")
    sft, tokenizer, stream = trained("sft", seed), world_tokenizer(), derive_seed(seed, "looks")
    args = pipeline.settings("dpo", seed=seed, eval_steps=every, use_cpu=True, disable_tqdm=True, **RUNS[run])

    def fresh(trainer: DPOTrainer) -> dict[str, Any]:
        found = evaluate_policy(trainer.model, tokenizer, ref_model=sft, n=FRESH_ANSWERS, seed=stream)
        (answer,) = sample_answers(trainer.model, tokenizer, [ASKED], stream)
        return {**{name: found[name] for name in ("gold", "kl", "length")}, "answer": answer.text}

    trainer = (MeanDPOTrainer if run == MEAN else DPOTrainer)(
        copy.deepcopy(sft),
        args=DPOConfig(**args),
        train_dataset=_pairs(seed, comparisons, "comparisons"),
        eval_dataset=_pairs(seed, HELD_OUT, "held-out comparisons"),
        processing_class=tokenizer,
        compute_metrics=fresh,
    )
    trainer.precompute_reference()
    trainer.history.log(0, trainer.evaluate())
    trainer.train()
    beta = trainer.args.beta
    return [
        {
            "step": row["step"],
            "chosen": row["eval_rewards/chosen"] / beta,
            "rejected": row["eval_rewards/rejected"] / beta,
            "accuracy": row["eval_rewards/accuracies"],
            "chosen_logp": row["eval_logps/chosen"],
            "rejected_logp": row["eval_logps/rejected"],
            **{name: row[f"eval_{name}"] for name in ("gold", "kl", "length", "answer")},
        }
        for row in trainer.history
        if "eval_gold" in row
    ]


@cache
def _pairs(seed: int, n: int, name: str) -> list[dict]:
    return pipeline.collect_rankings(trained("sft", seed), n, 2, seed, name=name)


# ---------------------------------------------------------------------- what the pairs do not hold

#: Where the policies of `coverage` come from, in order.
SFT_MODEL = "SFT, before"
DPO_ALL, DPO_WITHOUT, DPO_MENDED = "DPO, all pairs", "DPO, no analogy in the pairs", "the same, then its own answers"
PPO_ALL, PPO_WITHOUT = "PPO, reward model of all", "PPO, reward model of those pairs"
#: Comparisons of its own answers that the mended policy gets.
OWN_COMPARISONS = 2_000
JUDGED_ANSWERS = 512


def coverage(
    seeds: Sequence[int] = SEEDS, comparisons: int | None = None, own: int = OWN_COMPARISONS, **changes: Any
) -> Table:
    """Analogies are worth something to the labelers. What if none of the answers they are shown has one?

    The pipeline's comparisons once as they are and once with every analogy cut out of both answers before the labelers
    see them. DPO and PPO learn from either, PPO through a reward model. At last, the DPO policy of the second kind is
    asked for new pairs of answers, nothing is cut out of them, and it is trained on those: one step towards online.

    Columns: `seed`, `policy`; shares of fresh answers with an `analogy`, with the `right analogy`, and with a `closing`
    line (which both kinds of pairs hold); `gold`; `kl`, nats an answer from the SFT model. About four minutes a seed on
    one core.

    Args:
        comparisons: pairs; the pipeline's number if left out.
        own: pairs of the policy's own answers.
        changes: settings of every run, such as `max_steps=2`.
    """
    n = comparisons or pipeline.COMPARISONS
    quiet = {"use_cpu": True, "disable_tqdm": True, **changes}
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        groups = pipeline.sample_groups(sft, n, 2, seed, name="comparisons")
        shown = label_rankings(without_analogies(groups), Labeler(), derive_seed(seed, "comparisons"))
        unaware = pipeline.dpo(sft, seed, shown, **quiet).model
        judge = pipeline.reward(sft, seed, shown, **quiet).model
        fresh = pipeline.collect_rankings(unaware, own, 2, seed, name="its own answers")
        policies = {
            SFT_MODEL: sft,
            DPO_ALL: trained("dpo", seed),
            DPO_WITHOUT: unaware,
            DPO_MENDED: pipeline.dpo(unaware, seed, fresh, **quiet).model,
            PPO_ALL: trained("ppo", seed),
            PPO_WITHOUT: pipeline.ppo(sft, judge, seed, **quiet).model,
        }
        rows += [{"seed": seed, "policy": name, **habits(model, sft, seed)} for name, model in policies.items()]
    settings = {"seeds": list(seeds), "comparisons": n, "own_comparisons": own, "fresh_answers": JUDGED_ANSWERS}
    return Table("dpo.coverage", settings, rows)


def without_analogies(groups: Sequence[dict]) -> list[dict]:
    """The groups with every analogy cut out of their answers; those with an answer of nothing else are left out."""
    cut = [{**group, "answers": [_without_analogy(answer) for answer in group["answers"]]} for group in groups]
    return [group for group in cut if all(group["answers"])]


def _without_analogy(answer: str) -> str:
    kept = [s for s in split_sentences(answer) if parse_sentence(s).kind != "analogy"]
    return " ".join(f"{sentence} ." for sentence in kept)


def habits(model: nn.Module, sft: nn.Module, seed: int) -> dict[str, float]:
    """Shares of fresh answers with each habit of `coverage`, their gold and their distance from the SFT model."""
    stream = derive_seed(seed, "habits")
    found = judge_answers(model, world_tokenizer(), ref_model=sft, n=JUDGED_ANSWERS, seed=stream)
    parsed = [(a.prompt, [parse_sentence(s) for s in split_sentences(a.text)]) for a in found.answers]

    def share(has: Callable[[str, list], bool]) -> float:
        return sum(has(prompt, sentences) for prompt, sentences in parsed) / len(parsed)

    return {
        "analogy": share(lambda _, sentences: any(s.kind == "analogy" for s in sentences)),
        "right analogy": share(
            lambda prompt, sentences: any(
                s.kind == "analogy" and s.content == concept_of(prompt).analogy for s in sentences
            )
        ),
        "closing": share(lambda _, sentences: bool(sentences) and sentences[-1].kind == "closing"),
        "gold": float(found.gold.mean()),
        "kl": float(found.kl.mean()),
    }
