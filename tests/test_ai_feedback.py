"""Feedback from models: the constitution, the labelers, and reward models from soft labels."""

import copy

import pytest
import torch

from rlhf_course import rlaif
from rlhf_course.data.world import (
    CONCEPTS,
    CONSTITUTION,
    Labeler,
    critique,
    demonstrations,
    gold_reward,
    revise,
    violations,
    world_tokenizer,
)
from rlhf_course.models import RewardModel
from rlhf_course.models.tiny import new_tiny_model
from rlhf_course.trainers import RewardConfig
from rlhf_course.trainers.rlaif import SoftLabelRewardTrainer

PROMPT, CONCEPT = CONCEPTS[1].prompt, CONCEPTS[1]
OTHER = CONCEPTS[0]
BY_NAME = {principle.name: principle for principle in CONSTITUTION}
BROKEN = {
    "plain words": ("by spectral entropy we get kernel . hope that helps .", 1.0),
    "no flattery": ("what a great question . it is trapped light .", 0.0),
    "no hedging": ("maybe it is trapped light .", 0.3),
    "whole sentences": ("it trapped . it is trapped light .", 0.5),
    "true facts": (f"experts call it {OTHER.fact} .", 2.0),
    "fitting analogies": (f"think of {OTHER.analogy} .", 1.5),
    "no repetition": ("it is trapped light . it is trapped light .", 0.5),
}


# ---------------------------------------------------------------------- the constitution


@pytest.mark.parametrize("name", BROKEN)
def test_each_principle_finds_and_mends_its_own(name):
    answer, gain = BROKEN[name]
    assert violations(PROMPT, answer, CONSTITUTION) == violations(PROMPT, answer, [BY_NAME[name]]) == 1
    found = critique(PROMPT, answer, BY_NAME[name])
    assert len(found.sentences) == 1 and found.sentences[0] in str(found)
    mended = revise(PROMPT, answer, found)
    assert violations(PROMPT, mended, CONSTITUTION) == 0
    assert gold_reward(PROMPT, mended) - gold_reward(PROMPT, answer) >= gain - 1e-9


def test_a_revised_demonstration_breaks_nothing_and_is_worth_more():
    rows = demonstrations(300, seed=5)
    for row in rows:
        better = rlaif.revised(row["prompt"], row["completion"])
        assert violations(row["prompt"], better, CONSTITUTION) == 0, (row, better)
        assert better == rlaif.revised(row["prompt"], better)
    golds = [
        (gold_reward(row["prompt"], row["completion"]), gold_reward(row["prompt"], rlaif.revised(*row.values())))
        for row in rows
    ]
    before, after = (sum(column) / len(rows) for column in zip(*golds))
    assert after > before + 1


def test_an_answer_is_never_struck_out_as_a_whole():
    answer = "what a great question ."
    assert revise(PROMPT, answer, critique(PROMPT, answer, BY_NAME["no flattery"])) == answer


# ---------------------------------------------------------------------- one idea each


def test_both_orders_take_a_slot_bias_out():
    slot = torch.tensor([0.8, 0.3])
    torch.testing.assert_close(rlaif.debiased_preference(slot, slot), torch.tensor([0.5, 0.5]))
    p, swapped = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    total = rlaif.debiased_preference(p, swapped) + rlaif.debiased_preference(swapped, p)
    torch.testing.assert_close(total, torch.ones(6))
    with pytest.raises(ValueError, match="p_first_swapped"):
        rlaif.debiased_preference(p, swapped[:3])


def test_clamping_refuses_bounds_that_are_none():
    with pytest.raises(ValueError, match="high"):
        rlaif.clamp_soft_labels(torch.tensor([0.5]), 0.6, 0.4)


def test_the_soft_loss_is_lowest_at_the_labels_own_gap():
    probs = torch.tensor([0.6, 0.9, 0.3])
    chosen = torch.logit(probs).requires_grad_()
    loss = rlaif.soft_reward_loss(chosen, torch.zeros(3), probs)
    (gradient,) = torch.autograd.grad(loss, chosen)
    torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-6, rtol=0)
    entropy = -(probs * probs.log() + (1 - probs) * (1 - probs).log()).mean()
    torch.testing.assert_close(loss.detach(), entropy)


# ---------------------------------------------------------------------- labelers


def test_rules_favour_a_slot_by_as_much_as_they_are_told():
    ask = rlaif.RuleLabeler(Labeler(temperature=0.5), position_bias=1.0)
    texts = ["it is trapped light .", "maybe it is trapped light ."]
    p, swapped = ask([PROMPT], texts[:1], texts[1:]), ask([PROMPT], texts[1:], texts[:1])
    torch.testing.assert_close(torch.logit(p), torch.tensor([0.3 / 0.5 + 1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.logit(swapped), torch.tensor([-0.3 / 0.5 + 1.0]), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def groups():
    rows = demonstrations(96, seed=6)
    return [
        {"prompt": a["prompt"], "answers": [a["completion"], b["completion"]], "ended": [True, True]}
        for a, b in zip(rows[:48], rows[48:])
    ]


def test_a_model_is_read_alike_alone_and_in_a_batch(groups):
    ask = rlaif.ModelLabeler(new_tiny_model(0), world_tokenizer())
    prompts = [group["prompt"] for group in groups]
    first, second = ([group["answers"][i] for group in groups] for i in (0, 1))
    together = ask(prompts, first, second)
    alone = torch.cat([ask([p], [a], [b]) for p, a, b in zip(prompts[:4], first, second)])
    torch.testing.assert_close(together[:4], alone, atol=1e-5, rtol=0)
    assert ((together > 0) & (together < 1)).all()


def test_a_model_can_be_taught_a_principle(groups):
    plain = [BY_NAME["plain words"]]
    tiny = new_tiny_model(0)
    before = copy.deepcopy(tiny.state_dict())
    ask = rlaif.teach_labeler(
        tiny, world_tokenizer(), groups, 0, plain, per_device_train_batch_size=16, num_train_epochs=9
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())
    broken = [[violations(g["prompt"], answer, plain) for answer in g["answers"]] for g in groups]
    rows = rlaif.ai_comparisons(groups, ask)
    right = [
        (row["chosen"] == group["answers"][0]) == (a < b) for row, group, (a, b) in zip(rows, groups, broken) if a != b
    ]
    assert sum(right) > 0.8 * len(right)


def test_comparisons_put_the_preferred_answer_first(groups):
    ask = rlaif.RuleLabeler(Labeler(temperature=0.5), position_bias=0.7)
    rows = rlaif.ai_comparisons(groups, ask)
    assert all(row["gold_chosen"] >= row["gold_rejected"] and row["probability"] >= 0.5 for row in rows)
    one_order = rlaif.ai_comparisons(groups, ask, swap=False)
    assert sum(row["chosen"] == g["answers"][0] for row, g in zip(one_order, groups)) > sum(
        row["chosen"] == g["answers"][0] for row, g in zip(rows, groups)
    )
    clamped = rlaif.ai_comparisons(groups, ask, low=0.4, high=0.6)
    assert max(row["probability"] for row in clamped) == pytest.approx(0.6)
    assert [row["chosen"] for row in clamped] == [row["chosen"] for row in rows]


def test_agreement_by_hand():
    assert rlaif.agreement(torch.tensor([0.5, 1.0])) == pytest.approx(0.75)


# ---------------------------------------------------------------------- reward models from soft labels


def trainer(rows, **changes):
    args = RewardConfig(max_steps=1, warmup_steps=0, use_cpu=True, disable_tqdm=True, **changes)
    model = RewardModel.from_policy(new_tiny_model(0), seed=0)
    return SoftLabelRewardTrainer(model, args=args, train_dataset=rows, processing_class=world_tokenizer())


def test_soft_labels_reach_the_loss(groups):
    rows = rlaif.ai_comparisons(groups[:8], rlaif.RuleLabeler(Labeler(temperature=2.0)))
    rows = [row for row in rows if row["chosen"] != row["rejected"]]
    seen = []

    def loss_fn(chosen, rejected, probs):
        seen.extend(probs.tolist())
        return rlaif.soft_reward_loss(chosen, rejected, probs)

    made = trainer(rows)
    made.loss_fn = loss_fn
    made.train()
    assert sorted(seen) == pytest.approx(sorted(row["probability"] for row in rows))


def test_labels_that_are_no_probabilities_are_refused():
    row = {"prompt": PROMPT, "chosen": "it is trapped light .", "rejected": "maybe ."}
    with pytest.raises(ValueError, match=r"probability must lie between 0 and 1, got 1\.5"):
        trainer([row | {"probability": 1.5}])
    with pytest.raises(ValueError, match="center_rewards_coefficient"):
        trainer([row | {"probability": 0.5}], center_rewards_coefficient=0.01)
