"""Lesson 12's run from start to end, on the tiny model."""

import copy
import json
from dataclasses import replace

from rlhf_course import capstone as steps
from rlhf_course.capstone.pairs import DATA_VARIABLE
from rlhf_course.data.world import world_tokenizer
from rlhf_course.experiments import capstone
from rlhf_course.models import load_policy

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<bos> {{ m['content'] }} <sep>"
    "{% else %} {{ m['content'] }} <eos>{% endif %}{% endfor %}"
)
ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 4, "disable_tqdm": True}


def test_every_stage_is_measured_and_the_start_is_a_tie(monkeypatch, tmp_path):
    words = ("it", "is", "like", "a", "hope", "that", "helps", "explain")
    file = tmp_path / "pairs.json"
    file.write_text(
        json.dumps([{"prompt": f"{word} explain", "chosen": "it is hope", "rejected": "it is"} for word in words])
    )
    monkeypatch.setenv(DATA_VARIABLE, str(file))
    tokenizer = copy.deepcopy(world_tokenizer())
    tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr(capstone, "load_policy", lambda *_: (load_policy("tiny-sft", "cpu")[0], tokenizer))
    tiny = replace(
        steps.TIERS["cpu"], lora_rank=None, max_length=40, max_new_tokens=5,
        train_pairs=4, judge_pairs=2, held_out_pairs=2, prompts=2, tasks=2, reward=ONE_STEP, dpo=ONE_STEP,
        grpo={**ONE_STEP, "num_generations": 2, "max_completion_length": 4},
    )  # fmt: skip
    monkeypatch.setitem(steps.TIERS, "cpu", tiny)

    table = capstone.cpu(seeds=(0,))
    assert table.values("stage") == ["start", "DPO", "GRPO"]
    start, dpo, grpo = table.rows
    assert (start["accuracy"], start["win_rate"]) == (0.5, 0.5) and abs(start["kl"]) < 1e-3
    assert dpo["accuracy"] != 0.5, "every pair is still a tie"
    assert dpo["pairs"] == grpo["pairs"] == 2 and table.settings["data"] == "pairs.json"
    assert start["seconds"] < dpo["seconds"] < grpo["seconds"]
