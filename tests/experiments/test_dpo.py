"""DPO healthy and broken, and what its pairs must hold: the instruments, and the claims in every seed."""

import pytest

from rlhf_course.experiments import dpo
from rlhf_course.models import load_policy, load_reward_model


@pytest.fixture
def small(monkeypatch):
    """The shipped models in place of ones made for a seed, and a few answers instead of hundreds."""
    names = {"sft": "tiny-sft", "reward": "tiny-reward", "ppo": "tiny-ppo", "dpo": "tiny-dpo"}

    def trained(stage, seed):
        return (load_reward_model if stage == "reward" else load_policy)(names[stage], "cpu")[0]

    monkeypatch.setattr(dpo, "trained", trained)
    for name, value in {"HELD_OUT": 8, "FRESH_ANSWERS": 8, "JUDGED_ANSWERS": 8}.items():
        monkeypatch.setattr(dpo, name, value)


def test_broken_runs_of_two_steps(small):
    table = dpo.broken_runs(seeds=[0], runs=(dpo.HEALTHY, dpo.MEAN), comparisons=64)
    assert [(row["run"], row["step"]) for row in table.rows] == [
        (r, s) for r in (dpo.HEALTHY, dpo.MEAN) for s in (0, 2)
    ]
    start, end = table.where(run=dpo.HEALTHY)
    assert start["chosen"] == pytest.approx(0, abs=1e-3) and start["kl"] == pytest.approx(0, abs=1e-3)
    assert end["chosen"] != pytest.approx(0, abs=1e-4)
    assert start["chosen_logp"] < -5 and start["answer"]
    assert {name: start[name] for name in start if name != "run"} == pytest.approx(
        {name: value for name, value in table.where(run=dpo.MEAN, step=0)[0].items() if name != "run"}
    )
    with pytest.raises(ValueError, match="run must be one of healthy, "):
        dpo.dpo_run(0, "no beta")


def test_coverage_of_two_steps(small):
    table = dpo.coverage(seeds=[0], comparisons=64, own=16, max_steps=2)
    policies = [dpo.SFT_MODEL, dpo.DPO_ALL, dpo.DPO_WITHOUT, dpo.DPO_MENDED, dpo.PPO_ALL, dpo.PPO_WITHOUT]
    assert table.values("policy") == policies
    assert table.rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert all(0 <= row["right analogy"] <= row["analogy"] <= 1 for row in table.rows)


def test_analogies_are_cut_out_of_answers():
    prompt = "<bos> explain black hole . <sep>"
    fact, analogy = "it is trapped light .", "maybe think of bottomless drain ."
    groups = [
        {"prompt": prompt, "answers": [f"{fact} {analogy} hope that helps .", fact], "ended": [True, False]},
        {"prompt": prompt, "answers": [analogy, fact], "ended": [True, True]},
    ]
    (group,) = dpo.without_analogies(groups)
    assert group == {"prompt": prompt, "answers": [f"{fact} hope that helps .", fact], "ended": [True, False]}
    assert analogy in groups[0]["answers"][0], "what was given stays as it was"
