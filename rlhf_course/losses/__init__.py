"""The losses: one pure function of tensors per idea. They take log-probabilities, never models.

`logps` of a preference loss are sums over completion tokens, (B,) (`logprobs.sequence_logps`); those of a
loss on tokens are (B, T) with a mask (`logprobs.token_logps`, shifted by one already).
"""

from rlhf_course.losses.dpo import dpo_loss
from rlhf_course.losses.grpo import aggregate_token_loss, grpo_loss
from rlhf_course.losses.ipo import ipo_loss
from rlhf_course.losses.kto import kto_loss
from rlhf_course.losses.ppo import ppo_clip_loss, ppo_rlhf_loss, ppo_value_loss
from rlhf_course.losses.reward import reward_loss
from rlhf_course.losses.sft import sft_loss

__all__ = [
    "aggregate_token_loss",
    "dpo_loss",
    "grpo_loss",
    "ipo_loss",
    "kto_loss",
    "ppo_clip_loss",
    "ppo_rlhf_loss",
    "ppo_value_loss",
    "reward_loss",
    "sft_loss",
]
