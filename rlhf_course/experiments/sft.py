"""What lesson 02 claims about imitation, measured on the small world from pre-training on."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data.world import (
    concept_of,
    demonstrations,
    gold_reward,
    parse_sentence,
    split_sentences,
    world_tokenizer,
)
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.seeding import derive_seed

SEEDS = (0, 1, 2)
SIZES = (1_000, 4_000, 16_000)
ANSWERS = 1_000

#: Habits of demonstrators that a copy of them would have as often.
TRAITS = ("right fact", "wrong fact", "analogy", "jargon", "hedge", "flattery", "closing")


def more_demonstrations(seeds: Sequence[int] = SEEDS, sizes: Sequence[int] = SIZES) -> Table:
    """What an SFT model's answers are like, by the number of demonstrations it has seen (each of them once).

    Batches are drawn at random, so that a mean over a batch's tokens weighs every token alike.

    Columns: `seed`, `demonstrations`, `gold` (mean gold reward), `words` (mean length) and the share of answers with
    each of `TRAITS`. The settings hold the same numbers of the demonstrators themselves.
    """
    rows = [
        {"seed": seed, "demonstrations": size, **_habits(_sft_model(seed, size, False), seed)}
        for seed in seeds
        for size in sizes
    ]
    return Table("sft.more_demonstrations", _settings(seeds), rows)


def length_grouping(seeds: Sequence[int] = SEEDS) -> Table:
    """The same with batches drawn at random and with batches of answers of like length, which need less padding.

    A mean over a batch's tokens then gives a token of a batch of short answers more weight than one of a batch of long
    answers.

    Columns: `seed`, `group_by_length`, then as in `more_demonstrations`.
    """
    rows = [
        {"seed": seed, "group_by_length": grouped, **_habits(_sft_model(seed, max(SIZES), grouped), seed)}
        for seed in seeds
        for grouped in (False, True)
    ]
    return Table("sft.length_grouping", _settings(seeds, demonstrations=max(SIZES)), rows)


@cache
def _sft_model(seed: int, size: int, grouped: bool) -> nn.Module:
    rows = demonstrations(size, seed)
    return pipeline.sft(trained("pretrain", seed), seed, rows, group_by_length=grouped, disable_tqdm=True).model


def _habits(model: nn.Module, seed: int) -> dict[str, float]:
    stream = derive_seed(seed, "habits")
    prompts = draw_prompts(ANSWERS, stream, "all")
    return _describe([(a.prompt, a.text, a.ended) for a in sample_answers(model, world_tokenizer(), prompts, stream)])


def _describe(answers: Sequence[tuple[str, str, bool]]) -> dict[str, float]:
    gold = [gold_reward(prompt, text, ended=ended) for prompt, text, ended in answers]
    words = [len(text.replace(".", "").split()) for _, text, _ in answers]
    shares = trait_shares([(prompt, text) for prompt, text, _ in answers])
    return {"gold": float(np.mean(gold)), "words": float(np.mean(words)), **shares}


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    theirs = _describe([(row["prompt"], row["completion"], True) for row in demonstrations(20_000, seed=0)])
    demonstrators = {name: round(value, 4) for name, value in theirs.items()}
    return {"seeds": list(seeds), **pipeline.SETTINGS["sft"], **more, "demonstrators": demonstrators}


def trait_shares(answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The share of (prompt, answer) texts that have each of `TRAITS`, at least once."""
    found = [_traits(prompt, answer) for prompt, answer in answers]
    return {trait: sum(trait in traits for traits in found) / len(found) for trait in TRAITS}


def _traits(prompt: str, answer: str) -> set[str]:
    concept = concept_of(prompt)
    traits = set()
    for sentence in map(parse_sentence, split_sentences(answer)):
        if sentence.kind == "fact":
            traits.add("right fact" if sentence.content == concept.fact else "wrong fact")
        else:
            traits.add(sentence.kind)
        if sentence.hedged:
            traits.add("hedge")
    return traits
