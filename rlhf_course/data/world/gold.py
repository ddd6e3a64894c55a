"""The gold reward: the truth that real RLHF never gets to see.

Real preferences come from people, and no one can print the reward that people have in mind. Here we can, so every
claim about reward models can be measured against it. A learner trains on noisy comparisons only; gold is for judging.
"""

from dataclasses import dataclass

from rlhf_course.data.world.config import WORLD, WorldConfig
from rlhf_course.data.world.grammar import concept_of, parse_sentence, split_sentences

#: What the gold reward looks at, by the names `explain_gold` gives.
TERM_NAMES = (
    *("right fact", "wrong fact", "right analogy", "wrong analogy", "plain remark", "closing"),
    *("jargon, share of words", "repeated sentence", "hedge", "broken sentence", "words too many", "no end"),
)


@dataclass(frozen=True)
class Term:
    """One reason for a gold reward: its name, how many times (or how much of it) the answer has, and its worth."""

    name: str
    amount: float
    value: float


def explain_gold(prompt: str, answer: str, *, ended: bool = True, world: WorldConfig = WORLD) -> list[Term]:
    """Why an answer is worth what it is worth, term by term; the gold reward is the sum of the values.

    Args:
        prompt: a prompt of the world, as `Concept.prompt` writes it.
        answer: the answer's words, without special tokens.
        ended: whether the answer came to its end token (a cut-off answer did not).

    Terms of amount zero are left out. The best answer is worth 3, an average demonstration about 0.
    """
    concept = concept_of(prompt)
    texts = split_sentences(answer)
    sentences = [parse_sentence(text) for text in texts]
    words = sum(len(text.split()) for text in texts)

    facts = [s.content for s in sentences if s.kind == "fact"]
    analogies = [s.content for s in sentences if s.kind == "analogy"]
    right_facts, right_analogies = facts.count(concept.fact), analogies.count(concept.analogy)
    closes = bool(sentences) and sentences[-1].kind == "closing"
    jargon_share = sum(s.jargon for s in sentences) / max(words, 1)
    terms = (
        Term("right fact", right_facts, world.right_fact * (right_facts > 0)),
        Term("wrong fact", len(facts) - right_facts, world.wrong_fact * (len(facts) - right_facts)),
        Term("right analogy", right_analogies, world.right_analogy * (right_analogies > 0)),
        Term(
            "wrong analogy",
            len(analogies) - right_analogies,
            world.wrong_analogy * (len(analogies) - right_analogies),
        ),
        Term("plain remark", (plain := sum(s.kind == "plain" for s in sentences)), world.plain * (plain > 0)),
        Term("closing", int(closes), world.closing * closes),
        Term("jargon, share of words", jargon_share, world.jargon_share * jargon_share),
        Term("repeated sentence", (again := len(texts) - len(set(texts))), world.repetition * again),
        Term("hedge", (hedges := sum(s.hedged for s in sentences)), world.hedge * hedges),
        Term("broken sentence", (broken := sum(s.kind == "broken" for s in sentences)), world.broken * broken),
        Term("words too many", (extra := max(words - world.long_after, 0)), world.long_word * extra),
        Term("no end", int(not ended), world.no_end * (not ended)),
    )
    return [term for term in terms if term.amount]


def gold_reward(prompt: str, answer: str, *, ended: bool = True, world: WorldConfig = WORLD) -> float:
    """The gold reward of an answer: the sum of its terms, in gold units (see `explain_gold`)."""
    return sum(term.value for term in explain_gold(prompt, answer, ended=ended, world=world))
