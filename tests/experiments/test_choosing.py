"""What lesson 11 claims, in every seed of the shipped tables; and each experiment in small."""

import pytest
import torch

from rlhf_course.experiments import choosing
from rlhf_course.models import load_policy
from rlhf_course.plots import COLOURS


@pytest.fixture
def small(monkeypatch):
    """Two steps from the shipped SFT model, judged on a few answers."""
    monkeypatch.setattr(choosing, "trained", lambda stage, seed: load_policy("tiny-sft", "cpu")[0])
    for name, value in {"STEPS": 2, "FRESH_ANSWERS": 8, "POOL_PROMPTS": 4, "TEACHING_GROUPS": 32}.items():
        monkeypatch.setattr(choosing, name, value)
    choosing._opponents_golds.cache_clear()
    yield
    choosing._opponents_golds.cache_clear()


def test_every_method_is_trained_judged_and_counted(small):
    prices = {method: betas[:1] for method, betas in choosing.PRICES.items()}
    table = choosing.frontier(seeds=(0,), prices=prices, counts=(2, 4), comparisons=64)
    assert table.values("method") == ["sft", "best-of-n", "best-of-n", *prices]
    assert len({frozenset(row) for row in table.rows}) == 1, "one set of columns"
    rows = {row["method"]: row for row in table.rows}
    size = sum(p.numel() for p in load_policy("tiny-sft", "cpu")[0].parameters())
    for method in choosing.DIRECT:
        assert (rows[method]["trained"], rows[method]["frozen"], rows[method]["answers"]) == (size, 0, 0)
        assert rows[method]["judge_seconds"] == 0
    assert 2 * size < rows["ppo"]["trained"] < 2.01 * size
    for method in ("grpo", "rloo", "online dpo", "rlaif"):
        assert rows[method]["trained"] == size and 2 * size < rows[method]["frozen"] < 2.01 * size
        assert rows[method]["answers"] == 128 and rows[method]["judge_seconds"] > 0
    assert [row["n"] for row in table.where(method="best-of-n")] == [2, 4]
    assert rows["best-of-n"]["trained"] == 0 and 2 * size < rows["best-of-n"]["frozen"] < 2.01 * size
    assert {row["labels"] for row in table.rows} == {0, 64}
    assert [row["method"] for row in table.where(labeler="a model")] == ["rlaif"]
    assert all(0 <= wins <= 1 for wins in table.values("wins"))


def test_the_best_of_n_come_from_groups_of_their_own_prompt(small, monkeypatch):
    """A judge that knows the truth: the winners' gold rises with n, and none is lost to another prompt's answers."""
    monkeypatch.setattr(choosing, "POOL_PROMPTS", 8)
    truth = lambda judge, texts: torch.tensor([choosing.gold_reward(p, a) for p, a in texts])  # noqa: E731
    monkeypatch.setattr(choosing, "score_answers", truth)
    sft = choosing.trained("sft", 0)
    one, four, sixteen = choosing.best_of(sft, None, 0, (1, 4, 16))
    assert one["gold"] < four["gold"] < sixteen["gold"]
    assert one["kl"] == 0 and sixteen["wins"] > one["wins"]


def test_recipes_become_rows(small):
    table = choosing.systems(seeds=(0,), names=("deepseek",), scale=0.01)
    assert table.values("place") == [1, 2] and len(set(table.values("seconds"))) == 1


def test_every_method_has_a_price_and_a_colour():
    assert set(choosing.PRICES) - {"rloo"} <= set(COLOURS)
