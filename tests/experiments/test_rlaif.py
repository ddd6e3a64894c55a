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
