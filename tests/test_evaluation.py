"""Judging by gold: intervals, accuracies of reward models whose answers are known, and policies on fresh samples."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rlhf_course.data.world import WORLD, gold_reward, world_tokenizer
from rlhf_course.evaluation import (
    draw_prompts,
    evaluate_policy,
    pareto_frontier,
    reward_accuracy,
    sample_answers,
    wilson_interval,
    win_rate,
)
from rlhf_course.models.reward import RewardModel
from rlhf_course.models.tiny import new_tiny_model

TOKENIZER = world_tokenizer()
PROMPT = "<bos> explain black hole . <sep>"
FACT, WRONG = "it is trapped light .", "it is linked particles ."
FILLER, OTHER_FILLER = "there is much to say .", "this comes up often ."
SHORT = replace(WORLD, max_answer_tokens=8)


class CountsWord(nn.Module):
    """A reward model that counts a word in the text."""

    device = torch.device("cpu")

    def __init__(self, word):
        super().__init__()
        self.token = TOKENIZER.convert_tokens_to_ids(word)

    def forward(self, input_ids, attention_mask):
        assert not self.training
        return ((input_ids == self.token) & attention_mask.bool()).sum(dim=1).float()


def comparison(chosen, rejected):
    gold = [gold_reward(PROMPT, answer) for answer in (chosen, rejected)]
    return dict(prompt=PROMPT, chosen=chosen, rejected=rejected, gold_chosen=gold[0], gold_rejected=gold[1])


@pytest.fixture(scope="module")
def policy():
    return new_tiny_model(seed=0)


@pytest.mark.parametrize(("successes", "n"), [(8, 10), (0, 20), (20, 20), (1, 1), (431, 512)])
def test_the_wilson_interval_s_ends_are_shares_just_compatible_with_what_was_seen(successes, n):
    for z in (1.0, 1.96, 2.58):
        low, high = wilson_interval(successes, n, z)
        assert 0 <= low < high <= 1
        for end in (low, high):
            assert abs(successes / n - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5, abs=1e-6)


def test_the_wilson_interval_of_known_examples():
    # 8 of 10 by hand: centre (.8 + .19208)/1.38416, half 1.96 √(.016 + .009604)/1.38416.
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=5e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27754), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_shares_that_cannot_be_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes must lie between 0 and n"):
        wilson_interval(successes, n)


PAIRS = [
    comparison(FACT, FILLER),  # label right, model right
    comparison(FACT, WRONG),  # right, right
    comparison(FILLER, FACT),  # wrong, right
    comparison(FILLER, WRONG),  # right, and the model sees no difference
    comparison(f"{WRONG} {FACT}", FACT),  # wrong, and no difference
    comparison(FILLER, OTHER_FILLER),  # tied in gold, no difference
]


def test_accuracies_of_a_model_that_looks_for_the_right_fact():
    found = reward_accuracy(CountsWord("trapped"), TOKENIZER, PAIRS)
    assert found["pairs"] == 5
    assert found["rm_gold_accuracy"] == pytest.approx((1 + 1 + 1 + 0.5 + 0.5) / 5)
    assert found["label_gold_accuracy"] == pytest.approx(3 / 5)
    assert found["label_accuracy"] == pytest.approx((1 + 1 + 0 + 0.5 + 0.5 + 0.5) / 6)
    # Gains 0, 0, 1, −.5, .5: mean .2, variance (.04 + .04 + .64 + .49 + .09)/4.
    half = 1.96 * (1.3 / 4 / 5) ** 0.5
    assert found["difference"] == pytest.approx(0.2)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((0.2 - half, 0.2 + half))


def test_a_model_that_knows_nothing_is_half_right():
    found = reward_accuracy(CountsWord("tensor"), TOKENIZER, PAIRS)
    assert found["rm_gold_accuracy"] == found["label_accuracy"] == 0.5


def test_a_model_that_likes_what_is_false_is_wrong_wherever_it_sees_a_difference():
    found = reward_accuracy(CountsWord("linked"), TOKENIZER, [PAIRS[1], PAIRS[3], PAIRS[4]])
    assert found["rm_gold_accuracy"] == 0
    assert found["label_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("same", [FILLER, f" {FILLER}", FILLER.replace("say", "zebra"), f"{FILLER} <eos>"])
def test_equal_answers_are_left_out_and_shift_no_other_row(same):
    """Equal as texts, or only once they are tokens: neither may tear rewards and gold apart."""
    first = FILLER.replace("say", "gnu") if "zebra" in same else FILLER
    equal = dict(comparison(first, same), gold_chosen=1.0, gold_rejected=0.0)  # one was cut off, say
    for place in range(len(PAIRS) + 1):
        mixed = [*PAIRS[:place], equal, *PAIRS[place:]]
        assert reward_accuracy(CountsWord("trapped"), TOKENIZER, mixed) == reward_accuracy(
            CountsWord("trapped"), TOKENIZER, PAIRS
        )


def test_rows_of_label_rankings_are_taken_as_their_pair(monkeypatch):
    rows = [{**row, "ranked": [row["chosen"], row["rejected"]], "gold": [1.0, 0.0]} for row in PAIRS]
    expected = reward_accuracy(CountsWord("trapped"), TOKENIZER, PAIRS)
    assert reward_accuracy(CountsWord("trapped"), TOKENIZER, rows) == expected
    monkeypatch.setattr("rlhf_course.evaluation.CHUNK", 4)
    assert reward_accuracy(CountsWord("trapped"), TOKENIZER, rows) == expected


@pytest.mark.parametrize("pairs", [[], PAIRS[5:], PAIRS[:1] + PAIRS[5:]])
def test_too_few_pairs_with_a_difference_are_refused(pairs):
    with pytest.raises(ValueError, match="at least two pairs that differ in gold"):
        reward_accuracy(CountsWord("trapped"), TOKENIZER, pairs)


def test_a_model_in_training_is_judged_without_dropout_and_goes_on_training(policy):
    model = RewardModel.from_policy(policy, seed=0).train()
    reward_accuracy(model, TOKENIZER, PAIRS)
    evaluate_policy(policy, TOKENIZER, ref_model=policy, reward_model=model, n=4, world=SHORT)
    assert all(module.training for module in model.modules())
    reference = new_tiny_model(seed=1).train()
    evaluate_policy(policy, TOKENIZER, ref_model=reference, n=4, world=SHORT)
    assert all(module.training for module in reference.modules())


def test_prompts_are_drawn_from_their_split_by_the_seed():
    assert draw_prompts(40, seed=1) == draw_prompts(40, seed=1) != draw_prompts(40, seed=2)
    for split in ("train", "held_out", "all"):
        assert set(draw_prompts(400, seed=0, split=split)) == set(WORLD.prompts(split))
    with pytest.raises(ValueError, match="split must be one of"):
        draw_prompts(4, seed=0, split="validation")


def test_answers_come_in_the_order_of_their_prompts_and_by_the_seed(policy, monkeypatch):
    prompts = draw_prompts(12, seed=0)
    answers = sample_answers(policy, TOKENIZER, prompts, seed=3, max_new_tokens=8)
    assert [answer.prompt for answer in answers] == prompts
    assert answers == sample_answers(policy, TOKENIZER, prompts, seed=3, max_new_tokens=8)
    assert answers != sample_answers(policy, TOKENIZER, prompts, seed=4, max_new_tokens=8)
    assert not any(token in answer.text for answer in answers for token in ("<eos>", "<pad>", "<bos>"))
    monkeypatch.setattr("rlhf_course.evaluation.CHUNK", 5)
    in_chunks = sample_answers(policy, TOKENIZER, prompts, seed=3, max_new_tokens=8)
    assert [answer.prompt for answer in in_chunks] == prompts
    assert in_chunks[:5] == answers[:5]
    assert len({answer.text for answer in in_chunks}) == len(prompts)  # every chunk has numbers of its own


def test_an_answer_that_stops_is_told_from_one_cut_off():
    """A head that says one thing whatever came before."""
    for stops in (False, True):
        model = new_tiny_model(seed=0)
        with torch.no_grad():
            model.lm_head.weight.zero_()  # tied: the embedding as well
        head = nn.Linear(64, len(TOKENIZER))
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            head.bias[TOKENIZER.convert_tokens_to_ids("<eos>" if stops else "this")] = 99.0
        model.lm_head = head
        (answer,) = sample_answers(model, TOKENIZER, [PROMPT], seed=0, max_new_tokens=4)
        assert (answer.text, answer.ended) == (("", True) if stops else ("this this this this", False))
        found = evaluate_policy(model, TOKENIZER, n=6, world=SHORT)
        expected = 0.0 if stops else gold_reward(PROMPT, " ".join(["this"] * 8), ended=False)
        assert found == {"gold": pytest.approx(expected), "gold_se": 0.0, "length": 1.0 if stops else 8.0}


def test_a_policy_is_no_nats_from_itself_and_some_from_another(policy):
    settings = dict(n=32, seed=0, world=SHORT)
    itself = evaluate_policy(policy, TOKENIZER, ref_model=policy, **settings)
    assert itself["kl"] == pytest.approx(0.0, abs=1e-5)
    sharper = new_tiny_model(seed=0)
    with torch.no_grad():
        sharper.model.norm.weight.mul_(4.0)  # all logits four times as far apart
    assert evaluate_policy(sharper, TOKENIZER, ref_model=policy, **settings)["kl"] > 0.05


def test_what_is_returned_is_the_answers_own_gold_length_and_score(policy):
    n, seed = 24, 5
    found = evaluate_policy(policy, TOKENIZER, reward_model=CountsWord("trapped"), n=n, seed=seed, world=SHORT)
    assert set(found) == {"gold", "gold_se", "length", "proxy"}
    assert all(type(value) is float for value in found.values())
    answers = sample_answers(policy, TOKENIZER, draw_prompts(n, seed, world=SHORT), seed, SHORT.max_answer_tokens)
    gold = torch.tensor([gold_reward(a.prompt, a.text, ended=a.ended) for a in answers], dtype=torch.float64)
    assert found["gold"] == pytest.approx(gold.mean().item())
    assert found["gold_se"] == pytest.approx((gold.std() / n**0.5).item())
    assert found["proxy"] == pytest.approx(sum(a.text.split().count("trapped") for a in answers) / n)
    again = evaluate_policy(policy, TOKENIZER, reward_model=CountsWord("trapped"), n=n, seed=seed, world=SHORT)
    assert again == found
    assert evaluate_policy(policy, TOKENIZER, n=n, seed=seed + 1, world=SHORT)["gold"] != found["gold"]


def test_one_answer_has_no_standard_error():
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        evaluate_policy(None, TOKENIZER, n=1)


@pytest.mark.parametrize(("a", "b", "rate"), [([3, 2, 1, 0], [1, 1, 1, 1], 0.625), ([0.5], [0.5], 0.5), ([1], [2], 0)])
def test_win_rate_by_hand(a, b, rate):
    assert win_rate(torch.tensor(a), torch.tensor(b)) == rate
    assert win_rate(torch.tensor(b), torch.tensor(a)) == 1 - rate


def test_win_rate_refuses_what_is_no_pairing():
    with pytest.raises(ValueError, match="one shape"):
        win_rate(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="at least 1"):
        win_rate(torch.zeros(0), torch.zeros(0))
    with pytest.raises(TypeError, match="scores_b"):
        win_rate(torch.zeros(3), [0, 0, 0])


def test_the_frontier_keeps_twins_and_drops_whoever_is_beaten_in_one():
    kl = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 0.5])
    gold = torch.tensor([1.0, 1.0, 1.0, 1.5, 1.5, 0.0])
    assert pareto_frontier(kl, gold).tolist() == [True, True, False, True, False, True]


def test_whoever_is_off_the_frontier_is_beaten_by_someone_on_it():
    stream = torch.Generator().manual_seed(0)
    kl, gold = (torch.randint(0, 6, (40,), generator=stream).double() for _ in range(2))
    kept = pareto_frontier(kl, gold)
    for x, y, stays in zip(kl, gold, kept):
        rivals = kept & (kl <= x) & (gold >= y) & ((kl < x) | (gold > y))
        assert bool(rivals.any()) != bool(stays)


def test_the_frontier_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="gold must hold finite"):
        pareto_frontier(torch.zeros(2), torch.tensor([0.0, float("nan")]))
    with pytest.raises(ValueError, match="one shape"):
        pareto_frontier(torch.zeros(2), torch.zeros(3))
