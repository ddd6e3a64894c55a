"""RLHF_COURSE_FAST=1 shortens every run, and nothing else does."""

import pytest

from rlhf_course.data.world import demonstrations, world_tokenizer
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.trainers import SFTConfig, SFTTrainer
from rlhf_course.trainers.base import REHEARSAL_STEPS


@pytest.mark.parametrize(
    ("asked", "value", "steps"), [(9, "1", REHEARSAL_STEPS), (2, "1", 2), (9, "0", 9), (-1, "1", 3)]
)
def test_a_rehearsal_is_short(monkeypatch, asked, value, steps):
    monkeypatch.setenv("RLHF_COURSE_FAST", value)
    args = SFTConfig(max_steps=asked, per_device_train_batch_size=2, use_cpu=True)
    rows = demonstrations(6, seed=0)
    trainer = SFTTrainer(new_tiny_model(0), args=args, train_dataset=rows, processing_class=world_tokenizer())
    assert trainer.max_steps == steps
