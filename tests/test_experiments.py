"""The experiments' instruments, and the tables that ship: their claims hold in every seed."""

import json

import pytest
import torch

from rlhf_course.data.world import gold_reward
from rlhf_course.experiments import Table, load_result
from rlhf_course.experiments.reward_model import KINDS, calibration_bins, minimal_pairs, padded_answers
from rlhf_course.experiments.sft import TRAITS, trait_shares
from rlhf_course.experiments.table import RESULTS, shipped_results
from rlhf_course.seeding import python_stream

ROWS = [{"seed": s, "x": x, "y": x + s / 10} for s in (0, 1, 2) for x in (1, 2)]


def test_a_table_is_read_by_column_and_condition():
    table = Table("topic.claim", {"seeds": [0, 1, 2]}, ROWS)
    assert table.values("y", x=1) == [1.0, 1.1, 1.2]
    assert table.span("y", x=2) == (2.0, 2.2)
    xs, means = table.series("x", "y")
    assert xs == [1, 2]
    assert means == pytest.approx([1.1, 2.1])
    assert table.rerun == "from rlhf_course.experiments import topic; topic.claim()"
    with pytest.raises(KeyError, match="z"):
        table.where(z=1)
    with pytest.raises(ValueError, match=r"no row of topic\.claim has x=3"):
        table.span("y", x=3)


def test_a_table_comes_back_from_its_file(tmp_path, monkeypatch):
    table = Table("topic.claim", {"seeds": [0, 1, 2]}, [{"seed": 0, "share": 1 / 3}])
    table.save(tmp_path)
    monkeypatch.setattr("rlhf_course.experiments.table.RESULTS", tmp_path)
    assert load_result("topic.claim") == Table("topic.claim", {"seeds": [0, 1, 2]}, [{"seed": 0, "share": 0.3333}])
    with pytest.raises(ValueError, match=r"no result 'topic.clam' is shipped; there are topic.claim"):
        load_result("topic.clam")


def test_every_shipped_table_says_in_short_lines_what_it_is_and_how_to_measure_it_again():
    for name in shipped_results():
        table = load_result(name)
        *about, again = repr(table).splitlines()
        assert again == f"  Again: {table.rerun}"
        assert max(len(line) for line in [*about, again]) <= 100
        for setting, value in table.settings.items():
            assert isinstance(value, dict) or any(f"{setting} {value}" in line for line in about)


def test_every_shipped_table_names_an_experiment_and_its_seeds():
    import importlib

    for name in shipped_results():
        topic, function = name.split(".")
        assert callable(getattr(importlib.import_module(f"rlhf_course.experiments.{topic}"), function)), name
        table = load_result(name)
        assert table.settings["seeds"] == [0, 1, 2], name
        assert len({tuple(row) for row in table.rows}) == 1, f"{name}: rows differ in their columns"
        assert {row["seed"] for row in table.rows} == {0, 1, 2}, name
        assert json.loads((RESULTS / f"{name}.json").read_text()), name


@pytest.mark.parametrize("kind", KINDS)
def test_minimal_pairs_differ_in_gold_as_they_say(kind):
    pairs = minimal_pairs(kind, 60)
    assert len(set(pairs)) > 20
    assert all(gold_reward(prompt, better) > gold_reward(prompt, worse) for prompt, better, worse in pairs)
    assert pairs == minimal_pairs(kind, 60)


def test_padding_answers_leaves_gold_as_it_is():
    made = padded_answers(python_stream(0, "test"), n=30)
    golds = [[gold_reward(prompt, answer) for prompt, answer in answers] for answers in made]
    assert golds[0] == golds[1] == golds[2] == golds[3]
    lengths = [sum(len(answer.split()) for _, answer in answers) for answers in made]
    assert lengths == sorted(set(lengths))


def test_calibration_bins_by_hand():
    gap = torch.logit(torch.tensor([0.55, 0.55, 0.95, 0.95, 0.95]))
    chosen = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])  # whether the labeler agreed
    low, high = calibration_bins(gap * chosen)
    assert (low["bin"], high["bin"]) == (0, 4)
    assert low["predicted"] == pytest.approx(0.55)
    assert (low["observed"], low["pairs"]) == (0.5, 2)
    assert high["predicted"] == pytest.approx(0.95)
    assert (high["observed"], high["pairs"]) == (pytest.approx(2 / 3), 3)


def test_traits_are_counted_once_an_answer():
    prompt = "<bos> explain black hole . <sep>"
    answers = [
        (prompt, "it is trapped light . it is trapped light . hope that helps ."),
        (prompt, "maybe it means linked particles . think of bottomless drain ."),
    ]
    shares = trait_shares(answers)
    assert set(shares) == set(TRAITS)
    assert shares == {
        **dict.fromkeys(TRAITS, 0.5),
        "jargon": 0.0,
        "flattery": 0.0,
    }


# ---------------------------------------------------------------------- what the tables must show, in every seed


def by_seed(table, column, **where):
    return {row["seed"]: row[column] for row in table.where(**where)}


def test_a_reward_model_ranks_better_than_its_labels():
    table = load_result("reward_model.data_scaling")
    model = by_seed(table, "rm_gold_accuracy", rankings=5_000)
    assert min(model.values()) > 0.8
    assert min(table.values("difference_low", rankings=5_000)) > 0
    assert max(table.values("difference", rankings=300)) < 0
    labels = by_seed(table, "label_gold_accuracy", rankings=5_000)
    assert all(0.77 < share < 0.85 for share in labels.values())
    new = by_seed(table, "new_rm_gold_accuracy", rankings=5_000)
    assert all(new[seed] < model[seed] - 0.1 for seed in model)


def test_style_is_learnt_before_truth():
    table = load_result("reward_model.style_before_truth")
    assert min(table.values("accuracy", kind="jargon", step=26)) == 1
    for kind in ("jargon", "closing", "hedge"):
        assert min(table.values("accuracy", kind=kind, step=182)) > 0.95, kind
    assert max(table.values("accuracy", kind="right fact", step=182)) < 0.8
    assert min(table.values("accuracy", kind="right fact", step=598)) > 0.9
    assert max(table.values("accuracy", kind="right analogy", step=598)) < 0.85


def test_the_reward_model_is_calibrated_where_it_was_trained():
    table = load_result("reward_model.calibration")
    assert all(abs(row["predicted"] - row["observed"]) < (0.08 if row["bin"] == 0 else 0.06) for row in table.rows)
    assert min(table.values("pairs")) > 200


def test_imitation_copies_wrong_facts_too():
    table = load_result("sft.more_demonstrations")
    theirs = table.settings["demonstrators"]
    for share in table.values("wrong fact", demonstrations=16_000):
        assert share == pytest.approx(theirs["wrong fact"], abs=0.04)
    for gold in table.values("gold", demonstrations=16_000):
        assert theirs["gold"] - 0.4 < gold < theirs["gold"] + 0.2


def test_batches_of_like_length_shorten_answers():
    table = load_result("sft.length_grouping")
    alike, random = by_seed(table, "words", group_by_length=True), by_seed(table, "words", group_by_length=False)
    assert all(alike[seed] < random[seed] - 2 for seed in alike)
    assert all(abs(words - table.settings["demonstrators"]["words"]) < 1 for words in random.values())


def test_the_reward_model_outlives_flipped_labels():
    table = load_result("reward_model.label_noise")
    assert min(table.values("difference_low", flip_rate=0.4)) > 0.1
    assert min(table.values("rm_gold_accuracy", flip_rate=0.4)) > 0.7
    assert max(table.values("label_gold_accuracy", flip_rate=0.4)) < 0.6


def test_labelers_who_like_length_make_a_model_that_pays_for_it():
    table = load_result("reward_model.length_bias")
    assert min(table.values("reward", bias=0.05, sentences=3)) > 0.1
    assert max(table.values("reward", bias=0.0, sentences=3)) < 0
