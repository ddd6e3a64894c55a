"""Exercises of lesson 12: an evaluation that can be believed, and a rule that checks an answer's form."""

from rlhf_course.learn.exercises import _capstone_form, _capstone_match

EXERCISES = [*_capstone_match.EXERCISES, *_capstone_form.EXERCISES]
