"""The gold reward, term by term, against sums done by hand."""

from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_course.data.world import CONCEPTS, WORLD, explain_gold, gold_reward
from rlhf_course.data.world.gold import TERM_NAMES
from rlhf_course.data.world.grammar import vocabulary

PROMPT = "<bos> explain black hole . <sep>"
FACT, ANALOGY = "it is trapped light .", "it is like bottomless drain ."
JARGON = "the tensor kernel has a spectral lattice ."  # 4 of 7 words
PLAIN, CLOSING = "in short it is easy .", "hope that helps ."
LONG = " ".join(["i love how you think ."] * 7)  # 35 words, 6 repetitions


def one(answer, **options):
    """The answer's only term, as (name, amount, value)."""
    (term,) = explain_gold(PROMPT, answer, **options)
    return term.name, term.amount, pytest.approx(term.value, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "name", "amount", "value"),
    [
        (FACT, "right fact", 1, 1.0),
        ("it means trapped light . experts call it trapped light .", "right fact", 2, 1.0),  # paid once
        ("it is linked particles .", "wrong fact", 1, -1.0),
        ("it is linked particles . it means drifting continents .", "wrong fact", 2, -2.0),
        ("it is light trapped .", "wrong fact", 1, -1.0),
        (ANALOGY, "right analogy", 1, 1.0),
        ("think of bottomless drain . imagine bottomless drain .", "right analogy", 2, 1.0),
        ("imagine magic dice .", "wrong analogy", 1, -0.5),
        ("imagine magic dice . think of voting crowd .", "wrong analogy", 2, -1.0),
        (PLAIN, "plain remark", 1, 0.5),
        (f"{PLAIN} no big words are needed .", "plain remark", 2, 0.5),
        (CLOSING, "closing", 1, 0.5),
        ("this comes up often . ask me for more .", "closing", 1, 0.5),
        (JARGON, "jargon, share of words", 4 / 7, -6 * 4 / 7),
        (f"{JARGON} this comes up often .", "jargon, share of words", 4 / 11, -6 * 4 / 11),
        ("there is much to say . there is much to say .", "repeated sentence", 1, -0.5),
        ("there is much to say . " * 3, "repeated sentence", 2, -1.0),
        ("it is so .", "broken sentence", 1, -0.5),
        ("it is . so .", "broken sentence", 2, -1.0),
    ],
)
def test_each_term_alone(answer, name, amount, value):
    assert one(answer) == (name, amount, value)


def test_a_hedge_costs_a_little_of_what_it_hedges():
    right = explain_gold(PROMPT, f"maybe {FACT}")
    assert [(t.name, t.amount, t.value) for t in right] == [("right fact", 1, 1.0), ("hedge", 1, -0.3)]
    assert gold_reward(PROMPT, f"maybe {FACT} maybe {ANALOGY}") == pytest.approx(2 - 0.6)


def test_words_over_thirty_cost_a_twentieth_each():
    extra = {term.name: term for term in explain_gold(PROMPT, LONG)}
    assert (extra["words too many"].amount, extra["words too many"].value) == (5, pytest.approx(-0.25))
    assert gold_reward(PROMPT, LONG) == pytest.approx(-0.25 - 6 * 0.5)
    thirty = " ".join(LONG.split()[: 6 * 6])  # 30 words, full stops not counted
    assert "words too many" not in {term.name for term in explain_gold(PROMPT, thirty)}


def test_an_answer_cut_off_costs_half_a_point():
    assert one("there is much to say", ended=False) == ("no end", 1, -0.5)
    assert one("there is much", ended=True) == ("broken sentence", 1, -0.5)
    assert gold_reward(PROMPT, "there is much", ended=False) == -1.0
    assert gold_reward(PROMPT, "", ended=True) == 0
    assert one("", ended=False) == ("no end", 1, -0.5)


def test_only_a_closing_at_the_end_is_one():
    assert explain_gold(PROMPT, f"{CLOSING} there is much to say .") == []
    assert gold_reward(PROMPT, f"{CLOSING} {CLOSING}") == 0.5 - 0.5


def test_flattery_and_filler_are_worth_nothing():
    assert explain_gold(PROMPT, "what a great question . many people ask about this .") == []


def test_the_same_answer_is_right_for_one_prompt_and_wrong_for_every_other():
    for concept in CONCEPTS:
        right = concept.name == "black hole"
        assert gold_reward(concept.prompt, FACT) == (1 if right else -1)
        assert gold_reward(concept.prompt, ANALOGY) == (1 if right else -0.5)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(vocabulary()[5:]), max_size=48), st.booleans())
def test_the_terms_have_known_names_no_zeros_and_sum_to_the_reward(words, ended):
    answer = " ".join(words)
    terms = explain_gold(PROMPT, answer, ended=ended)
    assert sum(term.value for term in terms) == gold_reward(PROMPT, answer, ended=ended)
    names = [term.name for term in terms]
    assert names == [name for name in TERM_NAMES if name in names]
    assert all(term.amount > 0 for term in terms)


def test_the_best_answer_is_worth_three():
    """Every set of up to five sentences, with and without a closing; one sentence stands for its kind."""
    sentences = [FACT, "it means trapped light .", "it is linked particles .", f"maybe {FACT}", ANALOGY]
    sentences += ["imagine magic dice .", PLAIN, "no big words are needed .", JARGON, "there is much to say ."]
    sentences += ["i love how you think .", "it is so ."]
    best, winners = -99.0, []
    for n in range(6):
        for chosen in combinations_with_replacement(sentences, n):
            for end in ((), (CLOSING,)):
                answer = " ".join(chosen + end)
                if (reward := gold_reward(PROMPT, answer)) > best:
                    best, winners = reward, [answer]
    assert best == 3.0
    assert winners == [f"{FACT} {ANALOGY} {PLAIN} {CLOSING}"]  # the shortest found first


def test_another_world_has_other_weights():
    assert gold_reward(PROMPT, FACT, world=replace(WORLD, right_fact=2.5)) == 2.5
    assert gold_reward(PROMPT, LONG, world=replace(WORLD, long_after=35, repetition=0.0)) == 0


def test_an_unknown_prompt_is_refused():
    with pytest.raises(ValueError, match="no concept has the prompt"):
        explain_gold("<bos> explain nothing much . <sep>", FACT)
