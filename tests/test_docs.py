"""The pages in docs/: what they say of names is true, and their samples run."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from rlhf_course import over_to_trl

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
SAMPLES = re.findall(r"```python\n(.+?)```", PAGES["over_to_trl.md"], re.DOTALL)


def test_links_lead_somewhere():
    for name, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / "docs" / target).exists(), f"{name}: {target}"
        for path in re.findall(r"`((?:rlhf_course|tests|docs)/[\w/.]*)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"


@pytest.mark.parametrize("method", over_to_trl.METHODS)
def test_our_settings_bear_trls_names(method):
    """TRL lacks what the page says it lacks, and nothing else."""
    trl = pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    config = over_to_trl.METHODS[method].config_class
    theirs = {field.name for field in fields(getattr(trl, config.__name__))}
    without = {"group_by_length"} | {"dpo": {"reference_free"}, "grpo": {"max_length"}}.get(method, set())
    assert {field.name for field in fields(config)} - theirs == without
    assert "train_sampling_strategy" in theirs
    named = set(re.findall(r"`(\w+)`", PAGES["over_to_trl.md"]))
    own = {field.name for field in fields(config)} - {field.name for field in fields(config.__mro__[1])}
    assert own - without - {"packing"} <= named


def test_trl_has_the_other_trainers_that_the_page_names():
    trl = pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    from trl.experimental.online_dpo import OnlineDPOTrainer

    assert OnlineDPOTrainer and trl.RLOOTrainer and not hasattr(trl, "PPOTrainer")
    trl_defaults = {field.name: field.default for field in fields(trl.GRPOConfig)}
    assert trl_defaults["use_bias_correction_kl"] is True and trl_defaults["loss_type"] == "dapo"
    assert trl_defaults["learning_rate"] == 1e-6 and trl_defaults["gradient_checkpointing"] is True
    assert trl_defaults["disable_dropout"] is False and trl_defaults["train_sampling_strategy"] != "sequential"


@pytest.mark.slow
def test_the_samples_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl", minversion="1.16", reason='needs TRL: pip install "trl>=1.16"')
    monkeypatch.chdir(tmp_path)
    names = {}
    for sample in SAMPLES:
        exec(compile(sample, "docs/over_to_trl.md", "exec"), names)
        if "compare" in sample:
            columns = [line.split() for line in capsys.readouterr().out.strip().splitlines()]
            assert len(columns) == 4 and all(float(a) == pytest.approx(float(b), abs=2e-5) for a, b in columns)
        if "trainer" in names:
            assert names["trainer"].state.global_step == 2
    assert len(SAMPLES) == 7 and type(names["trainer"]).__name__ == "GRPOTrainer"

    from rlhf_course.models import load_reward_model

    load_reward_model("runs/reward", "cpu")
