"""What lesson 10 claims, in every seed of the shipped tables; and each experiment in small."""

from itertools import combinations

import numpy as np
import pytest
import torch

from rlhf_course import pipeline
from rlhf_course.experiments import overoptimization as over
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, little data, few answers, two steps."""
    shipped = {"reward": "tiny-reward", "sft": "tiny-sft", "grpo": "tiny-ppo"}

    def trained(stage, seed):
        return (load_reward_model if stage == "reward" else load_policy)(shipped[stage], "cpu")[0]

    sample_groups = pipeline.sample_groups
    monkeypatch.setattr(over, "trained", trained)
    monkeypatch.setattr(
        pipeline,
        "sample_groups",
        lambda policy, n, each, seed, **kw: sample_groups(policy, min(n, 40), each, seed, **kw),
    )
    for name, value in {"FRESH_ANSWERS": 8, "POOL_PROMPTS": 2, "POOL_ANSWERS": 8}.items():
        monkeypatch.setattr(over, name, value)
    monkeypatch.setattr(over, "RANKINGS", (20, 5_000))
    monkeypatch.setattr(over, "LAYERS", (1, 3))
    for method in ("ppo", "grpo"):
        size = {"max_steps": 2, "per_device_train_batch_size": 16, "num_ppo_epochs": 1, "num_iterations": 1}
        kept = {name: value for name, value in size.items() if name in pipeline.SETTINGS[method] or "max" not in name}
        kept.pop("num_iterations" if method == "ppo" else "num_ppo_epochs")
        monkeypatch.setitem(pipeline.SETTINGS, method, pipeline.SETTINGS[method] | kept)
    caches = (over._own_run, over._groups, over._members, over._pool)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_every_method_leaves_looks(small, monkeypatch):
    monkeypatch.setattr(over, "COUNTS", (1, 2))
    monkeypatch.setattr(over.best_of_n, "__defaults__", ((1, 2),))
    table = over.curves(seeds=(0,), steps=2)
    assert list(dict.fromkeys(table.values("method"))) == ["ppo", "grpo", "best of n"]
    assert table.values("step", method="best of n") == [1, 2]
    assert table.rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert len({tuple(row) for row in table.rows}) == 1


def test_reward_models_differ_in_one_thing(small):
    table = over.reward_models(seeds=(0,), steps=2)
    assert list(dict.fromkeys((row["varied"], row["value"]) for row in table.rows)) == [
        ("rankings", 20),
        ("rankings", 5_000),
        ("layers", 1),
        ("layers", 3),
    ]


def test_a_shallow_judge_has_fewer_layers_and_leaves_the_policy_whole():
    policy = load_policy("tiny-sft", "cpu")[0]
    shallow = over._shallow(policy, 1)
    assert len(shallow.model.layers) == shallow.config.num_hidden_layers == 1
    assert len(policy.model.layers) == policy.config.num_hidden_layers == 3
    ids = torch.tensor([[1, 5, 6]])
    assert shallow(input_ids=ids).logits.shape == policy(input_ids=ids).logits.shape


def test_ensembles_follow_their_members(small):
    table = over.ensembles(seeds=(0,), steps=2)
    judges = [*(f"member {i}" for i in range(4)), "mean", "wco", "uwo"]
    assert list(dict.fromkeys(table.values("judge"))) == judges
    assert set(table.values("judge", beta=0.0)) == set(over.WITHOUT_PRICE)
    sizes = over.ensemble_size(seeds=(0,), counts=(1, 2))
    assert len(sizes.rows) == 2 * (1 + 3 * 3)
    assert sizes.values("proxy", members=1)[0] >= sizes.values("proxy", members=4, method="wco")[0]


def test_four_blind_spots_are_followed(small):
    table = over.blind_spots(seeds=(0,), steps=2)
    assert table.values("judge") == [*over.BLIND_TO, "mean", "wco", "uwo"]
    assert set(table.values("beta")) == {pipeline.SETTINGS["grpo"]["beta"]}
    assert len(set(table.values("accuracy")[:4])) > 1


def test_tastes_are_measured(small):
    table = over.tastes(seeds=(0,))
    assert table.values("labelers") == ["none", "the truth", "flattery", "length"]
    assert all(0 <= share <= 1 for share in table.values("flattery"))


def test_the_chance_of_being_best_by_enumeration():
    chance = over._chance_of_being_best(6, 3)
    draws = [max(draw) for draw in combinations(range(6), 3)]
    assert chance == pytest.approx([draws.count(k) / len(draws) for k in range(6)])


def test_best_of_one_is_any_and_best_of_all_the_best(small):
    scores = torch.arange(16.0)
    one, all_ = over.best_of_n(0, scores, (1, 8))
    assert one["proxy"] == pytest.approx(7.5) and all_["proxy"] == pytest.approx((7 + 15) / 2)
    assert one["kl"] == 0 and all_["kl"] == pytest.approx(np.log(8) - 7 / 8)
