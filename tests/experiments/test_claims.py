"""The claims ledger: every claim holds, and its numbers are the shipped tables'."""

import re

import pytest
from click.testing import CliRunner

from rlhf_course.cli import main
from rlhf_course.experiments import Table
from rlhf_course.experiments.claims import LEDGER, claims, measure, update
from rlhf_course.experiments.reproduce import experiments
from rlhf_course.experiments.table import load_result, shipped_results
from rlhf_course.learn.topics import TOPICS

every_claim = pytest.mark.parametrize("claim", [pytest.param(claim, id=claim.id) for claim in claims().values()])


@every_claim
def test_a_claim_holds_in_the_shipped_table(claim):
    values = claim.values()
    assert claim.holds(values), f"{claim.says} {claim.measure} {claim.relation}: {values}"
    assert values == pytest.approx(claim.measured, abs=1e-3), "run `rlhf-course claims --update`"


@pytest.mark.parametrize("claim", [pytest.param(c, id=c.id) for c in claims().values() if c.again])
def test_a_claim_holds_where_its_seeds_were_measured_again(claim):
    seeds = len(claim.measured)
    assert len(claim.again) % seeds == 0
    for start in range(0, len(claim.again), seeds):
        values = claim.again[start : start + seeds]
        assert claim.holds(values), f"{claim.says} {claim.measure} {claim.relation}: {values}"


@every_claim
def test_a_claim_says_where_and_what(claim):
    assert claim.lessons and all(0 <= int(lesson) < len(TOPICS) for lesson in claim.lessons)
    assert claim.says.endswith(".") and claim.table in experiments()
    assert claim.over in ("every seed", "mean")
    assert claim.id.split(".")[0] in TOPICS


def test_ids_are_used_once():
    ids = re.findall(r'^id = "(.+)"$', LEDGER.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(ids) == len(set(ids)) == len(claims())


def test_the_ledger_is_as_its_update_leaves_it():
    text = LEDGER.read_text(encoding="utf-8")
    assert update(text) == text


TABLE = Table(
    "topic.claim",
    {"seeds": [0, 1]},
    [
        {"seed": 0, "run": "a", "step": 1, "gold": 1.0},
        {"seed": 0, "run": "a", "step": 2, "gold": 4.0},
        {"seed": 0, "run": "b", "step": 1, "gold": None},
        {"seed": 1, "run": "a", "step": 1, "gold": -2.0},
    ],
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("mean('gold', run='a')", 2.5),
        ("last('gold', run='a') - first('gold', run='a')", 3.0),
        ("max(highest('gold'), 9) / lowest('gold')", 9.0),
        ("sqrt(last('gold', step=2)) + count('gold')", 4.0),
    ],
)
def test_a_measure_is_worked_out_on_one_seeds_rows(expression, value):
    assert measure(expression, TABLE, 0) == value


def test_a_measure_without_rows_is_refused():
    with pytest.raises(ValueError, match="no row of seed 1"):
        measure("mean('gold', run='b')", TABLE, 1)


def test_a_broken_relation_is_seen():
    claim = next(iter(claims().values()))
    values = claim.values()
    assert not claim.holds(values, "> 1000000") or not claim.holds(values, "< -1000000")


def test_the_command_line_lists_claims():
    listed = CliRunner().invoke(main, ["claims", "--lesson", "05"])
    assert listed.exit_code == 0 and "ppo.no_price" in listed.output
    assert CliRunner().invoke(main, ["claims", "--lesson", "99"]).output == ""


def test_ones_own_tables_are_judged_and_can_be_entered(tmp_path):
    claim = next(c for c in claims().values() if c.over == "every seed")
    shipped = load_result(claim.table)
    shipped.save(tmp_path)
    judged = CliRunner().invoke(main, ["claims", "--tables", str(tmp_path)])
    assert judged.exit_code == 0 and judged.output.count(": it holds") >= 1
    text = update(LEDGER.read_text(encoding="utf-8"), tmp_path)
    entry = text[text.index(f'id = "{claim.id}"') :].split("[[claim]]")[0]
    assert f"again = [{', '.join(f'{value:g}' for value in (*claim.again, *claim.values()))}]" in entry
    assert update(text, tmp_path) == text
    turned = [{name: -x if isinstance(x, float) else x for name, x in row.items()} for row in shipped.rows]
    Table(claim.table, shipped.settings, turned).save(tmp_path)
    judged = CliRunner().invoke(main, ["claims", "--tables", str(tmp_path)])
    assert judged.exit_code == 1 and "IT DOES NOT HOLD" in judged.output
    nothing = CliRunner().invoke(main, ["claims", "--tables", str(tmp_path / "nothing")])
    assert nothing.exit_code == 2 and "holds no table" in nothing.output


def test_every_table_that_ships_bears_a_claim():
    silent = set(shipped_results()) - {claim.table for claim in claims().values()}
    assert not silent, f"measured, and nothing is claimed from it: {sorted(silent)}"
