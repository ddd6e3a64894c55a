"""Demonstrations and corpus: as often this and that as the settings say, seeded, and the corpus never answers."""

import hashlib
from dataclasses import replace
from random import Random

import pytest

from rlhf_course.data.world import (
    CONCEPTS,
    WORLD,
    concept_of,
    corpus,
    demonstrations,
    gold_reward,
    parse_sentence,
    split_sentences,
    world_tokenizer,
    write_answer,
)
from rlhf_course.data.world.writers import _draft

N = 6000


@pytest.fixture(scope="module")
def drafts():
    """(concept, parsed sentences, texts) of answers of any length, in the order of the config's chances."""
    rng = Random(0)
    found = []
    for i in range(N):
        concept = CONCEPTS[i % len(CONCEPTS)]
        texts = split_sentences(_draft(concept, rng, WORLD))
        found.append((concept, [parse_sentence(text) for text in texts], texts))
    return found


def check_share(successes, n, p):
    """Within 4.5 standard deviations of the binomial: one false alarm in 150,000 seeds."""
    assert abs(successes - n * p) <= 4.5 * (n * p * (1 - p)) ** 0.5, (successes / n, p)


def having(drafts, kind):
    return [
        (c, [s for s in parsed if s.kind == kind]) for c, parsed, _ in drafts if any(s.kind == kind for s in parsed)
    ]


def test_every_sentence_written_is_understood(drafts):
    assert not having(drafts, "broken")


@pytest.mark.parametrize(
    ("kind", "chance"),
    [
        ("fact", WORLD.p_fact),
        ("analogy", WORLD.p_analogy),
        ("jargon", WORLD.p_jargon),
        ("plain", WORLD.p_plain),
        ("flattery", WORLD.p_flattery),
        ("closing", WORLD.p_closing),
    ],
)
def test_answers_have_each_part_as_often_as_the_config_says(drafts, kind, chance):
    check_share(len(having(drafts, kind)), N, chance)


def test_filler_comes_by_chance_or_where_there_is_nothing_else(drafts):
    nothing_else = (1 - WORLD.p_fact) * (1 - WORLD.p_analogy) * (1 - WORLD.p_jargon) * (1 - WORLD.p_plain)
    check_share(len(having(drafts, "filler")), N, WORLD.p_filler + (1 - WORLD.p_filler) * nothing_else)


def test_facts_and_analogies_are_right_as_often_as_the_config_says(drafts):
    facts, analogies = having(drafts, "fact"), having(drafts, "analogy")
    check_share(sum(s[0].content == c.fact for c, s in facts), len(facts), WORLD.p_fact_right)
    check_share(sum(s[0].content == c.analogy for c, s in analogies), len(analogies), WORLD.p_analogy_right)


def test_facts_are_hedged_and_nothing_else(drafts):
    facts = having(drafts, "fact")
    check_share(sum(s[0].hedged for _, s in facts), len(facts), WORLD.p_hedge)
    assert not any(s.hedged and s.kind != "fact" for _, parsed, _ in drafts for s in parsed)


def test_jargon_is_one_sentence_and_up_to_two_more_by_the_toss_of_a_coin(drafts):
    counts = [len({t for t, s in zip(texts, parsed) if s.kind == "jargon"}) for _, parsed, texts in drafts]
    some = sum(count > 0 for count in counts)
    assert max(counts) == 3
    for count, chance in ((1, 0.25), (2, 0.5), (3, 0.25)):
        check_share(counts.count(count), some, chance)


def test_one_sentence_is_repeated_as_often_as_the_config_says(drafts):
    again = [len(texts) - len(set(texts)) for *_, texts in drafts]
    assert set(again) == {0, 1}
    check_share(sum(again), N, WORLD.p_repeat)


def test_flattery_opens_and_a_closing_ends(drafts):
    for _, parsed, _ in drafts:
        kinds = [s.kind for s in parsed]
        assert "flattery" not in kinds[1:] and "closing" not in kinds[:-1]
    assert {parsed[0].kind for _, parsed, _ in drafts} > {"fact", "analogy", "jargon", "plain", "filler"}  # shuffled


def test_demonstrations_fit_with_their_end_token_and_have_tokens_for_every_word():
    tokenizer = world_tokenizer()
    rows = demonstrations(3000, seed=3)
    ids = tokenizer([row["completion"] for row in rows]).input_ids
    assert max(map(len, ids)) + 1 <= WORLD.max_answer_tokens
    assert not any(tokenizer.unk_token_id in row for row in ids)
    assert tokenizer.batch_decode(ids) == [row["completion"] for row in rows]
    assert all(set(row) == {"prompt", "completion"} for row in rows)


def test_demonstrations_ask_about_every_concept_equally_often():
    asked = [row["prompt"] for row in demonstrations(N, seed=4)]
    for concept in CONCEPTS:
        check_share(asked.count(concept.prompt), N, 1 / len(CONCEPTS))


def test_an_average_demonstration_is_worth_about_nothing_and_the_best_are_worth_three():
    rewards = [gold_reward(row["prompt"], row["completion"]) for row in demonstrations(N, seed=5)]
    assert abs(sum(rewards) / N) < 0.25
    assert max(rewards) <= 3.0


def test_a_shorter_limit_is_kept():
    short = replace(WORLD, max_answer_tokens=12)
    assert all(len(write_answer(CONCEPTS[0], Random(i), short).split()) <= 11 for i in range(200))


def test_the_same_seed_writes_the_same_and_another_seed_something_else():
    assert demonstrations(50, seed=1) == demonstrations(50, seed=1)
    assert demonstrations(50, seed=1) != demonstrations(50, seed=2)
    assert corpus(50, seed=1) == corpus(50, seed=1)
    assert corpus(50, seed=1) != corpus(50, seed=2)


def test_the_first_rows_are_these_on_every_version_of_python():
    """If the world was changed on purpose, write the new hashes here and make the shipped checkpoints anew."""

    def digest(texts):
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    rows = [f"{row['prompt']} {row['completion']}" for row in demonstrations(20, seed=0)]
    assert digest(rows) == "609b4fe95677fe46"
    assert digest(corpus(20, seed=0)) == "9e5309f12950d8ad"


def lines(document):
    assert document.startswith("<bos> ") and document.endswith(" <eos>")
    return document.removeprefix("<bos> ").removesuffix(" <eos>").split(" <sep> ")


def test_no_document_answers_a_prompt():
    prompts = {concept.prompt.removeprefix("<bos> ").removesuffix(" <sep>") for concept in CONCEPTS}
    asking = 0
    for document in corpus(N, seed=0):
        found = lines(document)
        if "explain" in document:
            assert len(found) >= 3 and prompts.issuperset(found)  # prompts after prompts, up to the end
            asking += 1
    check_share(asking, N, 0.25)


def test_documents_are_true_and_every_word_has_a_token():
    by_name = {concept.name: concept for concept in CONCEPTS}
    tokenizer = world_tokenizer()
    kinds = []
    for document in corpus(2000, seed=1):
        assert tokenizer.decode(tokenizer(document).input_ids) == document
        assert "<unk>" not in document
        for line in lines(document):
            first, *rest = split_sentences(line)
            if first in by_name:
                concept = by_name[first]
                fact, analogy = map(parse_sentence, rest)
                assert (fact.content, analogy.content) == (concept.fact, concept.analogy)
                assert (fact.kind, analogy.kind, fact.hedged) == ("fact", "analogy", False)
                kinds.append("encyclopedia")
            elif not first.startswith("explain "):
                found = {parse_sentence(sentence).kind for sentence in (first, *rest)}
                assert found <= {"plain", "filler", "closing"} or found in ({"jargon"}, {"flattery"})
                kinds += found
    assert set(kinds) == {"encyclopedia", "jargon", "plain", "filler", "closing", "flattery"}


def test_splits_share_no_concept_and_make_up_the_whole():
    train, held_out = WORLD.concepts("train"), WORLD.concepts("held_out")
    assert train + held_out == WORLD.concepts("all") == CONCEPTS
    assert len(held_out) == WORLD.held_out_concepts
    assert [concept_of(prompt) for prompt in WORLD.prompts("held_out")] == list(held_out)
    assert replace(WORLD, held_out_concepts=0).concepts("train") == CONCEPTS
    with pytest.raises(ValueError, match="split must be one of train, held_out, all"):
        WORLD.concepts("test")
