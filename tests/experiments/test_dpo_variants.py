"""What lesson 07 claims, in every seed of the shipped tables; and each experiment in small."""

import math

import pytest
import torch

from rlhf_course.experiments import dpo_variants as variants
from rlhf_course.experiments import load_result
from rlhf_course.experiments.dpo_variants import CDPO, DPO, HINGE, IPO, IPO_AVERAGED, KTO, ROBUST
from rlhf_course.models import load_policy, load_reward_model

SEEDS = (0, 1, 2)
every_seed = pytest.mark.parametrize("seed", SEEDS)


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, and a few answers instead of hundreds."""

    def shipped(stage, seed):
        return (load_reward_model if stage == "reward" else load_policy)(f"tiny-{stage}", "cpu")[0]

    monkeypatch.setattr(variants, "trained", shipped)
    sizes = {"JUDGED_ANSWERS": 8, "LOOK_ANSWERS": 8, "FEW": 32, "EPOCHS_BETWEEN_LOOKS": 1, "LABELS_BETWEEN_LOOKS": 32}
    for name, size in sizes.items():
        monkeypatch.setattr(variants, name, size)
    variants._groups.cache_clear()
    yield
    variants._groups.cache_clear()


def test_every_loss_gets_the_same_noisy_pairs(small):
    table = variants.label_noise(seeds=[0], flip_rates=(0.0, 0.2), comparisons=32)
    assert table.values("loss", flip_rate=0.0) == [DPO, IPO, IPO_AVERAGED, HINGE, KTO]
    assert table.values("loss", flip_rate=0.2) == list(variants.SETTINGS)
    assert all(math.isfinite(row["gold"]) and 0 <= row["bad"] <= 1 for row in table.rows)


def test_few_pairs_are_looked_at_between_epochs(small):
    table = variants.few_pairs(seeds=[0], runs=(DPO, IPO), epochs=2)
    assert table.values("epoch", run=IPO, labels=variants.CERTAIN) == [0, 1, 2]
    assert all(row["margin"] == pytest.approx(0, abs=1e-4) for row in table.where(epoch=0))
    assert len({row["gold"] for row in table.where(epoch=0)}) == 1, "all runs begin with the SFT model"
    assert len(table.rows) == 2 * 2 * 3


def test_thumbs_are_given_at_the_share_asked_for(small):
    table = variants.thumbs(seeds=[0], runs=((variants.FEW_UP, 5.0, 1.0),), answers=128)
    (row,) = table.rows
    assert row["up"] == pytest.approx(1 / 6, abs=0.1) and row["desirable_weight"] == 5


def test_all_sources_of_pairs_are_looked_at(small):
    table = variants.online(seeds=[0], labels=64)
    for method in (variants.OFFLINE, variants.ONLINE, variants.ONLINE_RM):
        assert table.values("labels", method=method) == [0, 32, 64]
    assert len({row["gold"] for row in table.where(labels=0)}) == 1


def test_certain_pairs_are_in_gold_order_and_enough():
    prompt = "<bos> explain black hole . <sep>"
    right, wrong = "it is trapped light .", "it is linked particles ."
    groups = [
        {"prompt": prompt, "answers": [wrong, right], "ended": [True, True]},
        {"prompt": prompt, "answers": [right, right], "ended": [True, True]},
    ]
    (pair,) = variants.certain_pairs(groups, 1)
    assert (pair["chosen"], pair["rejected"]) == (right, wrong)
    with pytest.raises(ValueError, match="2 pairs that differ in gold, got 1"):
        variants.certain_pairs(groups, 2)


def test_a_panel_chooses_by_bradley_terry():
    labeler = variants.Labeler(temperature=1.0)
    prompt = "<bos> explain black hole . <sep>"
    answers = ["it is trapped light .", "it is linked particles ."]
    expected = labeler.preference_probability(*(labeler.utility(prompt, answer) for answer in answers))
    torch.manual_seed(0)
    scores = variants.Panel(labeler)([prompt] * 8_000, answers * 4_000).view(-1, 2)
    assert (scores[:, 0] > scores[:, 1]).float().mean().item() == pytest.approx(float(expected), abs=0.02)


# ---------------------------------------------------------------------- few pairs, seen often


def few(seed, run, epoch, labels=variants.CERTAIN):
    (row,) = load_result("dpo_variants.few_pairs").where(seed=seed, run=run, epoch=epoch, labels=labels)
    return row


@every_seed
def test_on_certain_pairs_dpos_margin_has_no_end_and_ipos_has(seed):
    for run in (DPO, variants.DPO_DEAR):
        margins = [few(seed, run, epoch)["margin"] for epoch in (4, 12, 24)]
        assert margins[0] < margins[1] < margins[2]
    assert few(seed, DPO, 24)["margin"] > 14
    assert 4.8 < few(seed, IPO, 24)["margin"] < 5.3, "the target is 5 nats"
    assert few(seed, CDPO, 24)["margin"] == pytest.approx(math.log(9) / 0.3, abs=0.6)


@every_seed
def test_there_ipo_stays_nearer_and_keeps_more_gold(seed):
    assert few(seed, IPO, 24)["kl"] < 0.7 * few(seed, variants.DPO_DEAR, 24)["kl"]
    assert few(seed, IPO, 24)["kl"] < 0.5 * few(seed, DPO, 24)["kl"]
    assert few(seed, IPO, 24)["gold"] > few(seed, DPO, 24)["gold"] + 0.15


@every_seed
def test_but_after_four_epochs_there_is_nothing_to_choose(seed):
    assert abs(few(seed, IPO, 4)["gold"] - few(seed, DPO, 4)["gold"]) < 0.2
    assert few(seed, DPO, 4)["gold"] > few(seed, IPO, 24)["gold"] + 0.1, "stopping is worth as much as a target"


@every_seed
def test_flipped_labels_are_learnt_by_heart_by_both(seed):
    flipped = variants.FLIPPED
    dpo, ipo = (few(seed, run, 24, flipped) for run in (DPO, IPO))
    assert dpo["kl"] > 2 * ipo["kl"] and dpo["gold"] < ipo["gold"] - 0.4
    assert ipo["gold"] < few(seed, IPO, 4, flipped)["gold"] - 0.4
    assert 4.6 < ipo["margin"] < 5.2, "by its labels, slips and all, it is at the target"


# ---------------------------------------------------------------------- flipped labels


def noisy(seed, loss, flip_rate):
    (row,) = load_result("dpo_variants.label_noise").where(seed=seed, loss=loss, flip_rate=flip_rate)
    return row


@every_seed
def test_ipo_drifts_less_than_dpo_and_does_not_beat_its_gold(seed):
    for flip_rate in (0.0, 0.2, 0.4):
        assert noisy(seed, IPO, flip_rate)["kl"] < noisy(seed, DPO, flip_rate)["kl"]
    assert noisy(seed, IPO, 0.2)["gold"] < noisy(seed, DPO, 0.2)["gold"]
    assert noisy(seed, IPO, 0.4)["gold"] < noisy(seed, DPO, 0.4)["gold"] + 0.1


@every_seed
def test_cdpo_is_lowest_at_40_percent_and_goes_least_far(seed):
    rows = [noisy(seed, loss, 0.4) for loss in variants.SETTINGS]
    assert min(rows, key=lambda row: row["kl"])["loss"] == CDPO
    others = [row["gold"] for row in rows if row["loss"] != CDPO]
    assert noisy(seed, CDPO, 0.4)["gold"] < min(others)


@every_seed
def test_kto_is_highest_at_40_percent_and_not_with_clean_labels(seed):
    best = max((noisy(seed, loss, 0.4) for loss in variants.SETTINGS), key=lambda row: row["gold"])
    assert best["loss"] == KTO
    assert noisy(seed, KTO, 0.0)["gold"] < noisy(seed, DPO, 0.0)["gold"] + 0.05


@every_seed
def test_flips_cost_every_loss_gold(seed):
    for loss in variants.SETTINGS:
        clean = noisy(seed, DPO if loss in (CDPO, ROBUST) else loss, 0.0)["gold"]
        assert noisy(seed, loss, 0.4)["gold"] < clean - 0.2


def test_robust_dpo_is_no_cure():
    losses = [noisy(seed, DPO, 0.0)["gold"] - noisy(seed, ROBUST, 0.4)["gold"] for seed in SEEDS]
    assert min(losses) > 0.5


# ---------------------------------------------------------------------- thumbs


def clicks(seed, data, up, down):
    (row,) = load_result("dpo_variants.thumbs").where(
        seed=seed, data=data, desirable_weight=up, undesirable_weight=down
    )
    return row


@every_seed
def test_thumbs_alone_lift_gold(seed):
    assert clicks(seed, variants.HALF_UP, 1.0, 1.0)["gold"] > 1


@every_seed
def test_rare_thumbs_up_have_to_weigh_more(seed):
    even, weighed = (clicks(seed, variants.FEW_UP, up, 1.0) for up in (1.0, 5.0))
    assert 0.14 < even["up"] < 0.2
    assert weighed["gold"] > even["gold"] + 0.5 and weighed["kl"] < even["kl"]


@every_seed
def test_unequal_weights_on_equal_thumbs_move_the_policy_and_not_for_the_better(seed):
    even, averse, fond = (clicks(seed, variants.HALF_UP, *weights) for weights in ((1.0, 1.0), (1.0, 2.0), (2.0, 1.0)))
    assert averse["kl"] > even["kl"] + 0.2 and fond["kl"] < even["kl"] - 0.2
    assert fond["gold"] < even["gold"]


def test_loss_aversion_does_not_help_on_average():
    gains = [
        clicks(s, variants.HALF_UP, 1.0, 2.0)["gold"] - clicks(s, variants.HALF_UP, 1.0, 1.0)["gold"] for s in SEEDS
    ]
    assert sum(gains) / 3 < 0 and max(gains) > 0, "in one seed it did"


# ---------------------------------------------------------------------- fresh pairs


def ended(seed, method):
    (row,) = load_result("dpo_variants.online").where(seed=seed, method=method, labels=4_000)
    return row


@every_seed
def test_fresh_pairs_are_no_worse_and_go_no_further(seed):
    offline, online = ended(seed, variants.OFFLINE), ended(seed, variants.ONLINE)
    assert online["gold"] > offline["gold"] - 0.05
    assert online["kl"] < offline["kl"] + 0.05


def test_on_average_fresh_pairs_bring_a_little_more_gold():
    more = [ended(seed, variants.ONLINE)["gold"] - ended(seed, variants.OFFLINE)["gold"] for seed in SEEDS]
    assert 0.03 < sum(more) / 3 < 0.2 and min(more) < 0.05


@every_seed
def test_a_reward_model_as_the_judge_brings_more_gold_and_goes_further(seed):
    offline, online, judged = (
        ended(seed, method) for method in (variants.OFFLINE, variants.ONLINE, variants.ONLINE_RM)
    )
    assert judged["gold"] > max(offline["gold"], online["gold"]) + 0.15
    assert judged["kl"] > 1.5 * max(offline["kl"], online["kl"])
