"""Comparisons from every format the course reads, what is dropped from them, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from rlhf_course import _hub
from rlhf_course.data import Rows, load_preferences, preference_rows, split_train_eval, tokenize_preferences
from rlhf_course.data.world.tokenizer import world_tokenizer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HH = SHARED / "hh-rlhf-harmless-base-test.jsonl.gz"
INSTRUCTIONS = SHARED / "instruction-data-with-preference.json"

PLAIN = {"prompt": "a?", "chosen": "b", "rejected": "c"}


def dialogue(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def chat(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def write_lines(path, rows):
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_files(name, tmp_path):
    rows = [PLAIN, {**PLAIN, "margin": 2}]
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        write_lines(path, rows)
    loaded = load_preferences(path)
    assert loaded == rows and isinstance(loaded, list)
    assert loaded.report == "2 of 2 rows kept"
    assert load_preferences(name, data_dir=tmp_path) == rows


def test_hh_dialogues_are_split_at_the_last_turn():
    rows = preference_rows(
        [
            {"chosen": dialogue("hi", "yes?", "why", "so"), "rejected": dialogue("hi", "yes?", "why", "no")},
            {"chosen": dialogue("hi", "a"), "rejected": dialogue("ho", "b")},
            {"chosen": dialogue("hi", "a"), "rejected": dialogue("hi", "a")},
            {"chosen": dialogue("hi", "a", "b"), "rejected": dialogue("hi", "c")},
        ]
    )
    prompt = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why\n\nAssistant:"
    assert rows == [{"prompt": prompt, "chosen": " so", "rejected": " no"}]
    assert rows.dropped == {
        "the prompts differ": 1,
        "the two answers are equal": 1,
        "the dialogue does not end with the assistant's turn": 1,
    }
    assert rows.report.startswith("1 of 4 rows kept; dropped: 1 (")


def test_whole_conversations():
    """As in trl-lib/ultrafeedback_binarized; other sets repeat the first message as a prompt string."""
    row = {"chosen": chat("hi", "yes"), "rejected": chat("hi", "no")}
    expected = {"prompt": chat("hi"), "chosen": chat("hi", "yes")[1:], "rejected": chat("hi", "no")[1:]}
    assert preference_rows([row, {**row, "prompt": "hi"}, expected]) == [expected] * 3
    dropped = preference_rows([{**row, "rejected": chat("ho", "no")}, {**row, "chosen": chat("hi")}]).dropped
    assert sorted(dropped.values()) == [1, 1]


def test_instructions():
    row = {"instruction": "Spell it.", "input": "freind", "chosen": "friend", "rejected": "no"}
    assert preference_rows([row])[0]["prompt"] == (
        "### Instruction:\nSpell it.\n\n### Input:\nfreind\n\n### Response:\n"
    )
    bare = preference_rows([{**row, "input": ""}])[0]["prompt"]
    assert bare == "### Instruction:\nSpell it.\n\n### Response:\n"


def test_preparing_twice_changes_nothing():
    rows = preference_rows([{"chosen": chat("a", "b"), "rejected": chat("a", "b")}, PLAIN])
    again = preference_rows(rows)
    assert again == rows and again.dropped == rows.dropped


def test_a_dataset_of_the_library_works():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    assert preference_rows(datasets.Dataset.from_list([PLAIN] * 3)) == [PLAIN] * 3


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (
            {"chosen": "a", "prompt": "b"},
            ValueError,
            "must have the column 'rejected', got 'chosen', 'prompt'",
        ),
        ({"chosen": "a", "rejected": "b"}, ValueError, "must have the column 'prompt'"),
        ({**PLAIN, "prompt": None}, ValueError, "prompt must be a string or messages, got None"),
        ({**PLAIN, "chosen": 5}, TypeError, "chosen must be a string, or a list of messages"),
        ({**PLAIN, "chosen": chat("a", "b")}, TypeError, "must both be strings or both messages"),
        ({**PLAIN, "prompt": chat("a")}, TypeError, "must all be strings or all be messages"),
        (["a"], TypeError, "a row must be a dict of columns, got list"),
    ],
)
def test_a_wrong_row_is_named(row, error, message, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [PLAIN, row])
    with pytest.raises(error, match=rf"rows.jsonl, line 2: .*{message}"):
        load_preferences(path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PLAIN) + "\n\n{broken\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3: no valid JSON"):
        load_preferences(path)
    path = tmp_path / "rows.json"
    path.write_text('[\n{"prompt": 1,,}]')
    with pytest.raises(ValueError, match=r"rows.json, line 2: no valid JSON"):
        load_preferences(path)
    path.write_text('{"prompt": "a"}')
    with pytest.raises(ValueError, match=r"rows.json must hold a list of rows, got dict"):
        load_preferences(path)
    path.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match=r"rows.json is no text in UTF-8"):
        load_preferences(path)
    path = write_lines(tmp_path / "rows.jsonl.gz", [PLAIN] * 50)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"rows.jsonl.gz is damaged after line"):
        load_preferences(path)
    path.write_text(json.dumps(PLAIN))
    with pytest.raises(ValueError, match=r"rows.jsonl.gz is damaged after line 0 \(BadGzipFile\)"):
        load_preferences(path)


def test_what_is_no_file_of_rows(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"empty.jsonl holds no rows"):
        load_preferences(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.jsonl"):
        load_preferences(tmp_path / "missing.jsonl")
    with pytest.raises(ValueError, match=r"rows.csv is not a file that ends in .json, .jsonl, .jsonl.gz"):
        load_preferences(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="is not a file"):
        load_preferences(tmp_path)
    with pytest.raises(ValueError, match="a file has one split, 'train', got split='test'"):
        load_preferences(write_lines(tmp_path / "rows.jsonl", [PLAIN]), split="test")


def test_no_hub(monkeypatch, tmp_path):
    """Without a network: one sentence, at once, and the Hub's settings as they were."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    before = _hub.constants.HF_HUB_OFFLINE
    with pytest.raises(OSError, match="'someone/some-set': the Hub cannot be reached, and its cache"):
        load_preferences("someone/some-set")
    assert before == _hub.constants.HF_HUB_OFFLINE


def test_tokenize_preferences():
    tokenizer = world_tokenizer()
    prompt = "<bos> explain quantum entanglement . <sep>"
    rows = [
        {"prompt": prompt, "chosen": "it is linked particles .", "rejected": "it is", "gold": 1},
        {"prompt": prompt, "chosen": "it is linked particles .", "rejected": "it is linked linked"},
        {"prompt": prompt, "chosen": "it is", "rejected": " it  is"},
        {"prompt": f"{prompt} it is it", "chosen": "it", "rejected": "is"},
    ]
    tokenized = tokenize_preferences(Rows(rows, {"earlier": 3}), tokenizer, max_length=9)
    assert len(tokenized) == 1 and tokenized[0]["gold"] == 1
    shown = {key: tokenizer.convert_ids_to_tokens(ids) for key, ids in tokenized[0].items() if key.endswith("_ids")}
    assert shown == {
        "prompt_ids": prompt.split(),
        "chosen_ids": ["it", "is", "linked"],
        "rejected_ids": ["it", "is", "<eos>"],
    }
    assert tokenized.dropped == {
        "earlier": 3,
        "the two are equal after truncation": 2,
        "no completion token within max_length": 1,
    }


def test_an_answer_that_was_cut_off_gets_no_end():
    row = {"prompt": "<bos> explain gravity . <sep>", "chosen": "it is", "rejected": "it", "ended": (False, True)}
    (tokenized,) = tokenize_preferences([row], world_tokenizer(), max_length=20)
    shown = [world_tokenizer().decode(tokenized[name]) for name in ("chosen_ids", "rejected_ids")]
    assert shown == ["it is", "it <eos>"]


def test_split_keeps_prompts_apart():
    rows = [{"prompt": f"p{i % 20}", "n": i} for i in range(200)]
    train, held_out = split_train_eval(rows, 0.2, seed=1)
    assert len(held_out) == 40 and len(train) == 160
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert sorted(row["n"] for row in train + held_out) == list(range(200))
    assert [row["n"] for row in train] == sorted(row["n"] for row in train)
    assert split_train_eval(rows, 40, seed=1) == (train, held_out)
    assert split_train_eval(rows, 0.2, seed=2) != (train, held_out)
    assert len(split_train_eval(rows, 1)[1]) == 10


def test_split_of_messages_and_refusals():
    rows = [{"prompt": chat(str(i // 2))} for i in range(8)]
    train, held_out = split_train_eval(rows, 2)
    assert len(held_out) == 2 and all(row not in train for row in held_out)
    with pytest.raises(ValueError, match="leaves nothing to train on: there are 8 rows of 4 prompts"):
        split_train_eval(rows, 8)
    with pytest.raises(ValueError, match=r"eval_size must be above 0 and below 1, got 1.0"):
        split_train_eval(rows, 1.0)
    with pytest.raises(ValueError, match="eval_size must be a whole number of at least 1"):
        split_train_eval(rows, 0)
    with pytest.raises(ValueError, match="must have the column 'prompt'"):
        split_train_eval([{"chosen": "a"}], 1)


@pytest.mark.skipif(not HH.is_file(), reason="../shared/data has no hh-rlhf file")
def test_hh_file():
    rows = load_preferences(HH)
    assert rows.dropped["the prompts differ"] == 5
    assert len(rows) + sum(rows.dropped.values()) == 2312
    # Checked in numbers alone: the texts are offensive by their nature and stay out of test reports.
    faults = [
        (
            not row["prompt"].startswith("\n\nHuman:"),
            not row["prompt"].endswith("\n\nAssistant:"),
            "\n\nAssistant:" in row["chosen"] + row["rejected"],
        )
        for row in rows
    ]
    assert [sum(column) for column in zip(*faults)] == [0, 0, 0]
    train, held_out = split_train_eval(rows, 200)
    assert 200 <= len(held_out) < 220
    assert len({row["prompt"] for row in train} & {row["prompt"] for row in held_out}) == 0


@pytest.mark.skipif(not INSTRUCTIONS.is_file(), reason="../shared/data has no instruction file")
def test_instruction_file():
    rows = load_preferences(INSTRUCTIONS)
    assert len(rows) + sum(rows.dropped.values()) == 1100
    assert len(rows) > 1000
    assert all(row["prompt"].endswith("\n\n### Response:\n") for row in rows)
    assert sum("### Input:" in row["prompt"] for row in rows) == sum(bool(row["input"]) for row in rows)
