"""Policies, reward models, value models and ensembles."""

from rlhf_course.models.ensemble import RewardEnsemble, combine_rewards
from rlhf_course.models.load import ModelNotFound, load_policy, load_reward_model, weights_note
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import TINY_MODELS, tiny_checkpoint
from rlhf_course.models.value import ValueModel

__all__ = [
    "TINY_MODELS",
    "ModelNotFound",
    "RewardEnsemble",
    "RewardModel",
    "ValueModel",
    "combine_rewards",
    "load_policy",
    "load_reward_model",
    "tiny_checkpoint",
    "weights_note",
]
