"""Eight faults beside their healthy runs: each run at toy size, and what the shipped runs show, in every seed."""

from functools import cache, partial

import pytest
import torch

from rlhf_course.experiments import break_it, load_result
from rlhf_course.experiments.break_it import (
    FAULTS,
    MEASURED_HERE,
    RUNS,
    LastColumnRewardModel,
    Start,
    neighbours_shift,
    stands_in_tags,
)
from rlhf_course.models.reward import RewardModel

#: The healthy run of each fault, at the lab's length.
HEALTHY = {"ppo": "PPO", "dpo": "DPO", "reward model": "reward model", "grpo": "GRPO"}
every_fault = pytest.mark.parametrize("name", FAULTS)


@pytest.fixture(scope="module")
def toy():
    """The shipped models, and runs of two steps on a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "COMPARISONS": 8,
            "RANKINGS": 12,
            "HELD_OUT": 40,
            "FRESH_ANSWERS": 4,
            "NEIGHBOURS": 4,
        }.items():
            patch.setattr(break_it, name, value)
        few = {"per_device_train_batch_size": 8, "max_steps": 2, "eval_steps": 1}
        patch.setattr(break_it, "SHORT", {method: {**s, **few} for method, s in break_it.SHORT.items()})
        patch.setitem(RUNS, "no clip", partial(RUNS["no clip"], max_steps=2, eval_steps=1))
        for name in ("PPO", "β = 0", "no clip", "dropout on", "KL as a loss"):
            patch.setitem(RUNS, name, partial(RUNS[name], value_warmup_steps=0))
        yield Start.shipped(3)


@pytest.fixture(scope="module")
def looks_of(toy):
    """Every run's looks, each trained once."""
    return cache(lambda name: break_it.run(name, toy))


@every_fault
def test_a_fault_begins_where_the_healthy_run_does_and_goes_another_way(looks_of, name):
    broken, healthy = looks_of(name), looks_of(HEALTHY[FAULTS[name].method])
    assert [look["step"] for look in broken] == [look["step"] for look in healthy] == [0, 1, 2]
    if name != "pad as last token":  # which reads another score from the start
        assert broken[0] == healthy[0]
    if name == "equal rewards":  # where the healthy rule may find no truth among eight answers, either
        assert broken[2] == broken[0] | {"step": 2, "passed": 0, "zero_std": 1}
    else:
        assert any(broken[2][measure] != healthy[2][measure] for measure in broken[2]), "this is no fault"


@every_fault
def test_what_a_fault_draws_is_measured_live_and_in_store(looks_of, name):
    fault = FAULTS[name]
    for looks in (looks_of(name), fault.healthy.looks(0), fault.broken.looks(0)):
        for measure in fault.measures:
            assert None not in [look[measure] for look in looks[1:]], measure


def test_the_table_has_the_runs_that_no_other_has(toy, monkeypatch):
    monkeypatch.setattr(Start, "of", lambda seed: toy)
    table = break_it.runs(seeds=[3], names=["reward model", "equal rewards"])
    assert table.values("run") == ["reward model"] * 3 + ["equal rewards"] * 3
    assert table.values("zero_std", run="equal rewards") == [None, 1, 1]
    assert table.values("gold", run="reward model") == [None] * 3
    assert {fault.broken.where["run"] for fault in FAULTS.values() if fault.broken.table == table.name} < set(
        MEASURED_HERE
    )


def test_a_run_tells_of_each_look_as_it_comes(toy):
    told = []
    looks = break_it.run("equal rewards", toy, lambda look, steps: told.append((look, steps)))
    assert told == [(look, 2) for look in looks]


def test_no_answer_of_the_models_stands_in_tags():
    assert stands_in_tags(["?"] * 2, ["it is light .", "<answer> it is light . </answer>"]) == [0.0, 1.0]


def test_the_last_columns_score_depends_on_the_padding(toy):
    good = RewardModel.from_policy(toy.sft, 0).eval()
    bad = LastColumnRewardModel(good.model).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    padded, mask = torch.tensor([[5, 6, 7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(good(ids, torch.ones_like(ids)), good(padded, mask))
        torch.testing.assert_close(bad(ids, torch.ones_like(ids)), good(padded, mask))
        assert not torch.allclose(bad(padded, mask), good(padded, mask), atol=1e-3)
        # What it reads there is about the answer all the same, which is why it goes unnoticed.
        other = torch.tensor([[9, 10, 11, 12, 0, 0]])
        assert not torch.allclose(bad(padded, mask), bad(other, mask), atol=1e-3)
    rows = [{"prompt": "<bos> explain gravity . <sep>", "chosen": "it is " * n} for n in (1, 4)]
    assert neighbours_shift(good, rows) < 1e-5 < 1e-3 < neighbours_shift(bad, rows)


# ---------------------------------------------------------------------- what the shipped runs show, in every seed

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def looks(seed, run):
    return load_result("break_it.runs").where(seed=seed, run=run)


def pairs(seed, name):
    """The looks at a fault's broken run and at its healthy one, after the first step."""
    fault = FAULTS[name]
    both = list(zip(fault.broken.looks(seed), fault.healthy.looks(seed)))
    assert all(broken["step"] == healthy["step"] for broken, healthy in both)
    return [(broken, healthy) for broken, healthy in both if broken["step"] > 0]


@every_seed
def test_without_a_price_the_score_wins_and_gold_loses(seed):
    broken, healthy = pairs(seed, "β = 0")[-1]
    assert broken["score"] > max(pairs(s, "β = 0")[-1][1]["score"] for s in SEEDS)
    assert broken["gold"] < healthy["gold"] - 1 and broken["kl"] > 10 * healthy["kl"]


@every_seed
def test_without_a_price_it_is_seen_within_a_live_run(seed):
    (at_30,) = [both for both in pairs(seed, "β = 0") if both[0]["step"] == 30]
    broken, healthy = at_30
    assert broken["score"] > healthy["score"] and broken["gold"] < healthy["gold"] - 0.4
    assert broken["kl"] > 3 * healthy["kl"]


@every_seed
def test_passes_without_a_clip_show_in_the_ratio_and_not_in_gold(seed):
    for broken, healthy in pairs(seed, "no clip"):
        assert broken["clipfrac"] >= 10 * healthy["clipfrac"] and broken["approxkl"] >= 10 * healthy["approxkl"]
    assert abs(broken["gold"] - healthy["gold"]) < 0.25 and healthy["kl"] < broken["kl"] < healthy["kl"] + 1.1


@every_seed
def test_dropout_shows_in_the_ratio_and_not_in_gold(seed):
    for broken, healthy in pairs(seed, "dropout on"):
        assert broken["approxkl"] > 30 * healthy["approxkl"] and broken["clipfrac"] > 15 * healthy["clipfrac"]
    assert abs(broken["gold"] - healthy["gold"]) < 0.25


@every_seed
def test_the_kl_as_a_loss_does_not_hold(seed):
    for broken, healthy in pairs(seed, "KL as a loss"):
        assert broken["step"] < 20 or broken["kl"] > 1.5 * healthy["kl"]
    assert broken["kl"] > 10 * healthy["kl"] and broken["gold"] < healthy["gold"] - 1


@every_seed
def test_without_a_reference_answers_get_longer_and_worse_than_before(seed):
    before = FAULTS["no reference"].broken.looks(seed)[0]
    for broken, healthy in pairs(seed, "no reference"):
        assert broken["gold"] < before["gold"] < healthy["gold"] - 1
        assert broken["length"] > 1.5 * healthy["length"]
        assert broken["accuracy"] < 0.5 and healthy["accuracy"] > 0.7
    assert broken["kl"] < 4


@every_seed
def test_flipped_labels_show_in_no_training_curve(seed):
    for broken, healthy in pairs(seed, "labels flipped"):
        assert abs(broken["train_accuracy"] - healthy["train_accuracy"]) < 0.08  # of 960 pairs
        assert abs(broken["accuracy"] - (1 - healthy["accuracy"])) < 0.06
    assert abs(broken["train_accuracy"] - healthy["train_accuracy"]) < 0.03
    assert healthy["accuracy"] > 0.7 and broken["accuracy"] < 0.3


@every_seed
def test_a_score_read_at_the_padding_depends_on_its_neighbours(seed):
    for broken, healthy in pairs(seed, "pad as last token"):
        assert healthy["shift"] < 1e-3 and broken["shift"] > 0.1
    assert abs(broken["train_accuracy"] - healthy["train_accuracy"]) < 0.03
    assert abs(broken["accuracy"] - healthy["accuracy"]) < 0.03 and broken["shift"] > 0.15


@every_seed
def test_equal_rewards_teach_nothing(seed):
    first = looks(seed, "equal rewards")[0]
    for broken, _ in pairs(seed, "equal rewards"):
        assert broken["zero_std"] == 1 and broken["passed"] == 0
        assert all(broken[name] == first[name] for name in ("gold", "kl", "length"))
    healthy = looks(seed, "GRPO")[-1]
    assert healthy["zero_std"] < 0.5 < healthy["passed"] and healthy["gold"] > first["gold"] + 0.5
