"""What lesson 08 claims, in every seed of the shipped tables; and each experiment in small."""

from functools import partial

import pytest

from rlhf_course import pipeline
from rlhf_course.evaluation import evaluate_policy
from rlhf_course.experiments import grpo
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """Two steps of sixteen answers from the shipped models, judged on a few answers."""

    def shipped(stage, seed):
        if stage == "reward":
            return load_reward_model("tiny-reward", "cpu")[0]
        return load_policy("tiny-sft" if stage in ("grpo", "rloo") else f"tiny-{stage}", "cpu")[0]

    monkeypatch.setattr(grpo, "trained", shipped)
    monkeypatch.setattr(grpo, "evaluate_policy", partial(evaluate_policy, n=8))
    monkeypatch.setattr(grpo, "_passes", partial(grpo._passes, n=8))
    for method in ("ppo", "grpo"):
        size = {"max_steps": 2, "per_device_train_batch_size": 16}
        monkeypatch.setitem(pipeline.SETTINGS, method, pipeline.SETTINGS[method] | size)


def test_every_method_is_judged(small):
    table = grpo.against_ppo(seeds=(0,))
    assert table.values("method") == list(grpo.METHODS)
    assert {"gold", "gold_se", "kl", "proxy", "length"} < set(table.rows[0])


def test_cost_counts_what_is_held(small):
    table = grpo.cost(seeds=(0,), steps=1)
    ppo, with_reference, without = table.rows
    size = sum(p.numel() for p in load_policy("tiny-sft", "cpu")[0].parameters())
    assert with_reference["trained"] == without["trained"] == size
    assert 2 * size < ppo["trained"] < 2.01 * size
    assert without["frozen"] < with_reference["frozen"] == ppo["frozen"] == without["frozen"] + size
    for row in table.rows:
        assert row["gradients"] == pytest.approx(4 * row["trained"] / 1e6)
        assert row["optimizer"] == pytest.approx(2 * row["gradients"], rel=1e-3)
        assert row["weights"] == pytest.approx(4 * (row["trained"] + row["frozen"]) / 1e6)
        assert row["seconds"] > 0


def test_the_ways_to_average_are_trained_and_judged(small):
    assert grpo.aggregation(seeds=(0,), ways=("dapo", "dr_grpo")).values("way") == ["dapo", "dr_grpo"]


def test_a_run_on_the_rule_is_told_step_by_step(small):
    table = grpo.verifiable(seeds=(0,), steps=2)
    assert table.values("step") == [0, 1, 2, 3]
    assert [row["gold"] is None for row in table.rows] == [False, True, True, False]
    assert all(0 <= share <= 1 for share in table.values("passed"))


def test_the_rule_looks_for_fact_and_analogy():
    prompt = "<bos> explain black hole . <sep>"
    fact, analogy = "it is trapped light .", "imagine bottomless drain ."
    answers = [f"{fact} {analogy}", fact, analogy, f"it is linked particles . {analogy}", ""]
    assert grpo.states_the_truth([prompt] * 5, answers) == [1, 0, 0, 0, 0]
