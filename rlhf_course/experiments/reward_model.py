"""What lesson 03 claims about reward models, measured on the small world from pre-training on.

Every function takes seeds and returns a `Table`. The experiments share the models they begin with and the answers they
ask for. One seed of all five takes about ten minutes on one core.
"""

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

import torch
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data.world import WORLD, Concept, Labeler, label_rankings, world_tokenizer
from rlhf_course.data.world.grammar import ANALOGIES, CLOSING, FACTS, FILLER, HEDGE, JARGON, JARGON_WORDS, PLAIN
from rlhf_course.evaluation import CHUNK, reward_accuracy
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.generation import evaluation_mode
from rlhf_course.models.reward import RewardModel
from rlhf_course.seeding import derive_seed, python_stream
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer

SEEDS = (0, 1, 2)
#: Labelers with no taste of their own.
PEOPLE = Labeler()
#: Rankings of four answers, six pairs each. 3,000 are what the comparisons among labelers take, to save time.
SIZES = (300, 1_000, 3_000, 5_000)
COMPARED_AT = 3_000
FLIP_RATES = (0.0, 0.1, 0.2, 0.3, 0.4)
#: Gold units a word, of labelers who like long answers. An answer of 30 words gains 1.5, as much as a fact and a half.
LENGTH_BIASES = (0.0, 0.05)
TEST_PAIRS = 1_500
#: Steps of training between two looks at the minimal pairs.
EVAL_STEPS = 26

Pair = tuple[str, str, str]  # prompt, better answer, worse answer


def data_scaling(seeds: Sequence[int] = SEEDS, sizes: Sequence[int] = SIZES) -> Table:
    """How well a reward model puts fresh pairs in gold order, by the number of rankings it learned from.

    Columns: `seed`, `rankings`, then what `reward_accuracy` returns, on concepts of the training data ("seen" pairs of
    fresh answers) and, as `new_…`, on four concepts that no ranking was about.
    """
    rows = []
    for seed in seeds:
        for size in sizes:
            model, _ = _reward_model(seed, size, PEOPLE)
            seen = reward_accuracy(model, world_tokenizer(), _test_pairs(seed, "train", PEOPLE))
            new = reward_accuracy(model, world_tokenizer(), _test_pairs(seed, "held_out", PEOPLE))
            names = ("rm_gold_accuracy", "label_gold_accuracy")
            rows.append({"seed": seed, "rankings": size, **seen, **{f"new_{name}": new[name] for name in names}})
    return Table("reward_model.data_scaling", _settings(seeds), rows)


def label_noise(seeds: Sequence[int] = SEEDS, flip_rates: Sequence[float] = FLIP_RATES) -> Table:
    """The same with a share of the rankings turned upside down, on top of the labelers' ordinary disagreement.

    Columns: `seed`, `flip_rate`, then what `reward_accuracy` returns on pairs labelled with as many flips.
    """
    rows = []
    for seed in seeds:
        for flip_rate in flip_rates:
            labeler = Labeler(flip_rate=flip_rate)
            model, _ = _reward_model(seed, COMPARED_AT, labeler)
            measured = reward_accuracy(model, world_tokenizer(), _test_pairs(seed, "train", labeler))
            rows.append({"seed": seed, "flip_rate": flip_rate, **measured})
    return Table("reward_model.label_noise", _settings(seeds, rankings=COMPARED_AT), rows)


def calibration(seeds: Sequence[int] = SEEDS, bins: int = 5) -> Table:
    """When the model says P, how often does the labeler agree? Its gaps on test pairs, in bins of P from .5 to 1.

    Columns: `seed`, `bin` (from 0), `predicted` (mean P of the answer the model prefers), `observed` (how often the
    labeler preferred it too) and `pairs`.
    """
    rows = []
    for seed in seeds:
        model, _ = _reward_model(seed, max(SIZES), PEOPLE)
        pairs = [(row["prompt"], row["chosen"], row["rejected"]) for row in _test_pairs(seed, "train", PEOPLE)]
        rows += [{"seed": seed, **row} for row in calibration_bins(reward_gaps(model, pairs), bins)]
    return Table("reward_model.calibration", _settings(seeds, rankings=max(SIZES)), rows)


def style_before_truth(seeds: Sequence[int] = SEEDS) -> Table:
    """What the reward model has learnt at each point of its training, on pairs that differ in one thing.

    Columns: `seed`, `step`, `kind` (one of `KINDS`) and `accuracy`, the share of pairs in which the better answer
    scores higher.
    """
    rows = []
    for seed in seeds:
        _, history = _reward_model(seed, max(SIZES), PEOPLE)
        looks = [row for row in history if f"eval_{KINDS[0]}" in row][:-1]  # the last is at each seed's own end
        rows += [
            {"seed": seed, "step": row["step"], "kind": kind, "accuracy": row[f"eval_{kind}"]}
            for row in looks
            for kind in KINDS
        ]
    return Table("reward_model.style_before_truth", _settings(seeds, rankings=max(SIZES), eval_steps=EVAL_STEPS), rows)


def length_bias(seeds: Sequence[int] = SEEDS, biases: Sequence[float] = LENGTH_BIASES) -> Table:
    """What a sentence that says nothing adds to a score, when labelers like length and when they do not.

    Columns: `seed`, `bias` (gold units a word), `sentences` of filler put in, and `reward`, the mean score relative to
    the same answer without any. The gold reward of filler is 0.
    """
    rows = []
    for seed in seeds:
        for bias in biases:
            model, _ = _reward_model(seed, COMPARED_AT, Labeler(length_bias=bias))
            plain, *padded = padded_answers(python_stream(seed, "padded answers"))
            base = score_answers(model, plain)
            for count, texts in enumerate([plain, *padded]):
                gain = (score_answers(model, texts) - base).mean().item()
                rows.append({"seed": seed, "bias": bias, "sentences": count, "reward": gain})
    return Table("reward_model.length_bias", _settings(seeds, rankings=COMPARED_AT), rows)


# ---------------------------------------------------------------------- measuring


def score_answers(model: nn.Module, answers: Sequence[tuple[str, str]]) -> torch.Tensor:
    """The rewards (N,) of (prompt, answer) texts."""
    tokenizer = world_tokenizer()
    texts = [f"{prompt} {answer} {tokenizer.eos_token}" for prompt, answer in answers]
    found = []
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(texts), CHUNK):
            batch = tokenizer(texts[start : start + CHUNK], padding=True, padding_side="right", return_tensors="pt").to(
                model.device
            )
            found.append(model(batch.input_ids, batch.attention_mask).cpu())
    return torch.cat(found)


def reward_gaps(model: RewardModel, pairs: Sequence[Pair]) -> torch.Tensor:
    """r(better) − r(worse), (N,)."""
    better = score_answers(model, [(prompt, answer) for prompt, answer, _ in pairs])
    return better - score_answers(model, [(prompt, answer) for prompt, _, answer in pairs])


def calibration_bins(gaps: torch.Tensor, bins: int = 5) -> list[dict[str, float]]:
    """Predicted against observed: pairs grouped by how sure the model is of the answer it prefers.

    Args:
        gaps: (N,) r(chosen) − r(rejected), chosen being the labeler's choice.

    Returns:
        For each bin that is not empty `bin`, `predicted`, `observed` and `pairs`.
    """
    sure = torch.sigmoid(gaps.abs())  # P of the answer the model prefers, from a half to 1
    agrees = (gaps > 0).float()
    place = ((sure - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    return [
        {
            "bin": i,
            "predicted": sure[place == i].mean().item(),
            "observed": agrees[place == i].mean().item(),
            "pairs": int((place == i).sum()),
        }
        for i in range(bins)
        if (place == i).any()
    ]


# ---------------------------------------------------------------------- pairs that differ in one thing


def _sentence(stream: Random, templates: Sequence[str], words: str = "") -> str:
    return stream.choice(templates).format(words)


def _jargon(stream: Random) -> str:
    template = stream.choice(JARGON)
    return template.format(*(stream.choice(JARGON_WORDS) for _ in range(template.count("{}"))))


def _answer(*sentences: str) -> str:
    return " ".join(f"{sentence} ." for sentence in sentences if sentence)


def _jargon_pair(stream: Random, concept: Concept, other: Concept) -> tuple[str, str]:
    fact, closing = _sentence(stream, FACTS, concept.fact), stream.choice(CLOSING)
    return _answer(fact, stream.choice(PLAIN), closing), _answer(fact, _jargon(stream), closing)


def _closing_pair(stream: Random, concept: Concept, other: Concept) -> tuple[str, str]:
    start = _sentence(stream, FACTS, concept.fact), stream.choice(FILLER)
    return _answer(*start, stream.choice(CLOSING)), _answer(*start)


def _hedge_pair(stream: Random, concept: Concept, other: Concept) -> tuple[str, str]:
    fact, closing = _sentence(stream, FACTS, concept.fact), stream.choice(CLOSING)
    return _answer(fact, closing), _answer(f"{HEDGE} {fact}", closing)


def _fact_pair(stream: Random, concept: Concept, other: Concept) -> tuple[str, str]:
    template, closing = stream.choice(FACTS), stream.choice(CLOSING)
    return _answer(template.format(concept.fact), closing), _answer(template.format(other.fact), closing)


def _analogy_pair(stream: Random, concept: Concept, other: Concept) -> tuple[str, str]:
    template, closing = stream.choice(ANALOGIES), stream.choice(CLOSING)
    fact = _sentence(stream, FACTS, concept.fact)
    right, wrong = template.format(concept.analogy), template.format(other.analogy)
    return _answer(fact, right, closing), _answer(fact, wrong, closing)


_MAKERS: dict[str, Callable[[Random, Concept, Concept], tuple[str, str]]] = {
    "jargon": _jargon_pair,
    "closing": _closing_pair,
    "hedge": _hedge_pair,
    "right fact": _fact_pair,
    "right analogy": _analogy_pair,
}
#: What two answers of a minimal pair differ in, matters of style first.
KINDS = tuple(_MAKERS)


def minimal_pairs(kind: str, n: int, seed: int = 0) -> list[Pair]:
    """`n` pairs of answers that differ in one thing: (prompt, better answer, worse answer) by the gold reward.

    Args:
        kind: one of `KINDS`. "jargon" has a plain remark in one answer and jargon in the other; "closing" and "hedge"
            have a closing line, or a doubt, in one of them; "right fact" and "right analogy" have the concept's own in
            one and another concept's in the other.
    """
    stream = python_stream(seed, "minimal pairs", kind)
    concepts = WORLD.concepts("train")
    pairs = []
    for _ in range(n):
        concept, other = stream.sample(concepts, 2)
        pairs.append((concept.prompt, *_MAKERS[kind](stream, concept, other)))
    return pairs


def minimal_pair_accuracies(model: RewardModel, n: int = 200) -> dict[str, float]:
    """For each kind, the share of `n` minimal pairs in which the better answer scores higher."""
    return {kind: (reward_gaps(model, minimal_pairs(kind, n)) > 0).float().mean().item() for kind in KINDS}


def padded_answers(stream: Random, n: int = 200) -> list[list[tuple[str, str]]]:
    """`n` answers with 0, 1, 2 and 3 sentences of filler, the gold reward of which is 0, before their closing."""
    made: list[list[tuple[str, str]]] = [[], [], [], []]
    for _ in range(n):
        concept = stream.choice(WORLD.concepts("train"))
        fact, closing = _sentence(stream, FACTS, concept.fact), stream.choice(CLOSING)
        fillers = stream.sample(FILLER, 3)
        for count, answers in enumerate(made):
            answers.append((concept.prompt, _answer(fact, *fillers[:count], closing)))
    return made


# ---------------------------------------------------------------------- what the experiments share


@cache
def _groups(seed: int) -> list[dict]:
    return pipeline.sample_groups(trained("sft", seed), max(SIZES), pipeline.ANSWERS_EACH, seed)


@cache
def _test_pairs(seed: int, split: str, labeler: Labeler) -> list[dict]:
    stream = derive_seed(seed, f"test {split}")
    groups = pipeline.sample_groups(trained("sft", seed), TEST_PAIRS, 2, seed, name=f"test {split}", split=split)
    return label_rankings(groups, labeler, stream)


@cache
def _reward_model(seed: int, rankings: int, labeler: Labeler):
    """A reward model, trained on the first so many rankings, and the history of its training.

    The minimal pairs are looked at on the way if it learns from all of the rankings.
    """
    rows = label_rankings(_groups(seed), labeler, derive_seed(seed, "rankings"))[:rankings]
    looks = EVAL_STEPS if rankings == max(SIZES) else None
    trainer = RewardTrainer(
        RewardModel.from_policy(trained("sft", seed), seed),
        args=RewardConfig(**pipeline.settings("reward", seed=seed, eval_steps=looks, disable_tqdm=True)),
        train_dataset=rows,
        processing_class=world_tokenizer(),
        compute_metrics=lambda trainer: minimal_pair_accuracies(trainer.model),
    )
    trainer.train()
    return trainer.model.eval(), trainer.history


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), **pipeline.SETTINGS["reward"], "answers_each": pipeline.ANSWERS_EACH, **more}
