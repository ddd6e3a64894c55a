"""The small world: a language, a truth (the gold reward), and people who write in it and judge it."""

from rlhf_course.data.world.config import WORLD, WorldConfig
from rlhf_course.data.world.constitution import CONSTITUTION, Critique, Principle, critique, revise, violations
from rlhf_course.data.world.gold import Term, explain_gold, gold_reward
from rlhf_course.data.world.grammar import CONCEPTS, Concept, concept_of, parse_sentence, split_sentences
from rlhf_course.data.world.labelers import Labeler, label_rankings
from rlhf_course.data.world.tokenizer import world_tokenizer
from rlhf_course.data.world.writers import corpus, demonstrations, write_answer

__all__ = [
    "CONCEPTS",
    "CONSTITUTION",
    "WORLD",
    "Concept",
    "Critique",
    "Labeler",
    "Principle",
    "Term",
    "WorldConfig",
    "concept_of",
    "corpus",
    "critique",
    "demonstrations",
    "explain_gold",
    "gold_reward",
    "label_rankings",
    "parse_sentence",
    "revise",
    "split_sentences",
    "violations",
    "world_tokenizer",
    "write_answer",
]
