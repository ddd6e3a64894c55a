"""What lesson 02 claims about imitation, measured on the small world from pre-training on."""

from collections.abc import Sequence

import numpy as np

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
from rlhf_course.experiments.table import Table
from rlhf_course.seeding import derive_seed

SEEDS = (0, 1, 2)
SIZES = (1_000, 4_000, 16_000, 32_000)
ANSWERS = 1_000

#: Habits of demonstrators that a copy of them would have as often.
TRAITS = ("right fact", "wrong fact", "analogy", "jargon", "hedge", "flattery", "closing")


def more_demonstrations(seeds: Sequence[int] = SEEDS, sizes: Sequence[int] = SIZES) -> Table:
    """What an SFT model's answers are like, by the number of demonstrations it has seen (each of them once).

    Columns: `seed`, `demonstrations`, `gold` (mean gold reward) and the share of answers with each of `TRAITS`. The
    settings hold the same numbers of the demonstrators themselves.
    """
    rows = []
    for seed in seeds:
        base = pipeline.pretrain(seed, disable_tqdm=True).model
        for size in sizes:
            model = pipeline.sft(base, seed, size, disable_tqdm=True).model
            stream = derive_seed(seed, "more demonstrations")
            prompts = draw_prompts(ANSWERS, stream, "all")
            answers = [(a.prompt, a.text, a.ended) for a in sample_answers(model, world_tokenizer(), prompts, stream)]
            gold = np.mean([gold_reward(prompt, text, ended=ended) for prompt, text, ended in answers])
            shares = trait_shares([(prompt, text) for prompt, text, _ in answers])
            rows.append({"seed": seed, "demonstrations": size, "gold": float(gold), **shares})
    shown = [(row["prompt"], row["completion"]) for row in demonstrations(20_000, seed=0)]
    gold = np.mean([gold_reward(prompt, text) for prompt, text in shown])
    theirs = {name: round(value, 4) for name, value in {"gold": float(gold), **trait_shares(shown)}.items()}
    return Table("sft.more_demonstrations", {"seeds": list(seeds), "epochs": 1, "demonstrators": theirs}, rows)


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
