"""Token boundaries, rows of ids, and padded batches."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf_course.data import (
    Rows,
    collate_preferences,
    collate_prompts,
    collate_sft,
    encode_prompt,
    encode_prompt_completion,
    tokenize_prompts,
    tokenize_sft,
)
from rlhf_course.data.world.tokenizer import world_tokenizer

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def letters(merges=(), adds_bos=False, metaspace=False, chat=False, eos="<end>"):
    """A tokenizer of single letters (and the given merges) whose pad token is its end token."""
    alphabet = "abcdefghijklmnopqrstuvwxyz :.?!\n▁"
    tokens = ["<bos>", "<end>", "<u>", "<a>", *alphabet, *("".join(merge) for merge in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="?"))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    backend.add_special_tokens([AddedToken(t, special=True) for t in tokens[:4]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token=eos, pad_token=eos, unk_token="?"
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tokens(tokenizer, pair):
    return tuple(tokenizer.convert_ids_to_tokens(ids) for ids in pair)


# --- encoding


def test_world_text():
    tokenizer = world_tokenizer()
    prompt = "<bos> explain quantum entanglement . <sep>"
    completion = "it is linked particles ."
    pair = encode_prompt_completion(tokenizer, prompt, completion)
    assert tokens(tokenizer, pair) == (prompt.split(), [*completion.split(), "<eos>"])
    assert encode_prompt_completion(tokenizer, prompt, completion + " <eos>") == pair, "one end is enough"
    assert encode_prompt_completion(tokenizer, prompt, " " + completion) == pair
    assert encode_prompt(tokenizer, prompt) == pair[0]


def test_joined_text_decides_the_completions_tokens():
    """A tokenizer that marks the beginning of a text must not mark it in the middle."""
    tokenizer = letters(metaspace=True)
    pair = encode_prompt_completion(tokenizer, "ab", "cd")
    assert tokens(tokenizer, pair) == (["▁", "a", "b"], ["c", "d", "<end>"])


def test_a_merge_across_the_boundary_leaves_the_prompt_alone():
    """With "bc" one token, the joined ids do not begin with the prompt's (trap 13)."""
    tokenizer = letters(merges=[("b", "c")])
    assert tokens(tokenizer, encode_prompt_completion(tokenizer, "ab", "cd")) == (
        ["a", "b"],
        ["c", "d", "<end>"],
    )
    assert tokens(tokenizer, encode_prompt_completion(tokenizer, "ab", "dbc"))[1] == ["d", "bc", "<end>"]


def test_bos_once():
    tokenizer = letters(adds_bos=True)
    expected = (["<bos>", "a", "b"], ["c", "<end>"])
    assert tokens(tokenizer, encode_prompt_completion(tokenizer, "ab", "c")) == expected
    assert tokens(tokenizer, encode_prompt_completion(tokenizer, "<bos>ab", "c")) == expected
    assert tokens(letters(), encode_prompt_completion(letters(), "ab", "c"))[0] == ["a", "b"]
    merging = letters(adds_bos=True, merges=[("b", "c")])
    assert tokens(merging, encode_prompt_completion(merging, "ab", "c")) == expected


def test_empty_completion_is_its_end():
    assert tokens(letters(), encode_prompt_completion(letters(), "ab", "")) == (["a", "b"], ["<end>"])


def test_a_completion_that_was_cut_off_has_no_end():
    assert tokens(letters(), encode_prompt_completion(letters(), "ab", "cb", ended=False)) == (["a", "b"], ["c", "b"])
    assert tokens(letters(), encode_prompt_completion(letters(), "ab", "", ended=False)) == (["a", "b"], ["<end>"])


@pytest.mark.parametrize("adds_bos", [False, True])
def test_chat_messages(adds_bos):
    tokenizer = letters(chat=True, adds_bos=adds_bos)
    prompt = [{"role": "user", "content": "hi"}]
    answer = [{"role": "assistant", "content": "yes"}]
    pair = encode_prompt_completion(tokenizer, prompt, answer)
    assert tokens(tokenizer, pair) == (["<u>", "h", "i", "<end>", "\n", "<a>"], ["y", "e", "s", "<end>"])
    assert encode_prompt(tokenizer, prompt) == pair[0]
    longer = encode_prompt_completion(tokenizer, [*prompt, *answer, *prompt], answer)
    assert longer[1] == pair[1]
    assert tokens(tokenizer, longer)[0].count("<end>") == 3


def test_template_without_the_end_token_gets_one():
    tokenizer = letters(chat=True, eos="<bos>")
    pair = encode_prompt_completion(
        tokenizer, [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    )
    assert tokens(tokenizer, pair)[1] == ["b", "<end>", "\n", "<bos>"]


def test_encoding_refusals():
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(ValueError, match="no chat template"):
        encode_prompt(letters(), messages)
    with pytest.raises(TypeError, match="completion must be of the prompt's kind: prompt is a string"):
        encode_prompt_completion(letters(chat=True), "a", messages)
    with pytest.raises(TypeError, match="prompt must be a string, or a list of messages"):
        encode_prompt(letters(), 5)
    with pytest.raises(TypeError, match="completion must be a string, or a list of messages"):
        encode_prompt_completion(letters(), "a", ["b"])
    with pytest.raises(ValueError, match="must end with a message of role 'assistant'"):
        encode_prompt_completion(letters(chat=True), messages, messages)
    with pytest.raises(ValueError, match="must have an eos_token"):
        encode_prompt_completion(letters(eos=None), "a", "b")
    changing = letters(chat=True)
    changing.chat_template = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(ValueError, match="writes the prompt differently"):
        encode_prompt_completion(changing, messages, [{"role": "assistant", "content": "b"}])


# --- rows


def test_tokenize_sft():
    rows = [
        {"prompt": "ab", "completion": "cde"},
        {"prompt": "abcdef", "completion": "g"},
        {"prompt": "abcde", "completion": "gh"},
    ]
    tokenizer = letters()
    result = tokenize_sft(Rows(rows, {"before": 2}), tokenizer, max_length=6)
    shown = [tokens(tokenizer, (row["prompt_ids"], row["completion_ids"])) for row in result]
    assert shown == [(["a", "b"], ["c", "d", "e", "<end>"]), (["a", "b", "c", "d", "e"], ["g"])]
    assert result.dropped == {"before": 2, "no completion token within max_length": 1}
    assert result.report == "2 of 5 rows kept; dropped: 2 (before), 1 (no completion token within max_length)"
    with pytest.raises(ValueError, match="max_length must be a whole number of at least 2"):
        tokenize_sft(rows, tokenizer, max_length=1)
    with pytest.raises(ValueError, match="must have the column 'completion', got 'prompt', 'chosen'"):
        tokenize_sft([{"prompt": "a", "chosen": "b"}], tokenizer, max_length=9)


def test_tokenize_sft_messages():
    tokenizer = letters(chat=True)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    split = {"prompt": messages[:1], "completion": messages[1:]}
    row = tokenize_sft([{"messages": messages}], tokenizer, 99)[0]
    assert row == {"messages": messages, **tokenize_sft([split], tokenizer, 99)[0]}
    with pytest.raises(TypeError, match="messages must be a list of chat messages"):
        tokenize_sft([{"messages": "hi"}], tokenizer, 99)


def test_tokenize_prompts():
    result = tokenize_prompts([{"prompt": "ab", "topic": 1}, {"prompt": "abcd"}], letters(), max_length=3)
    assert result == [{"prompt": "ab", "topic": 1, "prompt_ids": encode_prompt(letters(), "ab")}]
    assert sum(result.dropped.values()) == 1


# --- batches


def test_collate_sft_by_hand():
    """The end-of-sequence token pads here, and still counts where it is real (trap 4)."""
    rows = [{"prompt_ids": [5, 6], "completion_ids": [7, 1]}, {"prompt_ids": [8], "completion_ids": [1]}]
    batch = collate_sft(rows, pad_token_id=1)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [8, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_collate_preferences_by_hand():
    rows = [
        {"prompt_ids": [5], "chosen_ids": [6, 1], "rejected_ids": [1]},
        {"prompt_ids": [7, 8], "chosen_ids": [1], "rejected_ids": [9, 9, 1]},
    ]
    batch = collate_preferences(rows, pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 1, 0, 0], [7, 8, 1, 0, 0], [5, 1, 0, 0, 0], [7, 8, 9, 9, 1]]
    assert batch["completion_mask"].sum(dim=1).tolist() == [2, 1, 1, 3]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 3, 2, 5]
    assert "margin" not in batch
    with_margin = collate_preferences([{**row, "margin": i} for i, row in enumerate(rows)], pad_token_id=0)
    assert with_margin["margin"].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="all rows or none must have a margin, got 1 of 2"):
        collate_preferences([{**rows[0], "margin": 1.0}, rows[1]], pad_token_id=0)


def test_collate_prompts_pads_on_the_left():
    batch = collate_prompts([{"prompt_ids": [5]}, {"prompt_ids": [6, 7, 8]}], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[0, 0, 5], [6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("collate", [collate_sft, collate_preferences, collate_prompts])
def test_collators_refuse(collate):
    with pytest.raises(ValueError, match="at least one row"):
        collate([], pad_token_id=0)
    with pytest.raises(ValueError, match="must have the column"):
        collate([{"text": "a"}], pad_token_id=0)


def test_collators_refuse_what_has_no_tokens():
    with pytest.raises(ValueError, match="prompt_ids of row 1 is empty"):
        collate_prompts([{"prompt_ids": [1]}, {"prompt_ids": []}], pad_token_id=0)
    with pytest.raises(ValueError, match="row 0 has an empty completion"):
        collate_sft([{"prompt_ids": [1], "completion_ids": []}], pad_token_id=0)
