"""Each claim once more, in new runs of one seed, so small that they take seconds."""

from functools import cache

import pytest
import torch

from rlhf_course import pipeline
from rlhf_course.experiments import kl
from rlhf_course.experiments import small as small_module
from rlhf_course.experiments.claims import claims, measure
from rlhf_course.experiments.models import from_shipped_models, trained
from rlhf_course.experiments.reproduce import experiments
from rlhf_course.experiments.small import run_small, small_sizes

SHOWN = [claim for claim in claims().values() if claim.small]
#: The topics whose runs take longest come first, so that two workers end at about the same time.
LONGEST = ("overoptimization", "dpo_variants", "choosing", "reward_model", "rlaif")
TOPICS = (*LONGEST, *sorted({claim.table.split(".")[0] for claim in SHOWN} - set(LONGEST)))


@pytest.mark.slow
@pytest.mark.claims
@pytest.mark.parametrize("topic", TOPICS)
def test_new_runs_of_one_seed_show_the_claims(topic):
    tables, broken = run_small(topic), []
    for claim in (claim for claim in SHOWN if claim.table in tables):
        value = measure(claim.measure, tables[claim.table], 0)
        if not claim.holds([value], claim.small):
            broken.append(f"{claim.id}: {claim.says} {claim.measure} {claim.small}: {value}")
    assert not broken, "\n".join(broken)


def test_every_small_run_is_of_an_experiment():
    for topic, sizes in small_sizes().items():
        for name in sizes:
            assert name.isupper() or name in ("pipeline", "settings") or f"{topic}.{name}" in experiments(), (
                f"{topic}.{name}"
            )


def test_constants_and_settings_are_as_asked_for_inside_and_as_before_outside(monkeypatch):
    def looked_at(seeds, steps):
        kl.CACHED(seeds)
        return steps, kl.FRESH_ANSWERS, kl.COUNTS, pipeline.SETTINGS["ppo"]["learning_rate"]

    remembered = cache(lambda seeds: seeds)
    remembered.__module__ = kl.__name__
    monkeypatch.setattr(kl, "CACHED", remembered, raising=False)
    monkeypatch.setattr(kl, "looked_at", looked_at, raising=False)
    sizes = {"FRESH_ANSWERS": 8, "COUNTS": [1, 2], "settings": {"ppo": {"learning_rate": 0.5}}}
    monkeypatch.setattr(small_module, "small_sizes", lambda: {"kl": {**sizes, "looked_at": {"steps": 3}}})
    before = kl.FRESH_ANSWERS, kl.COUNTS, dict(pipeline.SETTINGS["ppo"])
    assert run_small("kl", seed=4) == {"kl.looked_at": (3, 8, (1, 2), 0.5)}
    assert (kl.FRESH_ANSWERS, kl.COUNTS, pipeline.SETTINGS["ppo"]) == before
    assert remembered.cache_info().currsize == 0
    assert run_small("ppo") == {}


def test_what_does_not_ship_is_trained_on_what_does(monkeypatch):
    monkeypatch.setitem(pipeline.SETTINGS, "grpo", pipeline.SETTINGS["grpo"] | {"max_steps": 1})
    with from_shipped_models():
        policy, again, start = trained("grpo", 5), trained("grpo", 5), trained("sft", 5)
    assert policy is not again
    for name, weights in policy.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert not torch.equal(policy.lm_head.weight, start.lm_head.weight)
