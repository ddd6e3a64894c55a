"""Exercises of lesson 08: the group as the baseline, leave-one-out, the clipped loss, and what a long answer weighs."""

from rlhf_course.learn.exercises import _grpo_advantages, _grpo_losses

EXERCISES = [*_grpo_advantages.EXERCISES, *_grpo_losses.EXERCISES]
