"""The language of the small world: every word has a token, and every sentence is understood for what it is."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_course.data.world import CONCEPTS, concept_of, parse_sentence, split_sentences, world_tokenizer
from rlhf_course.data.world.grammar import (
    ANALOGIES,
    CLOSING,
    FACTS,
    FILLER,
    FLATTERY,
    HEDGE,
    JARGON,
    JARGON_WORDS,
    PLAIN,
    SPECIAL_TOKENS,
    vocabulary,
)

FIXED = {"plain": PLAIN, "filler": FILLER, "flattery": FLATTERY, "closing": CLOSING}
FACT_SENTENCES = [(template.format(c.fact), c.fact) for template in FACTS for c in CONCEPTS]
ANALOGY_SENTENCES = [(template.format(c.analogy), c.analogy) for template in ANALOGIES for c in CONCEPTS]
# The same jargon word in every slot, and a different one in each.
JARGON_SENTENCES = [
    template.format(*words)
    for template in JARGON
    for n in [template.count("{}")]
    for words in [*([word] * n for word in JARGON_WORDS), JARGON_WORDS[:n], JARGON_WORDS[-n:]]
]
SENTENCES = [
    *(sentence for sentence, _ in FACT_SENTENCES + ANALOGY_SENTENCES),
    *JARGON_SENTENCES,
    *chain.from_iterable(FIXED.values()),
]
every_time = settings(max_examples=300, deadline=None, derandomize=True)
jargon_words = st.sampled_from(JARGON_WORDS)


@st.composite
def jargon_sentences(draw):
    template = draw(st.sampled_from(JARGON))
    return template.format(*(draw(jargon_words) for _ in range(template.count("{}"))))


sentences = st.one_of(st.sampled_from(SENTENCES), jargon_sentences())


def test_the_vocabulary_is_small_and_without_doubles():
    words = vocabulary()
    assert len(set(words)) == len(words) < 260
    assert words[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS
    assert all(word == word.strip() and " " not in word and "{" not in word for word in words)


def test_every_word_of_every_template_has_a_token_and_no_token_is_spare():
    tokenizer = world_tokenizer()
    texts = [*SENTENCES, f"{HEDGE} .", *(c.prompt for c in CONCEPTS), *(c.name for c in CONCEPTS)]
    used = set()
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.split())
        used |= set(ids)
    assert used | set(tokenizer.all_special_ids) == set(range(len(tokenizer)))


def test_special_tokens_are_five_different_ones_and_none_is_added():
    tokenizer = world_tokenizer()
    named = [f"{name}_token" for name in ("pad", "bos", "sep", "eos", "unk")]
    assert [getattr(tokenizer, name) for name in named] == list(SPECIAL_TOKENS)
    assert [getattr(tokenizer, f"{name}_id") for name in named] == [0, 1, 2, 3, 4]
    assert tokenizer("it is").input_ids == [vocabulary().index(word) for word in ("it", "is")]
    assert tokenizer("it is zebra").input_ids[-1] == tokenizer.unk_token_id
    assert tokenizer.decode(tokenizer("<bos> it is . <eos>").input_ids, skip_special_tokens=True) == "it is ."


def test_prompts_are_six_tokens_and_name_one_concept_each():
    assert len({c.prompt for c in CONCEPTS}) == len({c.name for c in CONCEPTS}) == len(CONCEPTS)
    for concept in CONCEPTS:
        assert len(world_tokenizer()(concept.prompt).input_ids) == 6
        assert concept_of(concept.prompt) is concept


@pytest.mark.parametrize("prompt", ["", "explain black hole .", "<bos> explain white hole . <sep>", None])
def test_a_prompt_of_another_world_is_refused(prompt):
    with pytest.raises(ValueError, match="no concept has the prompt"):
        concept_of(prompt)


def test_no_two_concepts_share_a_key_word():
    keys = [word for c in CONCEPTS for word in (*c.fact.split(), *c.analogy.split())]
    assert len(keys) == 4 * len(CONCEPTS) == len(set(keys))
    assert not set(keys) & set(JARGON_WORDS)
    assert len(set(JARGON_WORDS)) == len(JARGON_WORDS)
    # Nor does a key word stand in any sentence's fixed part, where it could be mistaken.
    fixed = " ".join([*FACTS, *ANALOGIES, *JARGON, *chain.from_iterable(FIXED.values())]).split()
    assert not set(fixed) & set(keys)


def test_no_sentence_has_two_readings():
    distinct = set(SENTENCES)
    assert len(distinct) == len(FACT_SENTENCES) + len(ANALOGY_SENTENCES) + len(JARGON_SENTENCES) + sum(
        map(len, FIXED.values())
    )


@pytest.mark.parametrize("hedged", [False, True])
@pytest.mark.parametrize(("kind", "made"), [("fact", FACT_SENTENCES), ("analogy", ANALOGY_SENTENCES)])
def test_facts_and_analogies_are_read_with_their_content(kind, made, hedged):
    for sentence, content in made:
        found = parse_sentence(f"{HEDGE} {sentence}" if hedged else sentence)
        assert (found.kind, found.content, found.hedged, found.jargon) == (kind, content, hedged, 0)


@pytest.mark.parametrize("kind", FIXED)
def test_fixed_sentences_are_read(kind):
    for sentence in FIXED[kind]:
        found = parse_sentence(sentence)
        assert (found.kind, found.content, found.hedged, found.jargon) == (kind, "", False, 0)
        assert parse_sentence(f"{HEDGE} {sentence}").kind == "broken"


@every_time
@given(jargon_sentences())
def test_jargon_is_read_and_counted(sentence):
    found = parse_sentence(sentence)
    assert (found.kind, found.content, found.hedged) == ("jargon", "", False)
    assert found.jargon == sum(word in JARGON_WORDS for word in sentence.split()) in (3, 4)


@every_time
@given(sentences, st.data())
def test_a_sentence_with_a_word_missing_doubled_or_strange_is_broken(sentence, data):
    words = sentence.split()
    place = data.draw(st.integers(0, len(words) - 1))
    strange = data.draw(st.sampled_from(["zebra", "<unk>", "<sep>", "explain", HEDGE]))
    missing = words[:place] + words[place + 1 :]
    doubled = words[:place] + words[place : place + 1] + words[place:]
    replaced = [*words[:place], strange, *words[place + 1 :]]
    inserted = [*words[: place + 1], strange, *words[place + 1 :]]
    for harmed in (missing, doubled, replaced, inserted):
        assert parse_sentence(" ".join(harmed)).kind == "broken", harmed


@every_time
@given(st.lists(st.sampled_from(vocabulary()), max_size=9))
def test_random_words_are_understood_only_if_they_are_a_sentence(words):
    text = " ".join(words)
    if parse_sentence(text).kind != "broken":
        bare = " ".join(words[1:]) if words[0] == HEDGE else text
        spelt = {template.split()[0] for template in (*FACTS, *ANALOGIES, *JARGON)}
        assert bare in SENTENCES or bare.split()[0] in spelt


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        HEDGE,
        f"{HEDGE} {HEDGE} it is linked particles",
        "it is magic dice",  # an analogy's words in a fact
        "it is like linked particles",  # a fact's words in an analogy
        "it is linked dice",  # one word of each
        "it is tensor kernel",  # jargon in a fact
        "the magic dice has a linked particles",  # key words in jargon
        "hope that helps ask me for more",  # two sentences in one
    ],
)
def test_words_in_the_wrong_place_are_broken(sentence):
    assert parse_sentence(sentence).kind == "broken"


def test_key_words_of_two_concepts_or_in_the_wrong_order_make_a_fact_that_is_not_so():
    for words in ("linked light", "particles linked"):
        found = parse_sentence(f"it is {words}")
        assert (found.kind, found.content) == ("fact", words)


def test_a_broken_sentence_still_counts_its_jargon():
    assert parse_sentence("tensor tensor it is kernel").jargon == 3


def test_spaces_change_nothing():
    assert parse_sentence("  it  is linked   particles ") == parse_sentence("it is linked particles")
    assert parse_sentence(" hope  that helps ") == parse_sentence("hope that helps")


def test_answers_are_split_at_full_stops_and_an_unfinished_end_is_kept():
    assert split_sentences("it is  linked particles . . hope that") == ["it is linked particles", "hope that"]
    assert split_sentences("") == split_sentences(" . .") == []
