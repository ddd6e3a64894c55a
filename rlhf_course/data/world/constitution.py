"""A small constitution for the small world: principles, who finds what breaks them, and who mends it.

In Constitutional AI (Bai et al. 2022) a language model criticises its own answer by a principle written in English and
rewrites it. Here every sentence can be parsed, so critic and reviser are a few lines of code, and each of their
verdicts can be checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_course.data.world.grammar import HEDGE, PLAIN, Concept, concept_of, parse_sentence, split_sentences


@dataclass(frozen=True)
class Principle:
    """One principle of a constitution.

    Attributes:
        name: what it is called.
        text: what it asks for, in a sentence.
        breaks: (concept, sentences, i) → whether sentence i of an answer about the concept breaks it.
        mend: (concept, sentence) → the sentence to put in the place of one that does, or None to strike it out.
    """

    name: str
    text: str
    breaks: Callable[[Concept, Sequence[str], int], bool]
    mend: Callable[[Concept, str], str | None]


@dataclass(frozen=True)
class Critique:
    """What a critic found: the principle, and the sentences of the answer that break it, at least one."""

    principle: Principle
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.principle.text} But it says: {'; '.join(self.sentences)}."


def critique(prompt: str, answer: str, principle: Principle) -> Critique | None:
    """What in an answer breaks a principle; None if nothing does.

    `functools.partial(critique, prompt)` is the critic that `rlaif.critique_and_revise` takes.
    """
    concept, sentences = concept_of(prompt), split_sentences(answer)
    found = [text for i, text in enumerate(sentences) if principle.breaks(concept, sentences, i)]
    return Critique(principle, tuple(found)) if found else None


def revise(prompt: str, answer: str, found: Critique) -> str:
    """The answer with every sentence mended that breaks the critique's principle.

    An answer of which nothing would be left stays as it is: silence helps nobody.
    """
    concept, sentences, principle = concept_of(prompt), split_sentences(answer), found.principle
    kept = [
        principle.mend(concept, text) if principle.breaks(concept, sentences, i) else text
        for i, text in enumerate(sentences)
    ]
    return " ".join(f"{text} ." for text in kept if text) or answer


def violations(prompt: str, answer: str, principles: Sequence[Principle]) -> int:
    """How many sentences break a principle, summed over the principles."""
    found = [critique(prompt, answer, principle) for principle in principles]
    return sum(len(each.sentences) for each in found if each)


def _kind(*kinds: str) -> Callable[[Concept, Sequence[str], int], bool]:
    return lambda concept, sentences, i: parse_sentence(sentences[i]).kind in kinds


def _untrue(kind: str, truth: str) -> Callable[[Concept, Sequence[str], int], bool]:
    def breaks(concept: Concept, sentences: Sequence[str], i: int) -> bool:
        sentence = parse_sentence(sentences[i])
        return sentence.kind == kind and sentence.content != getattr(concept, truth)

    return breaks


def _corrected(truth: str) -> Callable[[Concept, str], str]:
    return lambda concept, sentence: " ".join([*sentence.split()[:-2], getattr(concept, truth)])


def _plain_remark(concept: Concept, sentence: str) -> str:
    return PLAIN[len(sentence) % len(PLAIN)]


def _strike_out(concept: Concept, sentence: str) -> None:
    return None


CONSTITUTION = (
    Principle("plain words", "Explain in plain words.", _kind("jargon"), _plain_remark),
    Principle("no flattery", "Do not flatter whoever asks.", _kind("flattery"), _strike_out),
    Principle(
        "no hedging",
        "Say what you know without a maybe.",
        lambda concept, sentences, i: parse_sentence(sentences[i]).hedged,
        lambda concept, sentence: sentence.removeprefix(f"{HEDGE} "),
    ),
    Principle("whole sentences", "Write whole sentences.", _kind("broken"), _strike_out),
    Principle("true facts", "State only what is true of the thing.", _untrue("fact", "fact"), _corrected("fact")),
    Principle(
        "fitting analogies",
        "Compare the thing only with what it is like.",
        _untrue("analogy", "analogy"),
        _corrected("analogy"),
    ),
    Principle(
        "no repetition",
        "Say everything once.",
        lambda concept, sentences, i: sentences[i] in sentences[:i],
        _strike_out,
    ),
)
