"""Exercises of lesson 05: the score spread over tokens, GAE, whitening, and the two clipped losses."""

from rlhf_course.learn.exercises import _ppo_advantages, _ppo_losses, _ppo_whitening

EXERCISES = [*_ppo_advantages.EXERCISES, *_ppo_whitening.EXERCISES, *_ppo_losses.EXERCISES]
