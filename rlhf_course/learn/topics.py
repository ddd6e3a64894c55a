"""The lessons' topics in order, and the nearest names to one that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches

#: Lesson NN is about TOPICS[NN]: its notebook, exercises, quizzes and drills carry this name.
TOPICS = (
    "start_here",
    "pipeline",
    "sft",
    "reward_model",
    "kl",
    "ppo",
    "dpo",
    "dpo_variants",
    "grpo",
    "rlaif",
    "overoptimization",
    "choosing",
    "capstone",
    "recap",
)


class UnknownName(ValueError):
    """An id that no exercise, quiz or lab has; the message offers the nearest ones."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownName:
    """The error for an unknown `name`: "There is no quiz 'dpo.log_ration'. Did you mean 'dpo.log_ratio'?"."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=3, cutoff=0.5)
    if not near:  # a bare name, or another topic's: compare what follows the dot
        tails = {full.rsplit(".", 1)[-1]: full for full in known}
        near = [tails[tail] for tail in get_close_matches(str(name).rsplit(".", 1)[-1], tails, n=3, cutoff=0.5)]
    if near:
        return UnknownName(f"There is no {kind} {name!r}. Did you mean {' or '.join(map(repr, near))}?")
    return UnknownName(f"There is no {kind} {name!r}. There are: {', '.join(known)}.")
