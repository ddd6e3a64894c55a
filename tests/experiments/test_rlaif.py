"""What lesson 09 claims, held to the shipped tables in every seed; and each experiment once, very small."""

import pytest

from rlhf_course.data.world import WORLD, concept_of, demonstrations, explain_gold
from rlhf_course.evaluation import Answer
from rlhf_course.experiments import load_result, rlaif
from rlhf_course.models.tiny import new_tiny_model


def by_seed(table, column, **where):
    return {row["seed"]: row[column] for row in table.where(**where)}


# ---------------------------------------------------------------------- instruments


def test_facts_and_principles_are_counted_an_answer():
    prompt = "<bos> explain black hole . <sep>"
    answers = [
        Answer(prompt, "it is trapped light . it means linked particles . experts call it linked particles .", True),
        Answer(prompt, "what a great question . hope that helps .", True),
    ]
    assert rlaif.facts_stated(answers) == {"wrong_facts": 1.0, "right_facts": 0.5}
    shares = rlaif.principle_shares(answers)
    assert (shares["true facts"], shares["no flattery"], shares["plain words"]) == (0.5, 0.5, 0.0)


def test_red_teamers_change_one_fact(monkeypatch):
    rows = [row for row in demonstrations(400, seed=3) if row["prompt"] in WORLD.prompts("train")]
    answers = [Answer(row["prompt"], row["completion"], True) for row in rows]
    monkeypatch.setattr(rlaif, "_sampled", lambda seed, n, name: answers)
    pairs = rlaif._red_team(0, 40)
    assert len(pairs) == 40
    for pair in pairs:
        first, second = (text.split() for text in pair["answers"])
        assert len(first) == len(second) and sum(a != b for a, b in zip(first, second)) >= 2
        terms = [{t.name: t.amount for t in explain_gold(pair["prompt"], text)} for text in pair["answers"]]
        assert sum("right fact" in found for found in terms) == 1


# ---------------------------------------------------------------------- every experiment, very small


@pytest.fixture
def small(monkeypatch):
    sizes = {"TEACHING_GROUPS": 12, "TEST_PAIRS": 16, "REVISED_ANSWERS": 16, "PAIRS": 16, "FRESH_ANSWERS": 4}
    for name, value in {**sizes, "HUMAN_LABELS": 4, "MANY_LABELS": 8}.items():
        monkeypatch.setattr(rlaif, name, value)
    model = new_tiny_model(0).eval()
    monkeypatch.setattr(rlaif, "trained", lambda stage, seed: model)
    monkeypatch.setenv("RLHF_COURSE_FAST", "1")
    rows = demonstrations(4_000, seed=4)
    written = iter(row for row in rows if row["prompt"] in WORLD.prompts("train"))

    def sample_groups(policy, n, answers_each, seed, **others):
        groups = []
        while len(groups) < n:
            row = next(written)
            other = next(x for x in rows if x["prompt"] == row["prompt"] and x["completion"] != row["completion"])
            groups.append(
                {
                    "prompt": row["prompt"],
                    "answers": [row["completion"], other["completion"]],
                    "ended": [True, True],
                }
            )
        return groups

    monkeypatch.setattr(rlaif.pipeline, "sample_groups", sample_groups)
    monkeypatch.setattr(
        rlaif,
        "sample_answers",
        lambda m, t, prompts, s: [Answer(p, f"it is {concept_of(p).fact} .", True) for p in prompts],
    )
    caches = (rlaif._groups, rlaif._sampled, rlaif._model_labeler, rlaif._person)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("run", "rows"),
    [
        (lambda: rlaif.blind_spot((0,)), 4),
        (lambda: rlaif.revision((0,), steps=1), 10),
        (lambda: rlaif.position_bias((0,), biases=(0.0, 2.0)), 3),
        (lambda: rlaif.soft_labels((0,), rl_steps=1), 3),
        (lambda: rlaif.human_labels((0,)), 5),
        (lambda: rlaif.both_halves((0,), rl_steps=1), 3),
        (lambda: rlaif.audit((0,)), 2),
    ],
    ids=["blind_spot", "revision", "position_bias", "soft_labels", "human_labels", "both_halves", "audit"],
)
def test_an_experiment_runs(small, run, rows):
    table = run()
    assert len(table.rows) == rows
    assert len({tuple(row) for row in table.rows}) == 1


# ---------------------------------------------------------------------- what the tables must show, in every seed


def test_a_blind_labelers_labels_agree_more_are_right_less_and_leave_wrong_facts_where_they_were():
    table = load_result("rlaif.blind_spot")
    people, blind, informed = (
        {column: by_seed(table, column, labeler=name) for column in ("agreement", "label_gold", "wrong_facts", "gold")}
        for name in ("people", "blind AI", "informed AI")
    )
    before = by_seed(table, "wrong_facts", labeler="none")
    for seed in (0, 1, 2):
        assert people["agreement"][seed] == pytest.approx(0.726, abs=0.002)
        assert blind["agreement"][seed] > people["agreement"][seed] + 0.05
        assert blind["label_gold"][seed] < people["label_gold"][seed] - 0.03
        assert people["wrong_facts"][seed] < before[seed] / 1.5 and informed["wrong_facts"][seed] < before[seed] / 2
        assert blind["wrong_facts"][seed] > 2 * max(people["wrong_facts"][seed], informed["wrong_facts"][seed])
        assert blind["gold"][seed] < min(people["gold"][seed], informed["gold"][seed]) - 0.2


def test_imitating_revised_answers_lifts_gold_and_each_principle_does_its_own_work():
    table = load_result("rlaif.revision")
    assert min(table.values("gold", left_out="nothing")) > max(table.values("gold", left_out="before")) + 1
    assert max(table.values("gold", left_out="everything")) < 0
    for name in ("plain words", "no flattery", "no hedging", "true facts", "fitting analogies"):
        assert max(table.values(name, left_out="nothing")) < 0.05, name
        assert min(table.values(name, left_out=name)) > 0.09, name
    # What nobody asked for: the policy repeats itself more than before, though no revised answer does.
    assert min(table.values("no repetition", left_out="nothing")) > 2 * max(
        table.values("no repetition", left_out="before")
    )


def test_both_orders_mend_what_a_slot_bias_spoils():
    table = load_result("rlaif.position_bias")
    assert min(table.values("both_orders", labeler="rules")) > 0.99
    assert max(table.values("one_order", bias=2.0)) < 0.9
    one, both = (by_seed(table, column, labeler="model") for column in ("one_order", "both_orders"))
    assert all(both[seed] > one[seed] + 0.05 for seed in one)
    assert max(table.values("consistent", labeler="model")) < 0.65


def test_a_taught_labeler_sees_style_and_hardly_any_truth():
    table = load_result("rlaif.what_the_labeler_sees")
    assert min(table.values("accuracy", principle="plain words")) > 0.95
    for name in ("no flattery", "no hedging"):
        assert min(table.values("accuracy", principle=name)) > 0.62, name
    for name in ("true facts", "fitting analogies", "whole sentences"):
        assert max(table.values("accuracy", principle=name)) < 0.62, name
    assert max(table.values("accuracy", principle="no repetition")) < 0.45


def test_soft_labels_make_the_best_policy_and_votes_the_least_calibrated_model():
    table = load_result("rlaif.soft_labels")
    golds = {kind: by_seed(table, "gold", labels=kind) for kind in ("hard", "soft", "clamped")}
    assert all(golds["soft"][seed] > max(golds["hard"][seed], golds["clamped"][seed]) for seed in (0, 1, 2))
    assert min(table.values("surprise", labels="hard")) > 0.8
    assert max(table.values("surprise", labels="soft")) < 0.6
    assert max(table.values("gap", labels="clamped")) < 0.41


def test_the_second_half_raises_the_ais_reward_and_not_always_gold():
    table = load_result("rlaif.both_halves")
    for seed in (0, 1, 2):
        assert table.values("proxy", seed=seed) == sorted(table.values("proxy", seed=seed))
        before, first, _ = table.values("gold", seed=seed)
        assert first > before + 1
    assert min(table.values("gold", stage="rl")) < 0.2 < 1.5 < max(table.values("gold", stage="rl"))


def test_three_hundred_human_labels_find_the_blind_spot_and_do_not_close_it():
    audit = load_result("rlaif.audit")
    assert max(audit.values("ai", pairs="aimed")) < 0.52 and min(audit.values("person", pairs="aimed")) > 0.8
    ai, person = (by_seed(audit, who, pairs="as they come") for who in ("ai", "person"))
    assert all(0 < person[seed] - ai[seed] < 0.07 for seed in ai)
    trained = load_result("rlaif.human_labels")
    for name in ("people", "AI", "AI, few as they come", "AI, few aimed"):
        assert max(trained.values("truth", data=name)) < 0.6, name
    assert max(trained.values("truth", data="AI, many aimed")) > 0.95
