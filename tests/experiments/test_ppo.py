"""PPO healthy and broken: the faults by hand, and what the shipped runs show, in every seed."""

import pytest
import torch

from rlhf_course.experiments import load_result, ppo
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, and a few short answers."""
    monkeypatch.setattr(
        ppo,
        "trained",
        lambda stage, seed: (load_reward_model if stage == "reward" else load_policy)(f"tiny-{stage}", "cpu")[0],
    )
    monkeypatch.setattr(ppo, "FRESH_ANSWERS", 4)
    few = {"per_device_train_batch_size": 8, "response_length": 16, "value_warmup_steps": 0}
    for run, settings in ppo.RUNS.items():
        monkeypatch.setitem(ppo.RUNS, run, {**settings, **few})


def test_every_run_makes_two_steps(small):
    table = ppo.broken_runs(seeds=[0], steps=2)
    assert table.values("run") == list(ppo.RUNS)
    assert table.values("step") == [2] * len(ppo.RUNS)
    (healthy,) = table.where(run=ppo.HEALTHY)
    for run in ppo.RUNS:
        (row,) = table.where(run=run)
        assert run == ppo.HEALTHY or any(row[name] != healthy[name] for name in ppo.DIAGNOSTICS), f"{run} is no fault"
    with pytest.raises(ValueError, match="run must be one of healthy, β = 0, "):
        ppo.ppo_run(0, "no mask")


def test_without_a_clip_the_push_never_ends():
    logps = torch.tensor([[2.0, 0.5]]).log().requires_grad_()
    ppo.unclipped_loss(logps, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2).backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-1.0, 0.25]]))  # ∓ρ/2: both would be 0 with the clip


# ---------------------------------------------------------------------- what the shipped runs show, in every seed

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", SEEDS)
AS_HEALTHY = (ppo.MANY, ppo.NO_CLIP, ppo.NO_WHITENING, ppo.NO_END, ppo.WITH_DROPOUT)
as_healthy = pytest.mark.parametrize("run", AS_HEALTHY)


def looks(seed, run):
    return load_result("ppo.broken_runs").where(seed=seed, run=run)


def last(seed, run):
    return looks(seed, run)[-1]


@every_seed
def test_the_table_holds_every_run_from_step_10_to_60(seed):
    assert all([row["step"] for row in looks(seed, run)] == [10, 20, 30, 40, 50, 60] for run in ppo.RUNS)


@every_seed
def test_a_healthy_run_brings_gold_and_stays_near(seed):
    row = last(seed, ppo.HEALTHY)
    (stages,) = load_result("pipeline.stages").where(seed=seed)
    assert row["gold"] > stages["sft_gold"] + 1.6
    assert 1.6 < row["gold"] < 2.1 and 2.2 < row["kl"] < 3.3


@every_seed
def test_a_healthy_run_reads_as_the_lesson_says(seed):
    first, end = looks(seed, ppo.HEALTHY)[0], last(seed, ppo.HEALTHY)
    assert all(row["clipfrac"] < 0.003 and row["approxkl"] <= 0.001 for row in looks(seed, ppo.HEALTHY))
    assert 0.96 < first["entropy"] < 1.0 and 0.48 < end["entropy"] < 0.51
    assert 0.2 < first["value_loss"] < 0.3 and end["value_loss"] < 0.03
    assert 0.5 < first["explained_variance"] < 0.6 and 0.7 < end["explained_variance"] < 0.9


@every_seed
def test_without_a_price_the_score_is_the_best_of_all_and_gold_the_worst(seed):
    free = last(seed, ppo.NO_KL)
    others = [last(seed, run) for run in ppo.RUNS if run != ppo.NO_KL]
    assert free["score"] > max(row["score"] for row in others) + 0.15
    assert free["gold"] < min(row["gold"] for row in others) - 1
    assert free["kl"] > 40 and all(row["kl"] < 4 for row in others)
    assert free["length"] > last(seed, ppo.HEALTHY)["length"] * 1.35
    assert free["entropy"] < min(row["entropy"] for row in others)


@every_seed
def test_without_a_price_the_clip_and_the_critic_say_nothing(seed):
    """What is measured against π_old stays small: it moves along."""
    free = last(seed, ppo.NO_KL)
    assert free["clipfrac"] < 0.007 and free["approxkl"] < 0.001
    assert free["value_loss"] < last(seed, ppo.HEALTHY)["value_loss"]
    assert free["explained_variance"] > 0.65


@every_seed
@as_healthy
def test_the_other_faults_do_not_show_in_the_outcome(seed, run):
    healthy, faulty = last(seed, ppo.HEALTHY), last(seed, run)
    assert abs(faulty["gold"] - healthy["gold"]) < 0.25
    assert abs(faulty["score"] - healthy["score"]) < 0.15
    assert 2 < faulty["kl"] < 4


@every_seed
def test_dropout_shows_from_the_first_look_on(seed):
    for healthy, faulty in zip(looks(seed, ppo.HEALTHY), looks(seed, ppo.WITH_DROPOUT)):
        assert faulty["approxkl"] > 35 * max(healthy["approxkl"], 1e-3)
        assert 0.04 < faulty["clipfrac"] < 0.08 and faulty["clipfrac"] > 15 * healthy["clipfrac"]


@every_seed
def test_dropout_shows_more_than_many_epochs_do(seed):
    faulty = looks(seed, ppo.WITH_DROPOUT)
    for run in (ppo.MANY, ppo.NO_CLIP):
        assert min(row["clipfrac"] for row in faulty) > max(row["clipfrac"] for row in looks(seed, run))


@every_seed
@pytest.mark.parametrize("run", [ppo.MANY, ppo.NO_CLIP])
def test_many_epochs_show_in_the_ratio(seed, run):
    for healthy, faulty in zip(looks(seed, ppo.HEALTHY), looks(seed, run)):
        assert faulty["clipfrac"] > 5 * healthy["clipfrac"] and faulty["clipfrac"] > 0.01
        assert faulty["approxkl"] > 0.002


@every_seed
def test_many_epochs_are_ahead_at_first(seed):
    healthy, many = looks(seed, ppo.HEALTHY)[0], looks(seed, ppo.MANY)[0]
    assert many["gold"] > healthy["gold"] + 0.2 and many["kl"] > healthy["kl"] + 1


@every_seed
def test_whitening_shows_nowhere(seed):
    """The reward model's scores spread about 1 wide here: whitening has little to change."""
    healthy, faulty = last(seed, ppo.HEALTHY), last(seed, ppo.NO_WHITENING)
    assert abs(faulty["explained_variance"] - healthy["explained_variance"]) < 0.06
    assert abs(faulty["entropy"] - healthy["entropy"]) < 0.03


@every_seed
def test_without_the_end_answers_are_shorter_and_score_a_little_less(seed):
    healthy, faulty = last(seed, ppo.HEALTHY), last(seed, ppo.NO_END)
    assert healthy["length"] - 3 < faulty["length"] < healthy["length"] - 0.9
    assert faulty["score"] < healthy["score"] and faulty["explained_variance"] < healthy["explained_variance"]
    assert faulty["value_loss"] > healthy["value_loss"]


@every_seed
def test_without_the_end_answers_are_shorter_at_every_look(seed):
    for healthy, faulty in zip(looks(seed, ppo.HEALTHY), looks(seed, ppo.NO_END)):
        assert faulty["length"] < healthy["length"] - 0.8


@every_seed
def test_without_a_price_gold_rises_for_twenty_steps_and_then_falls(seed):
    gold = [row["gold"] for row in looks(seed, ppo.NO_KL)]
    score = [row["score"] for row in looks(seed, ppo.NO_KL)]
    assert gold[0] < gold[1] and gold[1] == max(gold) and gold[-1] < gold[1] - 0.8
    assert score[0] < score[1] < score[-1] and score[-1] == max(score)
