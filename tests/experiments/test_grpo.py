"""What lesson 08 claims, in every seed of the shipped tables; and each experiment in small."""

from functools import partial

import pytest
import torch

from rlhf_course import pipeline
from rlhf_course.evaluation import evaluate_policy
from rlhf_course.experiments import grpo, load_result
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


def test_runs_from_one_start_are_told_apart(small):
    table = grpo.run_to_run(seeds=(0,), runs=2)
    assert [(row["method"], row["run"]) for row in table.rows] == [(m, r) for m in ("ppo", "grpo") for r in (0, 1)]
    assert all(row["kl"] == row["kl"] for row in table.rows)
    ways = {grpo.derive_seed(0, f"{method}, run {run}") for method in ("ppo", "grpo") for run in (1, 2)}
    assert len(ways | {0}) == 5, "every run has a chance of its own"


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


# ---------------------------------------------------------------------- what the shipped tables show, in every seed

every_seed = pytest.mark.parametrize("seed", grpo.SEEDS)
T_OF_THREE = 4.303  # Student's t, two degrees of freedom, 95 %


def judged(seed, method):
    (row,) = load_result("grpo.against_ppo").where(seed=seed, method=method)
    return row


def held(row):
    return row["weights"] + row["gradients"] + row["optimizer"]


@pytest.mark.parametrize("table", ["against_ppo", "run_to_run", "cost", "aggregation", "verifiable"])
def test_tables_are_of_all_seeds_and_of_the_settings_that_the_pipeline_has(table):
    shipped = load_result(f"grpo.{table}")
    assert set(shipped.values("seed")) == set(grpo.SEEDS) == set(shipped.settings["seeds"])
    assert {name: shipped.settings[name] for name in ("grpo", "rloo")} == {
        name: pipeline.SETTINGS[name] for name in ("grpo", "rloo")
    }


@pytest.mark.parametrize(("method", "low", "high"), [("grpo", -0.37, 0.32), ("rloo", -0.37, 0.01)])
def test_without_a_critic_gold_is_less_than_a_fifth_below_ppos(method, low, high):
    gaps = torch.tensor([judged(seed, method)["gold"] - judged(seed, "ppo")["gold"] for seed in grpo.SEEDS])
    half = T_OF_THREE * gaps.std() / 3**0.5
    assert gaps.mean() > -0.2
    assert (gaps.mean() - half).item() == pytest.approx(low, abs=0.01), "the interval that the lesson shows"
    assert (gaps.mean() + half).item() == pytest.approx(high, abs=0.01)


@every_seed
def test_without_a_critic_gold_is_far_above_the_sft_models(seed):
    for method in ("grpo", "rloo"):
        assert judged(seed, method)["gold"] > judged(seed, "sft")["gold"] + 1.8
        assert 1.9 < judged(seed, method)["kl"] < 3.6


@every_seed
def test_rloo_is_below_ppo_and_no_further_than_it_but_in_one_seed_by_a_fifth_of_a_nat(seed):
    assert judged(seed, "ppo")["gold"] - 0.26 < judged(seed, "rloo")["gold"] < judged(seed, "ppo")["gold"] - 0.1
    assert judged(seed, "rloo")["kl"] < judged(seed, "ppo")["kl"] + 0.2


def test_nine_runs_each_come_out_alike():
    table = load_result("grpo.run_to_run")
    ppo, found = (
        torch.tensor([table.values("gold", method=method, seed=seed) for seed in grpo.SEEDS])
        for method in ("ppo", "grpo")
    )
    gaps = found.mean(dim=1) - ppo.mean(dim=1)
    half = T_OF_THREE * gaps.std() / 3**0.5
    assert gaps.mean().item() == pytest.approx(-0.01, abs=0.01) and half.item() == pytest.approx(0.124, abs=0.002)
    spreads = [gold.var(dim=1).mean().sqrt().item() for gold in (ppo, found)]
    assert spreads == pytest.approx([0.056, 0.066], abs=0.001), (
        "neither is steadier: the ratio would have to be above 2"
    )
    assert min(table.values("gold_se")) > 0.03, "a good part of which is the judging"


@every_seed
def test_the_first_run_is_the_pipelines_own(seed):
    first = load_result("grpo.run_to_run").where(seed=seed, run=0)
    assert [{name: row[name] for name in row if name != "run"} for row in first] == [
        judged(seed, method) for method in ("ppo", "grpo")
    ]


@every_seed
def test_a_step_is_quicker_and_two_fifths_of_the_memory_are_free(seed):
    cost = load_result("grpo.cost")
    ppo, found, without = (
        cost.where(seed=seed, method=name)[0] for name in ("ppo", "grpo", "grpo without a reference")
    )
    assert 0.6 < found["seconds"] / ppo["seconds"] < 0.75
    assert without["seconds"] < found["seconds"]
    assert held(found) / held(ppo) == pytest.approx(0.6, abs=0.005)
    assert held(without) / held(ppo) == pytest.approx(0.5, abs=0.005)


@every_seed
def test_leaving_out_the_spread_at_the_same_price_keeps_the_policy_nearer_and_below(seed):
    ways = {row["way"]: row for row in load_result("grpo.aggregation").where(seed=seed)}
    without = ways.pop("dr_grpo")
    assert set(ways) == {"grpo", "bnpo", "dapo"}
    for row in ways.values():
        assert without["gold"] < row["gold"] - 0.2
        assert without["kl"] < row["kl"] - 1 and without["length"] < row["length"] - 1
    golds = [row["gold"] for row in ways.values()]
    assert max(golds) - min(golds) < 0.15, "how losses are averaged hardly matters to the truth here"


def test_the_mean_of_means_does_not_lengthen_answers_in_every_seed():
    table = load_result("grpo.aggregation")
    longer = [a - b for a, b in zip(table.values("length", way="grpo"), table.values("length", way="dapo"))]
    assert min(longer) < -1 < 2 < max(longer)


@every_seed
def test_a_rule_teaches_the_truth(seed):
    rows = load_result("grpo.verifiable").where(seed=seed)
    before, after = rows[0], rows[-1]
    assert 0.14 < before["passed"] < 0.17 and 0.66 < after["passed"] < 0.82
    assert before["gold"] < 0 and 0.75 < after["gold"] < 1, "of what makes an answer good, the rule knows only a part"
    assert after["length"] > before["length"] + 2


@every_seed
def test_groups_without_a_difference_are_rare_while_half_pass_and_come_back(seed):
    zero = load_result("grpo.verifiable").values("zero_std", seed=seed)[1:-1]
    assert zero[0] > 0, "where hardly any answer passes, a group may have none"
    assert sum(zero[10:20]) / 10 < 0.02 and sum(zero[-10:]) / 10 == pytest.approx(0.15)
