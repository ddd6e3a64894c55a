"""What lesson 11 claims, in every seed of the shipped tables; and each experiment in small."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from rlhf_course.evaluation import pareto_frontier
from rlhf_course.experiments import choosing, load_result
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


# ---------------------------------------------------------------------- what the lesson says of the shipped tables

frontier = partial(load_result, "choosing.frontier")
systems = partial(load_result, "choosing.systems")
every_seed = pytest.mark.parametrize("seed", choosing.SEEDS)


def gold(seed, method, beta=None, n=None):
    (value,) = frontier().values("gold", seed=seed, method=method, beta=beta, n=n)
    return value


def settings():
    """Every run but the seed: (method, beta, n)."""
    return [(row["method"], row["beta"], row["n"]) for row in frontier().where(seed=0)]


def test_on_average_nobody_ends_above_dpo():
    """The title of the map."""
    means = {run: np.mean([gold(seed, *run) for seed in choosing.SEEDS]) for run in settings()}
    assert max(means, key=means.get) == ("dpo", 0.3, None)


@every_seed
def test_dpo_beats_ppo_from_the_same_pairs_and_loses_to_ppo_with_a_better_judge(seed):
    assert gold(seed, "dpo", 0.3) > gold(seed, "ppo", 0.1) + 0.1
    (row,) = load_result("pipeline.stages").where(seed=seed)
    assert row["ppo_gold"] > row["dpo_gold"] + 0.2
    assert row["dpo_gold"] == pytest.approx(gold(seed, "dpo", 0.3), abs=0.01)
    (as_many_steps,) = load_result("pipeline.kl_price").values("gold", seed=seed, beta=0.1, step=choosing.STEPS)
    assert as_many_steps > gold(seed, "ppo", 0.1) + 0.3


@every_seed
@pytest.mark.parametrize("method", ["grpo", "online dpo"])
def test_at_a_third_of_the_price_samplers_go_further_and_get_less(seed, method):
    near, far = (frontier().where(seed=seed, method=method, beta=beta)[0] for beta in (0.3, 0.1))
    assert far["kl"] > near["kl"] and far["gold"] < near["gold"]


@every_seed
def test_rlaif_ends_below_grpo_on_peoples_labels(seed):
    assert gold(seed, "rlaif", 0.3) < gold(seed, "grpo", 0.3) - 0.2


def test_who_is_never_beaten_and_who_always():
    kept = dict.fromkeys(settings(), 0)
    for seed in choosing.SEEDS:
        kl, golds = (torch.tensor(frontier().values(column, seed=seed)) for column in ("kl", "gold"))
        for run, stays in zip(kept, pareto_frontier(kl, golds).tolist()):
            kept[run] += stays
    assert [run for run, times in kept.items() if times == 3] == [
        ("sft", None, None),
        ("best-of-n", None, 4),
        ("dpo", 0.3, None),
    ]
    beaten = {run for run, times in kept.items() if times == 0}
    assert len(beaten) == 7 and len(kept) == 18
    assert {("ppo", 0.1, None), ("ppo", 0.033, None), ("grpo", 0.1, None), ("online dpo", 0.1, None)} < beaten


def test_two_runs_a_tenth_apart_are_hardly_apart():
    assert 0.04 < np.mean(frontier().values("gold_se")) < 0.06


@every_seed
def test_what_it_costs(seed):
    def bill(method, column):
        return np.mean(frontier().values(column, seed=seed, method=method))

    direct = max(bill(method, "seconds") for method in ("dpo", "ipo"))
    for method in ("ppo", "grpo", "rloo", "online dpo"):
        share = bill(method, "judge_seconds") / (bill(method, "judge_seconds") + bill(method, "seconds"))
        assert 0.4 < share < 0.75
    assert direct < 1.1 * bill("best-of-n", "judge_seconds")
    assert bill("kto", "seconds") > direct
    assert bill("rlaif", "judge_seconds") > 0.7 * (bill("rlaif", "judge_seconds") + bill("rlaif", "seconds"))


def stage(seed, recipe, place, column="gold"):
    (value,) = systems().values(column, seed=seed, recipe=recipe, place=place)
    return value


@every_seed
def test_the_great_leaps_are_a_teachers_the_rules_and_the_revisions(seed):
    """The title of the figure: no other stage lifts gold as much."""
    leaps = {
        "teacher": stage(seed, "zephyr", 1) - stage(seed, "deepseek", 1),
        "rules": stage(seed, "deepseek", 2) - stage(seed, "deepseek", 1),
        "revisions": stage(seed, "claude", 2) - stage(seed, "claude", 1),
    }
    others = [("instructgpt", 2), ("llama2", 2), ("llama2", 3), ("zephyr", 2), ("claude", 3)]
    assert min(leaps.values()) > max(stage(seed, name, place) - stage(seed, name, place - 1) for name, place in others)


@every_seed
def test_the_second_half_of_claude_adds_nothing(seed):
    assert stage(seed, "claude", 3) < stage(seed, "claude", 2)


@every_seed
def test_llama2s_gold_rises_and_its_falsehoods_with_it(seed):
    false = [float(re.search(r"[\d.]+$", note)[0]) for note in systems().values("note", seed=seed, recipe="llama2")]
    golds = systems().values("gold", seed=seed, recipe="llama2")
    assert golds == sorted(golds) and false[2] > 1.5 * false[1]


@every_seed
def test_the_mix_keeps_the_corpus_and_costs_the_gold(seed):
    before, after = map(float, re.findall(r"[\d.]+", stage(seed, "instructgpt", 2, "note")))
    assert after < 0.6 * before
    assert stage(seed, "instructgpt", 2) < stage(seed, "instructgpt", 1) + 0.2


@every_seed
def test_rules_make_most_answers_true(seed):
    before, after = (int(stage(seed, "deepseek", place, "note").split("%")[0]) for place in (1, 2))
    assert before < 15 and after > 80
