"""The capstone without its model: tiers, rows, the rule, and measurements on the tiny model."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from rlhf_course import capstone
from rlhf_course.capstone.pairs import DATA_VARIABLE
from rlhf_course.capstone.table import SideBySide
from rlhf_course.data.world import world_tokenizer
from rlhf_course.models import RewardModel, load_policy
from rlhf_course.trainers import DPOConfig, GRPOConfig, RewardConfig

CPU = capstone.TIERS["cpu"]
SMALL = replace(
    CPU, lora_rank=None, max_length=40, train_pairs=3, judge_pairs=2, held_out_pairs=4, prompts=3, tasks=3,
    max_new_tokens=5, eval_batch_size=2,
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<bos> {{ m['content'] }} <sep>"
    "{% else %} {{ m['content'] }} <eos>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    found = copy.deepcopy(world_tokenizer())
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny-sft", "cpu")[0]


def rows(n, long=0):
    words = ["it", "is", "like", "a", "hope", "that", "helps", "explain"]
    made = []
    for i in range(n):
        asked = f"{words[i % 8]} {words[i // 8]} explain"
        answer = "it is " + "like a " * (30 if i < long else 1)
        made.append({"prompt": asked, "chosen": answer + "hope", "rejected": answer + "that"})
    return made


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return capstone.choose_pairs(rows(20), tokenizer, SMALL, seed=1)


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("tier", list(capstone.TIERS))
def test_every_tiers_settings_are_accepted_by_the_trainers(tier):
    settings = capstone.TIERS[tier]
    assert settings.tier == tier
    for method, config in (("reward", RewardConfig), ("dpo", DPOConfig), ("grpo", GRPOConfig)):
        args = settings.args(method, seed=3)
        assert isinstance(args, config) and (args.seed, args.max_length) == (3, settings.max_length)
    assert settings.tasks <= len(capstone.sums("held_out"))
    assert settings.prompts <= settings.held_out_pairs


def test_a_tier_that_was_not_measured_says_so():
    lines = {line.split()[0]: line for line in capstone.costs().splitlines()}
    for tier, settings in capstone.TIERS.items():
        assert settings.model in lines[tier]
        assert ("not measured yet" in lines[tier]) == (settings.minutes is None)
        assert (settings.minutes is None) == (settings.peak_memory_gb is None) == (settings.measured_on is None)


def test_a_rehearsal_is_short_and_an_unknown_tier_is_refused(monkeypatch):
    assert capstone.pick_settings("cpu") == CPU
    with pytest.raises(ValueError, match="tier must be one of 'cpu', 't4', 'gpu'"):
        capstone.pick_settings("tpu")
    monkeypatch.setenv("RLHF_COURSE_FAST", "1")
    short = capstone.pick_settings("cpu")
    assert short.model == CPU.model and short.train_pairs < CPU.train_pairs
    assert short.args("grpo").max_steps == 1


# ---------------------------------------------------------------------- rows


def test_data_that_cannot_be_had_are_explained_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(OSError, match=rf"there is no file .*{DATA_VARIABLE} names it"):
        capstone.load_rows()
    monkeypatch.delenv(DATA_VARIABLE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=rf"ultrafeedback.*let {DATA_VARIABLE} name a file"):
        capstone.load_rows()


def test_the_variable_names_a_file(monkeypatch, tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(rows(3)))
    monkeypatch.setenv(DATA_VARIABLE, str(file))
    assert len(capstone.load_rows()) == 3


def test_the_three_parts_share_no_prompt_and_nothing_is_cut(tokenizer):
    found = capstone.choose_pairs(rows(20, long=9), tokenizer, SMALL, seed=1)
    assert [len(part) for part in found] == [3, 2, 4]
    asked = [capstone.question(row["prompt"]) for part in found for row in part]
    assert len(set(asked)) == 9
    for row in (row for part in found for row in part):
        for name in ("chosen_ids", "rejected_ids"):
            assert row[name][-1] == tokenizer.eos_token_id
            assert len(row["prompt_ids"]) + len(row[name]) <= SMALL.max_length
    assert capstone.choose_pairs(rows(20, long=9), tokenizer, SMALL, seed=1) == found
    assert capstone.choose_pairs(rows(20, long=9), tokenizer, SMALL, seed=2) != found


def test_too_few_rows_name_the_settings(tokenizer):
    with pytest.raises(
        ValueError, match=r"9 comparisons of at most 40 tokens are wanted, there are 7: raise max_length"
    ):
        capstone.choose_pairs(rows(20, long=13), tokenizer, SMALL)


def test_strings_become_chat_messages():
    plain = capstone.as_chat({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    assert plain["prompt"] == [{"role": "user", "content": "Why?"}]
    assert plain["chosen"] == [{"role": "assistant", "content": "So."}]
    dialogue = "\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: Really?\n\nAssistant:"
    turns = capstone.as_chat({"prompt": dialogue, "chosen": " Yes.", "rejected": " No."})
    assert [(m["role"], m["content"]) for m in turns["prompt"]] == [
        ("user", "Why?"),
        ("assistant", "So."),
        ("user", "Really?"),
    ]
    assert turns["rejected"] == [{"role": "assistant", "content": "No."}]
    wrapped = {"prompt": "### …", "instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"}
    assert capstone.as_chat(wrapped)["prompt"][0]["content"] == "Add.\n\n1, 2"
    assert capstone.as_chat(turns) is turns


# ---------------------------------------------------------------------- the rule


def test_no_sum_is_in_both_splits_nor_its_mirror():
    asked = {split: capstone.sums(split) for split in ("train", "held_out")}
    pairs = {
        split: {frozenset(capstone.question(task["prompt"])[8:-1].split(" + ")) for task in tasks}
        for split, tasks in asked.items()
    }
    assert not pairs["train"] & pairs["held_out"] and not {frozenset("2")} & (pairs["train"] | pairs["held_out"])
    for tasks in asked.values():
        for task in tasks:
            a, b = capstone.question(task["prompt"])[8:-1].split(" + ")
            assert task["answer"] == int(a) + int(b)
    with pytest.raises(ValueError, match="split must be one of"):
        capstone.sums("test")


def test_form_and_right_answer_are_paid_apart():
    tasks = capstone.sums("train")[:2]
    correct = capstone.correct_reward(tasks)
    prompts = [tasks[0]["prompt"]] * 4
    completions = [
        f"<answer>{tasks[0]['answer']}</answer>",
        f"<answer>{tasks[0]['answer'] + 1}</answer>",
        str(tasks[0]["answer"]),
        f"Let me see.\n<answer> {tasks[0]['answer']} </answer>\n",
    ]
    assert capstone.format_reward(completions) == [1, 1, 0, 1]
    assert correct(prompts, completions) == [1, 0, 0, 1]


# ---------------------------------------------------------------------- measurements


def test_shares_come_with_their_interval():
    share = capstone.Share(8, 8)
    assert share.value == 1 and share.interval[0] == pytest.approx(0.676, abs=1e-3)
    assert str(capstone.Share(2.5, 4)) == "62.5 % (2.5 of 4, 95 % interval 22 to 91)"


def test_at_the_start_every_pair_is_a_tie(policy, tokenizer, pairs):
    logps = capstone.pair_logps(policy, tokenizer, pairs.held_out, SMALL)
    assert logps.shape == (4, 2) and (logps < 0).all()
    whole = capstone.pair_logps(policy, tokenizer, pairs.held_out, replace(SMALL, eval_batch_size=64))
    torch.testing.assert_close(logps, whole)
    tied = capstone.preference_accuracy(logps, logps)
    assert (tied.count, tied.n) == (2, 4)
    better = logps + torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    assert capstone.preference_accuracy(better, logps).count == 2.5


def test_a_policy_against_itself(policy, tokenizer, pairs):
    judge = RewardModel.from_policy(policy, seed=0).eval()
    first, again, other = (
        capstone.sample(policy, policy, judge, tokenizer, pairs.held_out, SMALL, seed) for seed in (0, 0, 1)
    )
    assert first.texts == again.texts != other.texts
    assert len(first.texts) == SMALL.prompts and int(first.lengths.max()) <= SMALL.max_new_tokens
    torch.testing.assert_close(first.kl, torch.zeros(3), atol=1e-4, rtol=0)
    match = capstone.evaluate(first.answer, again.answer, capstone.lookup_judge(first, again), first.questions)
    assert (match["win_rate"], match["n"]) == (0.5, 3) and match["length_before"] == match["length_after"]
    assert "3 answers" in str(first) and "KL" in str(first)
    accuracy = capstone.judge_accuracy(judge, tokenizer, pairs.held_out, SMALL)
    assert accuracy.n == 4 and 0 <= accuracy.count <= 4

    table = SideBySide({"first": first, "other": other}, rows=2)
    page, plain = table._repr_html_(), repr(table)
    assert page.count("<tr>") == 3 and "score" in page and plain.count("first") == 2
    with pytest.raises(ValueError, match="the same questions"):
        SideBySide({"first": first, "cut": replace(other, questions=other.questions[:1])})


def test_what_moved_has_a_kl(policy, tokenizer, pairs):
    judge = RewardModel.from_policy(policy, seed=0).eval()
    moved = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    wide = replace(SMALL, prompts=4, max_new_tokens=12)
    assert capstone.sample(moved, policy, judge, tokenizer, pairs.held_out, wide).kl.mean() > 0.05


def test_pass_rates_count_answers(policy, tokenizer):
    passes = capstone.pass_rates(policy, tokenizer, capstone.sums("held_out"), SMALL)
    assert passes.form.n == passes.right.n == len(passes.texts) == 3
    assert passes.right.count <= passes.form.count


def test_memory_that_runs_out_names_the_setting(policy, tokenizer, pairs, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(policy, "forward", full)
    monkeypatch.setattr(policy.base_model, "forward", full)
    for measure in (
        lambda: capstone.pair_logps(policy, tokenizer, pairs.held_out, SMALL),
        lambda: capstone.pass_rates(policy, tokenizer, capstone.sums("held_out"), SMALL),
    ):
        with pytest.raises(torch.OutOfMemoryError, match="lower eval_batch_size"):
            measure()


# ---------------------------------------------------------------------- models


def test_a_copy_is_trained_and_the_start_stays(policy, tokenizer, pairs):
    pytest.importorskip("peft")
    lora = replace(SMALL, lora_rank=2)
    adapted, whole = capstone.trainable_copy(policy, lora), capstone.trainable_copy(policy, SMALL)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert 0 < trained < sum(p.numel() for p in whole.parameters()) / 2
    logps = [capstone.pair_logps(model, tokenizer, pairs.held_out, SMALL) for model in (policy, adapted, whole)]
    torch.testing.assert_close(logps[1], logps[0])
    torch.testing.assert_close(logps[2], logps[0])


@pytest.mark.parametrize("rank", [None, 2])
def test_a_judge_learns_and_what_is_saved_comes_back(policy, tokenizer, pairs, tmp_path, rank):
    if rank:
        pytest.importorskip("peft")
    settings = replace(
        SMALL,
        lora_rank=rank,
        reward={
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "max_steps": 12,
            "disable_tqdm": True,
            "use_cpu": True,
        },
    )
    judge = capstone.train_judge(policy, tokenizer, pairs.judge, settings)
    assert capstone.judge_accuracy(judge, tokenizer, pairs.judge, settings).value == 1
    assert not judge.training

    trained = capstone.trainable_copy(policy, settings)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
    capstone.save(trained, tokenizer, tmp_path)
    reloaded, its_tokenizer = load_policy(tmp_path, "cpu")
    assert its_tokenizer.chat_template == tokenizer.chat_template
    mine, saved = (capstone.pair_logps(model, tokenizer, pairs.held_out, SMALL) for model in (trained, reloaded))
    torch.testing.assert_close(saved, mine, atol=1e-3, rtol=1e-3)
    assert hasattr(trained, "peft_config") == (rank is not None)  # the one in memory can be trained on
