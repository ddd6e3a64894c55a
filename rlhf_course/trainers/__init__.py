"""One file per method. Every trainer takes TRL's arguments; `train()` returns a `History`."""

from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.dpo import DPOConfig, DPOTrainer
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.history import History
from rlhf_course.trainers.kto import KTOConfig, KTOTrainer
from rlhf_course.trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer
from rlhf_course.trainers.ppo_step import ppo_rlhf_step
from rlhf_course.trainers.reward import RewardConfig, RewardTrainer
from rlhf_course.trainers.sft import SFTConfig, SFTTrainer

__all__ = [
    "DPOConfig",
    "DPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "History",
    "KTOConfig",
    "KTOTrainer",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
    "TrainingConfig",
    "ppo_rlhf_step",
]
