"""Experiments share the models they begin with."""

import json
from pathlib import Path

import pytest
import torch

from rlhf_course import pipeline
from rlhf_course.data.world import world_tokenizer
from rlhf_course.experiments import models
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import new_tiny_model


@pytest.fixture
def runs_done(monkeypatch, tmp_path):
    """A cache folder of its own, and the runs that a call asks for: none trains, each writes what a run writes."""
    done = []

    def write_untrained(run, say):
        assert torch.is_grad_enabled()
        done.append(run)
        model = new_tiny_model(run.seed)
        model = RewardModel.from_policy(model, run.seed) if run.stage == "reward" else model
        model.save_pretrained(run.output)
        world_tokenizer().save_pretrained(run.output)
        facts = models.runs._facts(run) | {"settings": pipeline.SETTINGS[run.stage], "results": {}}
        Path(run.output, "run.json").write_text(json.dumps(facts | {"versions": models.runs.versions()}))

    monkeypatch.setattr(models.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    monkeypatch.setattr(models.runs, "train", write_untrained)
    return done


def test_a_model_is_trained_once_with_what_it_begins_with(runs_done, tmp_path):
    first = models.trained("reward", seed=3)
    assert isinstance(first, RewardModel) and not first.training
    assert [run.stage for run in runs_done] == ["pretrain", "sft", "reward"]
    assert runs_done[2].model == runs_done[1].output
    again = models.trained("reward", seed=3)
    assert again is not first
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    models.trained("sft", seed=3)
    assert len(runs_done) == 3
    models.trained("ppo", seed=3)
    models.trained("grpo", seed=3)
    assert {run.reward_model for run in runs_done[3:]} == {runs_done[2].output}
    assert [run.stage for run in runs_done[3:]] == ["ppo", "grpo"]
    assert {run.seed for run in runs_done} == {3}


@pytest.mark.parametrize("stale", [{"settings": {"learning_rate": 1.0}}, {"versions": {"rlhf-course": "0"}}])
def test_a_model_that_is_not_todays_is_made_anew_and_so_is_what_stands_on_it(runs_done, tmp_path, stale):
    models.trained("reward", seed=3)
    models.trained("reward", seed=4)
    kept = tmp_path / "pipeline/seed-3/sft/run.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | stale))
    runs_done.clear()
    models.trained("reward", seed=4)
    assert runs_done == []
    models.trained("reward", seed=3)
    assert [run.stage for run in runs_done] == ["sft", "reward"]


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-100]), Path.unlink])
def test_a_damaged_model_is_made_anew(runs_done, tmp_path, damage):
    models.trained("reward", seed=3)
    damage(tmp_path / "pipeline/seed-3/sft/model.safetensors")
    runs_done.clear()
    models.trained("reward", seed=3)
    assert [run.stage for run in runs_done] == ["sft", "reward"]


def test_a_rehearsals_models_are_kept_apart(runs_done, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_COURSE_FAST", "1")
    models.trained("sft", seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal"]


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match=r"stage must be one of pretrain, sft, .*, got 'rlhf'"):
        models.trained("rlhf", seed=0)


def test_a_model_is_trained_wherever_it_is_asked_for(runs_done):
    with torch.no_grad():
        models.trained("sft", seed=4)
    assert len(runs_done) == 2
