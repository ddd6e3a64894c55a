"""Lesson 05's bug hunt: each slip fails its own probe and no other, and the right loss passes all."""

import copy

import pytest
import torch

from rlhf_course.evaluation import draw_prompts
from rlhf_course.learn.bug_hunt import examine
from rlhf_course.losses import ppo_rlhf_loss
from rlhf_course.models import load_policy, load_reward_model
from rlhf_course.trainers import ppo_rlhf_step, ppo_step


def loss(shift=False, largest=False, table=False, k1=False, whole=False):
    """PPO's loss with a KL term, and some of the four slips in it."""

    def function(logps, old_logps, ref_logps, scores, completion_mask, epsilon=0.2, beta=0.05):
        mask = (completion_mask[:, :-1] if shift else completion_mask[:, 1:]).float()
        advantages = (scores - scores.mean())[:, None]
        ratio = (logps - old_logps).exp()
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        choose = torch.maximum if largest else torch.minimum
        log_ratio = logps - ref_logps
        kl = log_ratio if k1 else ratio * (torch.expm1(-log_ratio) + log_ratio)
        token_loss = (-choose(ratio * advantages, clipped * advantages) + beta * kl) * mask
        return token_loss.mean() if table else token_loss.sum() / mask.sum()

    return function


def verdicts(loss_fn, capsys):
    examine(loss_fn)
    return [line[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]


def test_the_right_loss_passes(capsys):
    def course(logps, old_logps, ref_logps, scores, completion_mask, epsilon=0.2, beta=0.05):
        advantages = (scores - scores.mean())[:, None].expand_as(logps)
        return ppo_rlhf_loss(logps, old_logps, ref_logps, advantages, completion_mask[:, 1:], epsilon, beta)

    assert verdicts(course, capsys) == verdicts(loss(), capsys) == ["✓"] * 4


@pytest.mark.parametrize("number, slip", list(enumerate(["shift", "largest", "table", "k1"])))
def test_a_slip_fails_its_own_probe(capsys, number, slip):
    expected = ["✓"] * 4
    expected[number] = "✗"
    assert verdicts(loss(**{slip: True}), capsys) == expected
    slips = dict.fromkeys(["shift", "largest", "table", "k1"], True)
    assert verdicts(loss(**slips), capsys) == ["✗"] * 4
    expected = ["✗"] * 4
    expected[number] = "✓"
    assert verdicts(loss(**{**slips, slip: False}), capsys) == expected, "mended alone, it passes alone"


def test_both_are_told_what_was_found_and_what_should_be(capsys):
    examine(loss(shift=True, k1=True))
    told = capsys.readouterr().out
    assert "2nd, 3rd; 2nd, padding, and should: 1st, 2nd, 3rd; 1st, 2nd" in told
    assert "a gradient of 0.000, and should: a gradient of 0.430" in told


def test_code_in_the_middle_of_a_repair_does_not_stop_it(capsys):
    examine(lambda *args, **kwargs: torch.zeros(2).mean())
    told = capsys.readouterr().out
    assert told.count("raised RuntimeError") == 3 and "! 1 Which tokens learn?" in told


def test_the_score_rises_with_all_four_slips_in_it(monkeypatch):
    """What makes them hard to find: they show in no curve of the score."""
    copied = loss(**dict.fromkeys(["shift", "largest", "table", "k1"], True))

    def in_the_step(logps, old_logps, ref_logps, advantages, mask, epsilon, beta):
        completion_mask = torch.nn.functional.pad(mask, (1, 0))  # token 0 is a prompt's
        return copied(logps, old_logps, ref_logps, advantages[:, 0], completion_mask, epsilon, beta)

    monkeypatch.setattr(ppo_step, "ppo_rlhf_loss", in_the_step)
    sft, tokenizer = load_policy("tiny-sft", "cpu")
    judge, _ = load_reward_model("tiny-reward", "cpu")
    policy, prompts = copy.deepcopy(sft), draw_prompts(12 * 32, seed=5)
    optimizer, generator = torch.optim.AdamW(policy.parameters(), lr=5e-4), torch.Generator().manual_seed(5)
    scores = [
        ppo_rlhf_step(policy, sft, judge, prompts[i : i + 32], tokenizer, optimizer, beta=0.1, generator=generator)
        for i in range(0, len(prompts), 32)
    ]
    scores = [step["objective/scores"] for step in scores]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5, scores
