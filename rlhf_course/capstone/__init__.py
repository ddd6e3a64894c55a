"""Lesson 12: a real model aligned from end to end, in three sizes.

The lesson calls what is here step by step; `rlhf_course.experiments.capstone` calls all of it in a row. A size is a
`Settings`, and who wants another one takes the nearest and replaces what differs:
`dataclasses.replace(TIERS["t4"], train_pairs=500)`.
"""

from rlhf_course.capstone.measure import (
    Answers,
    Share,
    evaluate,
    judge_accuracy,
    lookup_judge,
    pair_logps,
    pass_rates,
    preference_accuracy,
    sample,
)
from rlhf_course.capstone.models import save, train_judge, trainable_copy
from rlhf_course.capstone.pairs import Pairs, as_chat, choose_pairs, load_rows, question
from rlhf_course.capstone.rule import correct_reward, format_reward, sums
from rlhf_course.capstone.settings import TIERS, Settings, costs, pick_settings
from rlhf_course.capstone.table import SideBySide

__all__ = [
    "TIERS",
    "Answers",
    "Pairs",
    "Settings",
    "Share",
    "SideBySide",
    "as_chat",
    "choose_pairs",
    "correct_reward",
    "costs",
    "evaluate",
    "format_reward",
    "judge_accuracy",
    "load_rows",
    "lookup_judge",
    "pair_logps",
    "pass_rates",
    "pick_settings",
    "preference_accuracy",
    "question",
    "sample",
    "save",
    "sums",
    "train_judge",
    "trainable_copy",
]
