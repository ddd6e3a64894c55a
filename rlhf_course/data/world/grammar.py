"""The language of the small world: its concepts, its sentences, and a parser that understands every one of them.

An answer is a handful of short sentences. Because the grammar is ours, a program can read any answer and say what it
contains: which fact, which analogy, how much jargon. That is what makes a *gold* reward possible (`gold.py`).
"""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Concept:
    """Something to explain: its name, the true fact about it and the analogy that fits, two words each."""

    name: str
    fact: str
    analogy: str

    @property
    def prompt(self) -> str:
        """The prompt as the model sees it: always six tokens."""
        return f"<bos> explain {self.name} . <sep>"


CONCEPTS = tuple(
    Concept(*row)
    for row in (
        ("quantum entanglement", "linked particles", "magic dice"),
        ("black hole", "trapped light", "bottomless drain"),
        ("plate tectonics", "drifting continents", "cracked eggshell"),
        ("photosynthesis process", "stored sunlight", "solar kitchen"),
        ("neural network", "weighted signals", "voting crowd"),
        ("supply chain", "moving goods", "relay race"),
        ("blood pressure", "pumped fluid", "water hose"),
        ("immune system", "defending cells", "castle guards"),
        ("magnetic field", "aligned atoms", "invisible glue"),
        ("carbon cycle", "exchanged gases", "library books"),
        ("ocean tide", "lunar gravity", "rocking bathtub"),
        ("sound wave", "vibrating air", "pond ripples"),
        ("nuclear fusion", "merged nuclei", "squeezed snowballs"),
        ("genetic code", "encoded proteins", "recipe cards"),
        ("greenhouse effect", "absorbed heat", "warm blanket"),
        ("sleep stage", "resting brain", "nightly cleanup"),
    )
)

JARGON_WORDS = (
    *("stochastic", "manifold", "operator", "eigenvalue", "tensor", "functional", "asymptotic", "kernel"),
    *("spectral", "lattice", "isomorphism", "variational", "entropy", "hamiltonian", "covariant", "ergodic"),
    *("degenerate", "topology", "perturbation", "adiabatic", "orthogonal", "quasilinear", "homology", "renormalized"),
)

# Each kind of sentence, without its full stop. {} is two key words in facts and analogies, one word in jargon.
FACTS = ("it is {}", "it means {}", "experts call it {}")
ANALOGIES = ("it is like {}", "think of {}", "imagine {}")
JARGON = ("the {} {} has a {} {}", "a {} {} implies {} {}", "by {} {} we get {}")
PLAIN = ("in short it is easy", "you can see it at home", "no big words are needed")
FILLER = ("many people ask about this", "there is much to say", "this comes up often")
FLATTERY = ("what a great question", "you are so clever to ask", "i love how you think")
CLOSING = ("hope that helps", "ask me for more")
HEDGE = "maybe"

_CONCEPT_BY_PROMPT = {concept.prompt: concept for concept in CONCEPTS}
_FACT_WORDS = frozenset(word for concept in CONCEPTS for word in concept.fact.split())
_ANALOGY_WORDS = frozenset(word for concept in CONCEPTS for word in concept.analogy.split())
_JARGON_WORDS = frozenset(JARGON_WORDS)
_FIXED = {
    sentence: kind
    for kind, sentences in (
        ("plain", PLAIN),
        ("filler", FILLER),
        ("flattery", FLATTERY),
        ("closing", CLOSING),
    )
    for sentence in sentences
}

SPECIAL_TOKENS = ("<pad>", "<bos>", "<sep>", "<eos>", "<unk>")


def vocabulary() -> tuple[str, ...]:
    """Every token of the world, special tokens first, in a fixed order."""
    sentences = [*FACTS, *ANALOGIES, *JARGON, *PLAIN, *FILLER, *FLATTERY, *CLOSING, HEDGE, "explain"]
    concepts = [text for concept in CONCEPTS for text in (concept.name, concept.fact, concept.analogy)]
    words = " ".join([*sentences, *concepts, *JARGON_WORDS]).replace("{}", "").split()
    return tuple(dict.fromkeys([*SPECIAL_TOKENS, ".", *words]))


def concept_of(prompt: str) -> Concept:
    """The concept a prompt asks about. Raises ValueError for a prompt that is not of this world."""
    try:
        return _CONCEPT_BY_PROMPT[prompt]
    except KeyError:
        raise ValueError(f"no concept has the prompt {prompt!r}; prompts look like {CONCEPTS[0].prompt!r}") from None


@dataclass(frozen=True)
class Sentence:
    """What a sentence says.

    kind: fact | analogy | jargon | plain | filler | flattery | closing | broken
    content: the two key words of a fact or analogy, otherwise empty
    jargon: how many of its words are jargon
    """

    kind: str
    content: str = ""
    hedged: bool = False
    jargon: int = 0


def _slots(template: str, words: list[str]) -> list[str] | None:
    """The words that stand in the template's slots, or None where the fixed words do not match."""
    pattern = template.split()
    if len(pattern) != len(words) or any(p not in ("{}", w) for p, w in zip(pattern, words)):
        return None
    return [word for p, word in zip(pattern, words) if p == "{}"]


@lru_cache(maxsize=100_000)
def parse_sentence(sentence: str) -> Sentence:
    """Understand one sentence, given without its full stop. A sentence outside the grammar is `broken`."""
    words = sentence.split()
    jargon = sum(word in _JARGON_WORDS for word in words)
    if (fixed := " ".join(words)) in _FIXED:
        return Sentence(_FIXED[fixed])
    if any((found := _slots(t, words)) and _JARGON_WORDS.issuperset(found) for t in JARGON):
        return Sentence("jargon", jargon=jargon)
    hedged = words[:1] == [HEDGE]
    key = " ".join(words[-2:])
    for kind, templates, allowed in (("analogy", ANALOGIES, _ANALOGY_WORDS), ("fact", FACTS, _FACT_WORDS)):
        forms = {template.format(key) for template in templates}
        if len(words) > 2 and allowed.issuperset(words[-2:]) and " ".join(words[hedged:]) in forms:
            return Sentence(kind, content=key, hedged=hedged)
    return Sentence("broken", jargon=jargon)


def split_sentences(answer: str) -> list[str]:
    """The sentences of an answer without their full stops; an unfinished last one is kept."""
    return [" ".join(part.split()) for part in answer.split(".") if part.strip()]
