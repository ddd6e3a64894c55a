"""Five systems in miniature: each has the property that makes it that system."""

import inspect

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rlhf_course import recipes
from rlhf_course.cli import main
from rlhf_course.data.world import corpus
from rlhf_course.losses.grpo import grpo_loss
from rlhf_course.models import load_policy, load_reward_model
from rlhf_course.recipes import claude, deepseek, instructgpt, llama2, zephyr
from rlhf_course.trainers.grpo import GRPOConfig
from rlhf_course.trainers.rollout import Rollout


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_ends_in_a_policy_that_has_moved(name):
    said = []
    steps = recipes.cook(name, seed=10, scale=0.01, say=said.append)
    assert len(steps) >= 2 and steps[-1].kl > 1e-4
    assert all(np.isfinite([step.gold, step.kl]).all() for step in steps)
    assert [line for line in said if line.startswith(steps[-1].name)]


def test_the_base_stays_as_it_is():
    base = load_policy("tiny-base")[0]
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    recipes.cook("deepseek", base, scale=0.01, say=lambda line: None)
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())


def test_instructgpt_keeps_what_pre_training_taught():
    """Its mix does: without it the same PPO ends with a higher loss on the corpus."""
    sft, judge = load_policy("tiny-sft")[0], load_reward_model("tiny-reward")[0]
    unseen = corpus(256, 7)
    losses = {}
    for coefficient in (0.0, 1.0):
        quiet = {"disable_tqdm": True, "use_cpu": True}
        policy = instructgpt.ppo_ptx(sft, judge, 3, 12, coefficient, value_warmup_steps=2, **quiet)
        with torch.no_grad():
            losses[coefficient] = instructgpt.text_loss(policy, unseen).item()
    assert losses[1.0] < losses[0.0] - 0.05


def test_llama2_lets_safety_decide_where_it_must():
    helps, safe = torch.tensor([0.9, 0.9, 0.9, 0.2]), torch.tensor([0.8, 0.8, 0.1, 0.16])
    flagged = torch.tensor([False, True, False, False])
    assert llama2.piecewise(helps, safe, flagged).tolist() == pytest.approx([0.9, 0.8, 0.1, 0.2])


def test_llama2_flags_prompts_of_the_world():
    from rlhf_course.data.world import CONCEPTS

    assert set(llama2.FLAGGED) <= {concept.name for concept in CONCEPTS}


def test_llama2_raters_differ_in_what_they_see():
    prompt = "<bos> explain black hole . <sep>"
    true, false = "it is trapped light .", "it is linked particles ."
    assert llama2.SAFETY.utility(prompt, true) > llama2.SAFETY.utility(prompt, false)
    assert llama2.SAFETY.utility(prompt, true) == llama2.SAFETY.utility(prompt, true + " hope that helps .")
    assert llama2.HELPFULNESS.utility(prompt, false) < llama2.HELPFULNESS.utility(prompt, false + " hope that helps .")


def test_zephyr_chooses_the_best_of_four_and_rejects_another():
    models = [load_policy(name)[0] for name in ("tiny-base", "tiny-sft", "tiny-dpo", "tiny-ppo")]
    rows = zephyr.ranked_by_ai(models, 64, 0)
    assert len(rows) == 64 and all(set(row) >= {"prompt", "chosen", "rejected", "ended"} for row in rows)
    gaps = [row["gold_chosen"] - row["gold_rejected"] for row in rows]
    assert np.mean(gaps) > 1 and np.mean(np.array(gaps) >= 0) > 0.85


def test_zephyr_has_no_person_and_no_reward_model():
    """What its paper is about: the AI's verdicts go straight into DPO."""
    source = inspect.getsource(zephyr.run)
    assert "pipeline.dpo" in source and "reward(" not in source


def test_deepseek_adds_plain_k3_as_its_paper_has_it():
    """Equation 3 of DeepSeekMath: β·k3 without the ratio before it, a mean over each answer's tokens."""
    generator = torch.Generator().manual_seed(0)
    logps, old, ref = (torch.randn(4, 5, generator=generator, dtype=torch.float64) - 2 for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    advantages = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    part = Rollout(torch.zeros(4, 8), torch.ones(4, 8), mask, old, mask.any(1), [""] * 4, ref_logps=ref)
    trainer = deepseek.DeepSeekMathTrainer.__new__(deepseek.DeepSeekMathTrainer)
    trainer.args = GRPOConfig(beta=0.04, loss_type="grpo")
    clipped = grpo_loss(logps, old, advantages, mask, 0.2, loss_type="grpo")
    gap = ref - logps
    by_hand = [(gap[i].exp() - gap[i] - 1)[mask[i]].mean() for i in range(4)]
    assert trainer.policy_loss(logps, part, advantages).item() == pytest.approx(
        (clipped + 0.04 * sum(by_hand) / 4).item()
    )


def test_deepseek_rewards_by_rules_alone():
    good = "it is trapped light . think of bottomless drain . hope that helps ."
    prompts = ["<bos> explain black hole . <sep>"] * 3
    answers = [good, "it is trapped light . it is trapped light . hope that helps .", ""]
    assert deepseek.states_the_truth(prompts, answers) == [1.0, 0.0, 0.0]
    assert deepseek.well_formed(prompts, answers) == [0.5, 0.0, 0.0]


def test_claude_breaks_fewer_principles_after_its_first_half():
    model = load_policy("tiny-sft")[0]
    kitchen = recipes.Kitchen(load_policy("tiny-base")[0], 0, 0.3, lambda line: None)
    before = claude.broken(model, 0)
    after = claude.broken(claude.supervised_half(model, kitchen), 0)
    assert after < 0.5 * before


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="instructgpt"):
        recipes.cook("gpt5")


def test_the_command_line_lists_and_cooks():
    listed = CliRunner().invoke(main, ["recipe"])
    assert listed.exit_code == 0 and all(name in listed.output for name in recipes.RECIPES)
    done = CliRunner().invoke(main, ["recipe", "deepseek", "--scale", "0.01"])
    assert done.exit_code == 0, done.output
    assert "GRPO on two rules" in done.output
    wrong = CliRunner().invoke(main, ["recipe", "chatgpt"])
    assert wrong.exit_code == 2 and "zephyr" in wrong.output
