"""The table of answers: every model, every prompt, with its gold reward."""

import pytest

from rlhf_course.data.world import WORLD, gold_reward
from rlhf_course.evaluation import Answer
from rlhf_course.learn.side_by_side import SideBySide
from rlhf_course.models import load_policy

PROMPTS = WORLD.prompts("train")[:2]


@pytest.fixture(scope="module")
def table():
    return SideBySide({name: load_policy(f"tiny-{name}", "cpu")[0] for name in ("base", "sft")}, PROMPTS, seed=4)


def test_every_answer_stands_beside_its_gold(table):
    page, plain = table._repr_html_(), repr(table)
    assert set(table.answers) == set(table.gold) == {"base", "sft"}
    for name, answers in table.answers.items():
        assert f">{name}</th>" in page and name in plain
        for prompt, answer, gold in zip(PROMPTS, answers, table.gold[name]):
            assert answer.prompt == prompt
            assert gold == gold_reward(prompt, answer.text, ended=answer.ended)
            assert answer.text in page and f"gold {gold:+.2f}" in page
            assert f"{gold:6.2f}" in plain and answer.text in " ".join(plain.split())


def test_the_same_seed_gives_the_same_table(table):
    again = SideBySide({"sft": load_policy("tiny-sft", "cpu")[0]}, PROMPTS, seed=4)
    assert again.answers["sft"] == table.answers["sft"]
    other = SideBySide({"sft": load_policy("tiny-sft", "cpu")[0]}, PROMPTS, seed=5)
    assert other.answers["sft"] != table.answers["sft"]


def test_an_answer_that_was_cut_off_says_so(table, monkeypatch):
    cut = Answer(PROMPTS[0], "it is trapped", ended=False)
    monkeypatch.setitem(table.answers, "sft", [cut, cut])
    assert "it is trapped …" in table._repr_html_() and "it is trapped …" in repr(table)
