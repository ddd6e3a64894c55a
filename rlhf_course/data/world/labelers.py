"""Labelers: people (and programs) who say which of two answers they prefer, noisily and not without taste."""

from dataclasses import dataclass, replace

import numpy as np

from rlhf_course._checks import check_choice
from rlhf_course.data.world.config import WORLD, WorldConfig
from rlhf_course.data.world.gold import TERM_NAMES, explain_gold, gold_reward
from rlhf_course.data.world.grammar import parse_sentence, split_sentences
from rlhf_course.seeding import numpy_stream


@dataclass(frozen=True)
class Labeler:
    """A Bradley–Terry labeler: prefers A to B with probability σ((utility(A) − utility(B)) / temperature).

    Utility is the gold reward plus the labeler's own taste:
        temperature: noise, in gold units; `calibrated` finds the value of human labelers.
        flattery_bias: added where an answer flatters. length_bias: added per word.
        flip_rate: share of labels (whole rankings) turned round after the fact, a slip of the mouse; in [0, 0.5).
        blind_to: names of gold terms the labeler cannot judge, such as ("right fact", "wrong fact"); the names
            are `gold.TERM_NAMES`.
    """

    temperature: float = 1.0
    flattery_bias: float = 0.0
    length_bias: float = 0.0
    flip_rate: float = 0.0
    blind_to: tuple[str, ...] = ()
    world: WorldConfig = WORLD

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must be in [0, 0.5), got {self.flip_rate}")
        if isinstance(self.blind_to, str):
            raise TypeError(f"blind_to must be a tuple of names of terms, got the string {self.blind_to!r}")
        for name in self.blind_to:
            check_choice("blind_to", name, TERM_NAMES)

    def utility(self, prompt: str, answer: str, ended: bool = True) -> float:
        """What the answer is worth to this labeler, in gold units."""
        terms = explain_gold(prompt, answer, ended=ended, world=self.world)
        sentences = split_sentences(answer)
        flatters = any(parse_sentence(sentence).kind == "flattery" for sentence in sentences)
        words = sum(len(sentence.split()) for sentence in sentences)
        seen = sum(term.value for term in terms if term.name not in self.blind_to)
        return seen + self.flattery_bias * flatters + self.length_bias * words

    def preference_probability(self, utility_a, utility_b) -> np.ndarray:
        """P(A ≻ B) for arrays of utilities, flips included."""
        logit = (np.asarray(utility_a, float) - np.asarray(utility_b, float)) / self.temperature
        p = 0.5 * (1 + np.tanh(logit / 2))
        return (1 - self.flip_rate) * p + self.flip_rate * (1 - p)

    def calibrated(self, utility_a, utility_b) -> "Labeler":
        """The same labeler with the temperature at which two of its kind agree as often as the world says (72.6 %).

        Found by bisection on the pairs given: two labelers agree with probability p² + (1 − p)² on a pair.
        Slips (`flip_rate`) are left out of the search: they come on top of the labelers' ordinary disagreement.
        Raises ValueError where no temperature can do it (all pairs tied, say).
        """
        target = self.world.labeler_agreement

        def agreement(temperature: float) -> float:
            judge = replace(self, temperature=temperature, flip_rate=0.0)
            p = judge.preference_probability(utility_a, utility_b)
            return float(np.mean(p**2 + (1 - p) ** 2))

        low, high = 1e-3, 1e3
        if not agreement(low) > target > agreement(high):
            raise ValueError(f"no temperature gives an agreement of {target}: the pairs are too close or too few")
        for _ in range(60):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if agreement(middle) > target else (low, middle)
        return replace(self, temperature=middle)


def label_rankings(groups: list[dict], labeler: Labeler, seed: int, calibrate: bool = True) -> list[dict]:
    """Have a labeler rank each prompt's K answers, best first. K = 2 gives plain comparisons.

    The labeler adds Gumbel noise of scale `temperature` to each answer's utility and sorts: a draw from the
    Plackett–Luce model, in which every two answers stand in Bradley–Terry's relation to each other.

    Args:
        groups: dicts with `prompt`, `answers` (K texts) and `ended` (K booleans).
        labeler: who judges; with `calibrate` its temperature is set on these answers first.
        seed: names the streams of labels, which are independent of all others.

    Returns:
        Rows with `prompt`, `ranked` (K texts), `ended` (K booleans in that order) and, for judging only, `gold` (K
        numbers likewise). For K = 2 also `chosen`, `rejected`, `gold_chosen`, `gold_rejected`.
    """
    if not groups:
        raise ValueError("groups is empty: there is nothing to rank")
    sizes = {len(group[name]) for group in groups for name in ("answers", "ended")}
    if len(sizes) > 1 or min(sizes) < 2:
        expected = "one number of answers, at least 2, and of ended"
        raise ValueError(f"every group must have {expected}, got {', '.join(map(str, sorted(sizes)))}")
    utilities = np.array([[labeler.utility(g["prompt"], *x) for x in zip(g["answers"], g["ended"])] for g in groups])
    if calibrate:
        # Neighbours in the order of sampling: pairs as they come.
        labeler = labeler.calibrated(utilities[:, :-1].ravel(), utilities[:, 1:].ravel())
    noise = numpy_stream(seed, "labels").gumbel(scale=labeler.temperature, size=utilities.shape)
    order = np.argsort(-(utilities + noise), axis=1)
    flipped = numpy_stream(seed, "flips").random(len(groups)) < labeler.flip_rate
    rows = []
    for group, places, flip in zip(groups, order, flipped):
        places = places[::-1] if flip else places
        gold = [
            gold_reward(group["prompt"], a, ended=e, world=labeler.world)
            for a, e in zip(group["answers"], group["ended"])
        ]
        row = {
            "prompt": group["prompt"],
            "ranked": [group["answers"][i] for i in places],
            "ended": [group["ended"][i] for i in places],
            "gold": [gold[i] for i in places],
        }
        if len(places) == 2:
            row |= dict(zip(("chosen", "rejected"), row["ranked"]))
            row |= dict(zip(("gold_chosen", "gold_rejected"), row["gold"]))
        rows.append(row)
    return rows
