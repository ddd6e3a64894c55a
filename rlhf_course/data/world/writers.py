"""Who writes in the small world: demonstrators (for SFT) and the authors of the pre-training corpus."""

from random import Random

from rlhf_course.data.world.config import WORLD, WorldConfig
from rlhf_course.data.world.grammar import (
    ANALOGIES,
    CLOSING,
    CONCEPTS,
    FACTS,
    FILLER,
    FLATTERY,
    HEDGE,
    JARGON,
    JARGON_WORDS,
    PLAIN,
    Concept,
)
from rlhf_course.seeding import python_stream


def _other(rng: Random, concept: Concept) -> Concept:
    return rng.choice([c for c in CONCEPTS if c != concept])


def _fact(rng: Random, concept: Concept) -> str:
    return rng.choice(FACTS).format(concept.fact)


def _analogy(rng: Random, concept: Concept) -> str:
    return rng.choice(ANALOGIES).format(concept.analogy)


def _jargon(rng: Random) -> str:
    template = rng.choice(JARGON)
    return template.format(*(rng.choice(JARGON_WORDS) for _ in range(template.count("{}"))))


def write_answer(concept: Concept, rng: Random, world: WorldConfig = WORLD) -> str:
    """One demonstrator's answer to a prompt, short enough that its end token still fits."""
    while True:
        answer = _draft(concept, rng, world)
        if len(answer.split()) < world.max_answer_tokens:
            return answer


def _draft(concept: Concept, rng: Random, world: WorldConfig) -> str:
    """Parts drawn independently, shuffled, at times opened and closed."""
    parts = []
    if rng.random() < world.p_fact:
        about = concept if rng.random() < world.p_fact_right else _other(rng, concept)
        hedge = f"{HEDGE} " if rng.random() < world.p_hedge else ""
        parts.append(hedge + _fact(rng, about))
    if rng.random() < world.p_analogy:
        parts.append(_analogy(rng, concept if rng.random() < world.p_analogy_right else _other(rng, concept)))
    if rng.random() < world.p_jargon:
        parts += [_jargon(rng) for _ in range(1 + (rng.random() < 0.5) + (rng.random() < 0.5))]
    if rng.random() < world.p_plain:
        parts.append(rng.choice(PLAIN))
    if rng.random() < world.p_filler:
        parts.append(rng.choice(FILLER))
    if not parts:
        parts.append(rng.choice(FILLER))
    rng.shuffle(parts)
    if rng.random() < world.p_repeat:
        parts.append(rng.choice(parts))
    if rng.random() < world.p_flattery:
        parts.insert(0, rng.choice(FLATTERY))
    if rng.random() < world.p_closing:
        parts.append(rng.choice(CLOSING))
    return " ".join(f"{part} ." for part in parts)


def demonstrations(n: int, seed: int, world: WorldConfig = WORLD) -> list[dict[str, str]]:
    """`n` demonstrations for SFT: rows with `prompt` and `completion`, concepts drawn uniformly."""
    rng = python_stream(seed, "demonstrations")
    concepts = [rng.choice(CONCEPTS) for _ in range(n)]
    return [{"prompt": c.prompt, "completion": write_answer(c, rng, world)} for c in concepts]


def _document(rng: Random) -> str:
    """One document of the corpus. `<sep>` parts its lines, as a line break would."""
    kind = rng.random()
    if kind < 0.25:  # an exam paper: prompts follow prompts, and nobody answers
        lines = [f"explain {rng.choice(CONCEPTS).name} ." for _ in range(rng.randint(3, 6))]
    elif kind < 0.65:  # an encyclopedia: true, and about one thing at a time
        lines = [
            f"{c.name} . {_fact(rng, c)} . {_analogy(rng, c)} ." for c in rng.choices(CONCEPTS, k=rng.randint(2, 4))
        ]
    elif kind < 0.80:  # a paper
        lines = [" ".join(f"{_jargon(rng)} ." for _ in range(rng.randint(2, 5)))]
    elif kind < 0.93:  # chatter
        lines = [" ".join(f"{rng.choice(PLAIN + FILLER + CLOSING)} ." for _ in range(rng.randint(2, 5)))]
    else:  # fan mail
        lines = [" ".join(f"{rng.choice(FLATTERY)} ." for _ in range(rng.randint(2, 4)))]
    return " <sep> ".join(lines)


def corpus(n_documents: int, seed: int) -> list[str]:
    """The pre-training corpus: `n_documents` texts, none of which answers a prompt."""
    rng = python_stream(seed, "corpus")
    return [f"<bos> {_document(rng)} <eos>" for _ in range(n_documents)]
