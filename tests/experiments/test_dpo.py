"""DPO healthy and broken, and what its pairs must hold: the instruments, and the claims in every seed."""

import pytest

from rlhf_course.experiments import dpo, load_result
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, and a few answers instead of hundreds."""
    names = {"sft": "tiny-sft", "reward": "tiny-reward", "ppo": "tiny-ppo", "dpo": "tiny-dpo"}

    def trained(stage, seed):
        return (load_reward_model if stage == "reward" else load_policy)(names[stage], "cpu")[0]

    monkeypatch.setattr(dpo, "trained", trained)
    for name, value in {"HELD_OUT": 8, "FRESH_ANSWERS": 8, "JUDGED_ANSWERS": 8}.items():
        monkeypatch.setattr(dpo, name, value)


def test_broken_runs_of_two_steps(small):
    table = dpo.broken_runs(seeds=[0], runs=(dpo.HEALTHY, dpo.MEAN), comparisons=64)
    assert [(row["run"], row["step"]) for row in table.rows] == [
        (r, s) for r in (dpo.HEALTHY, dpo.MEAN) for s in (0, 2)
    ]
    start, end = table.where(run=dpo.HEALTHY)
    assert start["chosen"] == pytest.approx(0, abs=1e-3) and start["kl"] == pytest.approx(0, abs=1e-3)
    assert end["chosen"] != pytest.approx(0, abs=1e-4)
    assert start["chosen_logp"] < -5 and start["answer"]
    assert {name: start[name] for name in start if name != "run"} == pytest.approx(
        {name: value for name, value in table.where(run=dpo.MEAN, step=0)[0].items() if name != "run"}
    )
    with pytest.raises(ValueError, match="run must be one of healthy, "):
        dpo.dpo_run(0, "no beta")


def test_coverage_of_two_steps(small):
    table = dpo.coverage(seeds=[0], comparisons=64, own=16, max_steps=2)
    policies = [dpo.SFT_MODEL, dpo.DPO_ALL, dpo.DPO_WITHOUT, dpo.DPO_MENDED, dpo.PPO_ALL, dpo.PPO_WITHOUT]
    assert table.values("policy") == policies
    assert table.rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert all(0 <= row["right analogy"] <= row["analogy"] <= 1 for row in table.rows)


def test_analogies_are_cut_out_of_answers():
    prompt = "<bos> explain black hole . <sep>"
    fact, analogy = "it is trapped light .", "maybe think of bottomless drain ."
    groups = [
        {"prompt": prompt, "answers": [f"{fact} {analogy} hope that helps .", fact], "ended": [True, False]},
        {"prompt": prompt, "answers": [analogy, fact], "ended": [True, True]},
    ]
    (group,) = dpo.without_analogies(groups)
    assert group == {"prompt": prompt, "answers": [f"{fact} hope that helps .", fact], "ended": [True, False]}
    assert analogy in groups[0]["answers"][0], "what was given stays as it was"


# ---------------------------------------------------------------------- what the shipped runs show, in every seed

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def last(seed, run):
    (row,) = load_result("dpo.broken_runs").where(seed=seed, run=run, step=125)
    return row


def habit(seed, policy):
    (row,) = load_result("dpo.coverage").where(seed=seed, policy=policy)
    return row


@every_seed
def test_every_run_starts_as_the_sft_model(seed):
    starts = load_result("dpo.broken_runs").where(seed=seed, step=0)
    assert [row["run"] for row in starts] == list(dpo.RUNS)
    for name in ("gold", "answer", "length", "chosen_logp", "rejected_logp"):
        assert len({row[name] for row in starts}) == 1
    assert all(abs(row[name]) < 0.01 for row in starts for name in ("chosen", "rejected", "kl"))


@every_seed
def test_a_healthy_run_lifts_gold_while_its_chosen_answers_get_less_likely(seed):
    looks = load_result("dpo.broken_runs").where(seed=seed, run=dpo.HEALTHY)
    assert looks[0]["gold"] < 0 and all(look["gold"] > 1 for look in looks[1:])
    assert 1.4 < looks[-1]["gold"] < 1.5 and 1.5 < looks[-1]["kl"] < 2.5
    for look in looks[1:]:
        assert look["rejected"] < look["chosen"] - 1.5 < -1.5, "both fall, the rejected ones further"
    assert looks[-1]["chosen"] < -1
    assert 0.74 <= looks[-1]["accuracy"] < 0.8, "labelers agree in 0.726; more than that cannot be learnt by much"


@every_seed
def test_without_a_reference_gold_ends_below_the_sft_model_in_long_answers(seed):
    (start,) = load_result("dpo.broken_runs").where(seed=seed, run=dpo.HEALTHY, step=0)
    broken = last(seed, dpo.NO_REFERENCE)
    assert broken["gold"] < start["gold"] - 0.35
    assert broken["accuracy"] < 0.45 and broken["chosen"] < broken["rejected"], "it has moved towards the rejected ones"
    assert broken["length"] > start["length"] + 12
    assert broken["kl"] < 4, "the KL alone does not give it away"


@every_seed
@pytest.mark.parametrize("run", [dpo.MEAN, "β = 0.01"])
def test_a_loss_that_is_never_satisfied_pushes_on(seed, run):
    healthy, broken = last(seed, dpo.HEALTHY), last(seed, run)
    assert broken["chosen"] < -25 and broken["rejected"] < -55
    assert broken["kl"] > 1.6 * healthy["kl"] and 3.9 < broken["kl"] < 33
    assert 0.65 < broken["accuracy"] < healthy["accuracy"] - 0.05
    assert broken["gold"] > 1.15, "the truth suffers less than the log-probabilities"


@every_seed
def test_means_for_sums_cost_gold(seed):
    assert last(seed, dpo.MEAN)["gold"] < last(seed, dpo.HEALTHY)["gold"]


def test_a_beta_too_small_does_not_always_cost_gold():
    lost = [last(seed, dpo.HEALTHY)["gold"] - last(seed, "β = 0.01")["gold"] for seed in SEEDS]
    assert min(lost) < 0 < max(lost)


@every_seed
def test_a_beta_too_large_orders_the_pairs_and_hardly_moves(seed):
    healthy, broken = last(seed, dpo.HEALTHY), last(seed, "β = 5")
    (start,) = load_result("dpo.broken_runs").where(seed=seed, run=dpo.HEALTHY, step=0)
    assert broken["kl"] < 0.15
    assert start["gold"] + 0.4 < broken["gold"] < healthy["gold"] - 1
    assert abs(broken["accuracy"] - healthy["accuracy"]) < 0.04, "accuracy does not tell how far it went"
    assert 0 < broken["chosen"] < 0.15, "here the chosen answers do get likelier"


@every_seed
def test_dpo_leaves_a_habit_that_no_pair_holds_where_it_was(seed):
    before, of_all, without = (habit(seed, name) for name in (dpo.SFT_MODEL, dpo.DPO_ALL, dpo.DPO_WITHOUT))
    assert abs(without["analogy"] - before["analogy"]) < 0.07
    assert abs(without["right analogy"] - before["right analogy"]) < 0.02
    assert of_all["analogy"] > before["analogy"] + 0.15
    assert of_all["right analogy"] > 2 * before["right analogy"] - 0.05
    for learnt in (of_all, without):
        assert learnt["closing"] > before["closing"] + 0.2, "what both kinds of pairs hold is learnt from both"
    assert 0.15 < of_all["gold"] - without["gold"] < 0.25


@every_seed
def test_a_reward_model_of_the_same_pairs_judges_what_it_never_saw_and_is_wrong(seed):
    before, of_all, without = (habit(seed, name) for name in (dpo.SFT_MODEL, dpo.PPO_ALL, dpo.PPO_WITHOUT))
    assert of_all["analogy"] > before["analogy"] + 0.15
    assert without["analogy"] < 0.6 * before["analogy"]
    assert without["gold"] < of_all["gold"] - 0.5


@every_seed
def test_asking_about_its_own_answers_mends_it(seed):
    of_all, without, mended = (habit(seed, name) for name in (dpo.DPO_ALL, dpo.DPO_WITHOUT, dpo.DPO_MENDED))
    assert mended["right analogy"] > 2 * without["right analogy"]
    assert mended["gold"] > of_all["gold"] + 0.2
    assert mended["kl"] > of_all["kl"], "it went on from there, so it is further away, too"


@every_seed
def test_at_the_same_price_ppo_is_ahead_and_no_further_away(seed):
    """PPO's reward model saw 30,000 pairs and DPO 4,000: the same optimum is not the same result."""
    (ppo,) = load_result("pipeline.kl_price").where(seed=seed, beta=0.3, step=100)
    (stages,) = load_result("pipeline.stages").where(seed=seed)
    assert 0.05 < ppo["gold"] - stages["dpo_gold"] < 0.2
    assert ppo["kl"] < stages["dpo_kl"]
