"""The numbers that shape the small world's answers, its truth and its labelers."""

from dataclasses import dataclass

from rlhf_course.data.world.grammar import CONCEPTS, Concept


@dataclass(frozen=True)
class WorldConfig:
    """The small world's settings. Change one with `dataclasses.replace`.

    Demonstrations are written by people of middling care: they state a fact in most answers and it is right in most
    of those. That leaves room for preferences to teach what imitation cannot.
    """

    # How demonstrators write: how often an answer has each part, and how often the part is right.
    p_fact: float = 0.85
    p_fact_right: float = 0.75
    p_analogy: float = 0.40
    p_analogy_right: float = 0.70
    p_jargon: float = 0.50  # one sentence, and up to two more by the toss of a coin each
    p_flattery: float = 0.25
    p_hedge: float = 0.30
    p_closing: float = 0.50
    p_plain: float = 0.35
    p_filler: float = 0.35
    p_repeat: float = 0.10

    # What a good answer is worth, term by term (gold.py explains each).
    right_fact: float = 1.0
    wrong_fact: float = -1.0
    right_analogy: float = 1.0
    wrong_analogy: float = -0.5
    plain: float = 0.5
    closing: float = 0.5
    jargon_share: float = -6.0
    repetition: float = -0.5
    hedge: float = -0.3
    broken: float = -0.5
    long_word: float = -0.05
    long_after: int = 30
    no_end: float = -0.5

    #: Two of InstructGPT's training labelers chose the same answer this often (Ouyang et al. 2022, §3.4).
    labeler_agreement: float = 0.726
    #: The last concepts are left out of the preference data, to measure how a reward model generalises.
    held_out_concepts: int = 4
    #: Longest answer in tokens, end token included.
    max_answer_tokens: int = 48

    def concepts(self, split: str = "all") -> tuple[Concept, ...]:
        """Concepts of a split: "train" (in the preference data), "held_out", or "all"."""
        cut = len(CONCEPTS) - self.held_out_concepts
        parts = {"train": CONCEPTS[:cut], "held_out": CONCEPTS[cut:], "all": CONCEPTS}
        if split not in parts:
            raise ValueError(f"split must be one of {', '.join(parts)}, got {split!r}")
        return parts[split]

    def prompts(self, split: str = "all") -> list[str]:
        """The prompts of a split, one a concept."""
        return [concept.prompt for concept in self.concepts(split)]


WORLD = WorldConfig()
