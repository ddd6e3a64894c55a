"""Policies, reward models, value models and ensembles."""

from rlhf_course.models.ensemble import RewardEnsemble, combine_rewards
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import TINY_MODELS, tiny_checkpoint
from rlhf_course.models.value import ValueModel

__all__ = [
    "TINY_MODELS",
    "RewardEnsemble",
    "RewardModel",
    "ValueModel",
    "combine_rewards",
    "tiny_checkpoint",
]
