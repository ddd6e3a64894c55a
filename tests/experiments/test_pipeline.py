"""What the pipeline's stages and the price of the KL bring: the instruments, and the claims in every seed."""

import pytest

from rlhf_course.data.world import concept_of
from rlhf_course.experiments import load_result, pipeline
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, and a few answers instead of hundreds."""
    names = {"pretrain": "tiny-base", "sft": "tiny-sft", "reward": "tiny-reward", "ppo": "tiny-ppo", "dpo": "tiny-dpo"}

    def trained(stage, seed):
        return (load_reward_model if stage == "reward" else load_policy)(names[stage], "cpu")[0]

    evaluate = pipeline.evaluate_policy
    monkeypatch.setattr(pipeline, "trained", trained)
    monkeypatch.setattr(pipeline, "evaluate_policy", lambda *a, **k: evaluate(*a, **(k | {"n": 8})))
    monkeypatch.setattr(pipeline, "TEST_PAIRS", 16)


def test_stages_of_one_seed(small):
    table = pipeline.stages(seeds=[0])
    shipped = load_result("pipeline.stages")
    assert table.name == shipped.name and list(table.rows[0]) == list(shipped.rows[0])
    assert table.rows[0]["ppo_kl"] > 0


def test_kl_price_of_two_steps(small):
    table = pipeline.kl_price(seeds=[0], betas=(0.0, 1.0), steps=2)
    assert [(row["beta"], row["step"]) for row in table.rows] == [(0.0, 0), (0.0, 2), (1.0, 0), (1.0, 2)]
    start = table.rows[0]
    assert start["kl"] == pytest.approx(0, abs=1e-3) and start["answer"]
    assert {name: start[name] for name in start if name != "beta"} == {
        name: table.rows[2][name] for name in start if name != "beta"
    }
    assert list(start) == list(load_result("pipeline.kl_price").rows[0])
    assert table.settings["max_steps"] == 2 and "kl_coef" not in table.settings


# ---------------------------------------------------------------------- what the shipped runs must show, in every seed


@pytest.fixture(scope="module")
def price():
    return load_result("pipeline.kl_price")


def ends(table, column, seed):
    """β → the value at the end of the run."""
    last = table.settings["max_steps"]
    return {row["beta"]: row[column] for row in table.where(seed=seed, step=last)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_a_leash_the_score_rises_on_while_the_truth_falls(price, seed):
    gold, score = (price.values(column, seed=seed, beta=0.0) for column in ("gold", "proxy"))
    peak = gold.index(max(gold))
    assert 0 < peak < len(gold) - 1
    assert gold[peak] > gold[0] + 0.5
    assert gold[-1] < gold[0] - 0.5 and gold[-1] < gold[peak] - 2
    assert score[-1] > score[peak] and score[-1] > score[0] + 1.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_dearer_nat_is_spent_less(price, seed):
    kl = ends(price, "kl", seed)
    assert list(kl) == sorted(kl)
    assert list(kl.values()) == sorted(kl.values(), reverse=True)
    assert kl[0.0] > 10 * kl[0.1] and kl[1.0] < 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_price_is_neither_nothing_nor_a_lot(price, seed):
    gold = ends(price, "gold", seed)
    assert gold[0.1] > gold[0.0] + 2
    assert gold[0.1] > gold[1.0] + 0.5


def test_every_run_starts_from_the_same_model_and_keeps_an_answer(price):
    for seed in price.settings["seeds"]:
        starts = price.where(seed=seed, step=0)
        assert len({(row["gold"], row["proxy"], row["answer"]) for row in starts}) == 1
        assert all(abs(row["kl"]) < 1e-3 for row in starts)
    assert concept_of(price.settings["prompt"]).name == "quantum entanglement"
