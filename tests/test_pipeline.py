"""The pipeline's claims: measured on three seeds, shipped, and told truly in the README."""

import re
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from rlhf_course import pipeline
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import evaluate_policy
from rlhf_course.experiments import load_result
from rlhf_course.models import load_policy, load_reward_model
from rlhf_course.models.tiny import TINY_MODELS, tiny_checkpoint

README = Path(__file__).parent.parent / "README.md"


def test_every_seed_shows_what_the_course_builds_on():
    table = load_result("pipeline.stages")
    assert table.values("seed") == [0, 1, 2]
    for row in table.rows:
        assert row["rm_gold_accuracy"] >= 0.80
        assert row["ppo_gold"] >= row["sft_gold"] + 1.0
        assert row["dpo_gold"] >= row["sft_gold"] + 1.0
        assert row["ppo_kl"] < 6 and row["dpo_kl"] < 6
        assert row["base_gold"] < row["sft_gold"] - 1.0


def test_the_reward_model_is_right_more_often_than_its_labels():
    """Pooled over seeds: the difference on the same pairs, with its 95 % interval, is above 0."""
    table = load_result("pipeline.stages")
    pairs = np.array(table.values("pairs"))
    halves = (np.array(table.values("difference_high")) - np.array(table.values("difference_low"))) / 2
    pooled = (np.array(table.values("difference")) * pairs).sum() / pairs.sum()
    half = sqrt(((halves * pairs) ** 2).sum()) / pairs.sum()
    assert pooled - half > 0


def test_the_readme_quotes_the_shipped_table():
    block = README.read_text().split("<!-- results:pipeline -->")[1].split("<!-- /results:pipeline -->")[0]
    table = load_result("pipeline.stages")
    quoted = {float(number.replace("−", "-")) for number in re.findall(r"−?\d+\.\d+", block)}
    expected = set()
    for name in ("base_gold", "sft_gold", "ppo_gold", "dpo_gold"):
        expected |= {round(x, 2) for x in table.span(name)}
    for name in ("ppo_kl", "dpo_kl"):
        expected |= {round(x, 1) for x in table.span(name)}
    for name in ("rm_gold_accuracy", "label_gold_accuracy"):
        expected |= {round(100 * x, 1) for x in table.span(name)}
    assert quoted == expected


def test_the_shipped_checkpoints_are_small_and_load():
    files = [file for name in TINY_MODELS for file in tiny_checkpoint(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10_000_000
    for name in TINY_MODELS:
        model, tokenizer = (load_reward_model if name == "tiny-reward" else load_policy)(name, "cpu")
        assert tokenizer.get_vocab() == world_tokenizer().get_vocab()
        assert sum(p.numel() for p in model.parameters()) < 1_000_000


def test_the_shipped_policies_are_worth_what_their_records_say():
    _, tokenizer = load_policy("tiny-sft", "cpu")
    golds = {
        name: evaluate_policy(load_policy(name, "cpu")[0], tokenizer, n=256, seed=123)["gold"]
        for name in ("tiny-base", "tiny-sft", "tiny-dpo", "tiny-ppo")
    }
    assert golds["tiny-base"] < golds["tiny-sft"] - 1
    assert golds["tiny-dpo"] > golds["tiny-sft"] + 0.8
    assert golds["tiny-ppo"] > golds["tiny-sft"] + 1.2


@pytest.mark.slow
def test_a_shrunken_run_goes_from_nothing_to_ppo_and_dpo():
    told = []
    stages = pipeline.run(seed=3, scale=0.02, on_stage=told.append, use_cpu=True, disable_tqdm=True)
    assert tuple(stages) == pipeline.STAGES
    assert [stage.name for stage in told] == list(pipeline.STAGES)
    assert stages["sft"].gold > stages["pretrain"].gold - 0.5
    assert all(stage.seconds > 0 for stage in told)


@pytest.mark.parametrize("scale", [0, -1.0])
def test_a_scale_of_nothing_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be above 0"):
        pipeline.run(scale=scale)
