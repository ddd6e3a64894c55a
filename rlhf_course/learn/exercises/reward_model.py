"""Exercises of lesson 03: Bradley–Terry, its loss, where the score is read, and rankings as pairs."""

import itertools
from itertools import combinations, pairwise, permutations

import torch
from torch.nn.functional import logsigmoid

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def preference_probability(chosen_reward, rejected_reward):
    return torch.sigmoid(chosen_reward - rejected_reward)


def reward_loss(chosen_rewards, rejected_rewards):
    return -torch.nn.functional.logsigmoid(chosen_rewards - rejected_rewards).mean()


def last_token_index(mask):
    position = torch.arange(mask.shape[1], device=mask.device)
    return (position * mask).argmax(dim=1)


def pairs_from_ranking(ranking):
    return list(itertools.combinations(ranking, 2))


def _probability_cases(stream):
    chosen, rejected = torch.randn(2, 4, 3, generator=stream)
    return [
        Case("the two answers on entanglement", (torch.tensor([3.7]), torch.tensor([2.1]))),
        Case("a table of rewards", (chosen, rejected)),
        Case("equal rewards", (torch.tensor([5.0, -2.0]), torch.tensor([5.0, -2.0]))),
        Case("the chosen answer scores lower", (torch.tensor([-1.0, 0.5]), torch.tensor([1.0, 0.7]))),
        # 1/(1 + exp(gap)) is right here, but its gradient is not a number.
        Case(
            "large rewards",
            (torch.tensor([200.0, -200.0, 300.0]), torch.tensor([199.0, 200.0, -300.0])),
            gradient=False,
        ),
    ]


_PROBABILITY = Exercise(
    id="reward_model.preference_probability",
    reference=preference_probability,
    cases=_probability_cases,
    differentiate=(0, 1),
    mistakes=[
        Mistake(
            "reversed",
            lambda chosen, rejected: torch.sigmoid(rejected - chosen),
            "Yours is the probability that the *rejected* answer wins. Which score should push it up?",
        ),
        Mistake(
            "share of the scores",
            lambda chosen, rejected: chosen / (chosen + rejected),
            "You take the chosen answer's share of the two scores. Add 5 to both and it changes; with "
            "negative scores it leaves 0 to 1. In Bradley–Terry only the difference counts.",
        ),
        Mistake(
            "ratio of exponentials",
            lambda chosen, rejected: chosen.exp() / (chosen.exp() + rejected.exp()),
            "Right on paper: divide both by exp(chosen) and you have the sigmoid. But exp(200) is "
            "infinite for a float. Take the difference before any exponential.",
        ),
        Mistake(
            "odds",
            lambda chosen, rejected: (chosen - rejected).exp(),
            "Those are the odds, P / (1 − P), which go above 1. What must the chosen answer's strength be divided "
            "by: the other's, or both together?",
        ),
        Mistake(
            "absolute gap",
            lambda chosen, rejected: torch.sigmoid((chosen - rejected).abs()),
            "Yours is never below one half: it says how surely *somebody* wins. The chosen answer can be the one "
            "that scores lower.",
        ),
        Mistake(
            "chosen score alone",
            lambda chosen, rejected: torch.sigmoid(chosen),
            "The rejected answer's score changes nothing in yours. A comparison needs both.",
        ),
        Mistake(
            "logarithm",
            lambda chosen, rejected: logsigmoid(chosen - rejected),
            "These are at most 0: you return the logarithm of the probability. It is what the loss will "
            "need, one exercise further on.",
        ),
        Mistake(
            "bare difference",
            lambda chosen, rejected: chosen - rejected,
            "That is the gap, any number from −∞ to ∞. Which curve turns it into a probability?",
        ),
        Mistake(
            "verdict",
            lambda chosen, rejected: (chosen > rejected).float(),
            "You return who is ahead, 0 or 1. Labelers disagree: a small gap should give a small lean.",
        ),
    ],
    hints=[
        "Only the difference of the two scores counts: a gap of 0 means one half.",
        "You wrote the curve you need in lesson 00: it maps any number to a probability, and 0 to one half.",
        "return torch.sigmoid(chosen_reward - rejected_reward)",
    ],
    reason="P(chosen ≻ rejected) = σ(r_c − r_r). It equals exp(r_c) / (exp(r_c) + exp(r_r)), a softmax "
    "over the two answers, but the difference is taken first, so nothing overflows; and adding a "
    "constant to both scores visibly changes nothing.",
)


def _reward_loss_cases(stream):
    chosen, rejected = torch.randn(2, 6, generator=stream)
    return [
        Case("two pairs", (torch.tensor([3.7, 1.0]), torch.tensor([2.1, 1.5]))),
        Case("six random pairs", (chosen, rejected)),
        Case("a batch of one", (torch.tensor([0.3]), torch.tensor([-0.4]))),
        Case("equal rewards", (torch.tensor([2.0, -1.0]), torch.tensor([2.0, -1.0]))),
        Case(
            "a pair that is badly wrong, and one that is sure",
            (torch.tensor([-150.0, 80.0]), torch.tensor([150.0, -80.0])),
        ),
        Case("bfloat16", (chosen.bfloat16(), rejected.bfloat16())),
    ]


_REWARD_LOSS = Exercise(
    id="reward_model.reward_loss",
    reference=losses.reward_loss,
    answer=reward_loss,
    cases=_reward_loss_cases,
    differentiate=(0, 1),
    mistakes=[
        Mistake(
            "reversed",
            lambda chosen, rejected: -logsigmoid(rejected - chosen).mean(),
            "Your loss falls when the rejected answer scores higher. Which of the two should training push up?",
        ),
        Mistake(
            "missing minus",
            lambda chosen, rejected: logsigmoid(chosen - rejected).mean(),
            "Your loss is negative and falls as the votes get *less* likely. We minimise; a "
            "log-likelihood is to be maximised. What turns one into the other?",
        ),
        Mistake(
            "logarithm of a sigmoid",
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).log().mean(),
            "Right on paper, but for a pair that is badly wrong the sigmoid rounds to 0 and its "
            "logarithm to −∞: one pair would ruin the batch. Which function takes both steps at once?",
        ),
        Mistake(
            "sum",
            lambda chosen, rejected: -logsigmoid(chosen - rejected).sum(),
            "You add the pairs up. Then a batch of 64 takes a step twice as long as one of 32. The loss "
            "is a mean over pairs.",
        ),
        Mistake(
            "sigmoid twice",
            lambda chosen, rejected: -logsigmoid(torch.sigmoid(chosen - rejected)).mean(),
            "logsigmoid already has the sigmoid in it, and you hand it a probability. What does it take?",
        ),
        Mistake(
            "chosen score alone",
            lambda chosen, rejected: -logsigmoid(chosen).mean(),
            "The rejected answer's score changes nothing in yours. A vote is about both answers.",
        ),
        Mistake(
            "no logarithm",
            lambda chosen, rejected: (1 - torch.sigmoid(chosen - rejected)).mean(),
            "You minimise 1 − P. It hardly pulls on a pair that is badly wrong, where the curve is flat. "
            "Likelihoods multiply: what do you take to turn the product into a sum?",
        ),
        Mistake(
            "minus the probability",
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean(),
            "You maximise the mean of P. It hardly pulls on a pair that is badly wrong, where the curve is flat. "
            "Likelihoods multiply: what turns the product into a sum?",
        ),
        Mistake(
            "a little added before the logarithm",
            lambda chosen, rejected: -(torch.sigmoid(chosen - rejected) + 1e-8).log().mean(),
            "The small number keeps −∞ away, but it also caps the loss at 18: a pair that is badly wrong stops "
            "pulling. A function that takes sigmoid and logarithm in one needs no such crutch.",
        ),
        Mistake(
            "no mean",
            lambda chosen, rejected: -logsigmoid(chosen - rejected),
            "One number for each pair is right so far. Training needs one number for the batch.",
        ),
        Mistake(
            "mean before the sigmoid",
            lambda chosen, rejected: -logsigmoid((chosen - rejected).mean()),
            "You average the gaps first, so that a pair that is very right pays for one that is wrong. "
            "Each vote has a likelihood of its own.",
        ),
        Mistake(
            "hinge",
            lambda chosen, rejected: torch.relu(1 - (chosen - rejected)).mean(),
            "That is a hinge loss: it ranks, but it stops at a gap of 1, so the gap says nothing about "
            "how often the answer wins. We want the likelihood of the votes.",
        ),
        Mistake(
            "hinge at 0",
            lambda chosen, rejected: torch.relu(rejected - chosen).mean(),
            "That is a hinge: a pair in the right order costs nothing and pulls no more. A vote for it was still "
            "not certain: how likely was it?",
        ),
        Mistake(
            "gap without sigmoid",
            lambda chosen, rejected: -(chosen - rejected).mean(),
            "You push every gap up with the same force, for ever. A pair that is already clear should "
            "pull less: where did the probability go?",
        ),
    ],
    hints=[
        "The loss is how surprised the model is by the labelers' votes: −log of the probability it gave "
        "each, on average.",
        "The probability is σ(chosen − rejected). Do not take its logarithm afterwards: for a gap of −300 it is 0.",
        "torch.nn.functional.logsigmoid does both steps, safely.",
        "return -torch.nn.functional.logsigmoid(chosen_rewards - rejected_rewards).mean()",
    ],
    reason="The votes' likelihood is the product of σ(r_c − r_r); minus its logarithm, divided by the "
    "number of pairs, is the loss. logsigmoid computes log σ(x) = −log(1 + exp(−x)) without ever "
    "forming a σ that rounds to 0, so the loss of a pair that is wrong by 300 is 300, and its "
    "gradient 1.",
)


def _last_token_cases(stream):
    lengths = torch.randint(1, 9, (5,), generator=stream)
    positions = torch.arange(8)
    return [
        Case("two rows, padded on the right", (torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),)),
        Case("five random lengths, a bool mask", (positions < lengths[:, None],)),
        Case("rows without padding", (torch.ones(2, 4, dtype=torch.long),)),
        Case("padding on the left", (torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),)),
        Case("padding on both sides", (torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]),)),
        Case("a batch of one, one token", (torch.tensor([[1, 0, 0]]),)),
    ]


_LAST_TOKEN = Exercise(
    id="reward_model.last_token_index",
    reference=last_token_index,
    cases=_last_token_cases,
    mistakes=[
        Mistake(
            "count instead of index",
            lambda mask: mask.sum(1),
            "You return how many real tokens there are, which is one place too far: positions count from "
            "0. Without padding it points outside the row.",
        ),
        Mistake(
            "count minus one",
            lambda mask: mask.sum(1) - 1,
            "Right while the padding is on the right. A prompt padded on the left moves everything "
            "along: counting tokens does not say where they stand.",
        ),
        Mistake(
            "last column",
            lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
            "That is the last column, in short rows a padding token. The score would be read where "
            "nothing was written.",
        ),
        Mistake(
            "first real token",
            lambda mask: mask.long().argmax(1),
            "argmax over a mask stops at the *first* 1. A causal model has read nothing but the prompt's "
            "first word there.",
        ),
        Mistake(
            "one before the first padding",
            lambda mask: mask.long().argmin(1) - 1,
            "You look for the first 0 and step back. In a row without padding there is no 0, and argmin answers 0.",
        ),
        Mistake(
            "counted from the right",
            lambda mask: mask.long().flip(1).argmax(1),
            "You count from the right edge. The place is wanted from the left: how many columns are there?",
        ),
        Mistake(
            "one too early",
            lambda mask: (torch.arange(mask.shape[1]) * mask).argmax(1) - 1,
            "One token too early. The last token is the end mark, the only place where the model knows "
            "that the answer is complete.",
        ),
    ],
    hints=[
        "You need a place, not a number of tokens. Give every position its own number and look for the "
        "largest that is real.",
        "torch.arange(L) * mask is 0 on padding and the position elsewhere. Where is it largest?",
        "(torch.arange(mask.shape[1], device=mask.device) * mask).argmax(dim=1)",
    ],
    reason="A causal model's last real token is the only one that has read the whole answer, so the "
    "reward is read there. Position × mask is largest at it, wherever the padding is; "
    "`mask.sum(1) − 1` holds for right padding alone, and `ids != pad` would miss the end mark "
    "where the two are one token.",
)


def _ranking_cases(stream):
    return [
        Case("three answers", (["C", "A", "B"],)),
        Case("four answers by number", ([2, 0, 3, 1],)),
        Case("two answers", (["clear", "jargon"],)),
        Case("a single answer", (["A"],)),
        Case("nine answers, the most that InstructGPT ranked", (torch.randperm(9, generator=stream).tolist(),)),
    ]


def _sorted_pairs(pairs):
    return sorted((tuple(pair) for pair in pairs), key=repr)


_PAIRS = Exercise(
    id="reward_model.pairs_from_ranking",
    reference=pairs_from_ranking,
    cases=_ranking_cases,
    normalise=_sorted_pairs,
    mistakes=[
        Mistake(
            "neighbours only",
            lambda ranking: list(pairwise(ranking)),
            "You pair each answer with the next one. The labeler also said that the first beats the third.",
        ),
        Mistake(
            "both orders",
            lambda ranking: list(permutations(ranking, 2)),
            "You have both (A, B) and (B, A). Trained on both, the model learns that neither is better.",
        ),
        Mistake(
            "reversed",
            lambda ranking: [(worse, better) for better, worse in combinations(ranking, 2)],
            "Your pairs put the worse answer first. The ranking is given best first.",
        ),
        Mistake(
            "best against the rest",
            lambda ranking: [(ranking[0], other) for other in ranking[1:]],
            "Only the best answer is compared. What the labeler said about the others is thrown away.",
        ),
        Mistake(
            "pairs with itself",
            lambda ranking: [(a, b) for i, a in enumerate(ranking) for b in ranking[i:]],
            "Some answers meet themselves. Such a pair has gap 0 and teaches nothing: where should the "
            "second loop start?",
        ),
        Mistake(
            "all against the worst",
            lambda ranking: [(other, ranking[-1]) for other in ranking[:-1]],
            "Only the worst answer is compared. What the labeler said about the others is thrown away.",
        ),
        Mistake(
            "places for answers",
            lambda ranking: list(combinations(range(len(ranking)), 2)),
            "Those are places in the list. The pairs should hold the answers that stand there.",
        ),
        Mistake(
            "order of the names",
            lambda ranking: list(combinations(sorted(ranking), 2)),
            "Your pairs follow the answers' names or numbers. What counts is their place in the ranking.",
        ),
    ],
    hints=[
        "Every two answers were compared: K answers hold K(K − 1)/2 pairs. Three hold three.",
        "Whoever stands earlier in the list is better. Pair each answer with everything after it.",
        "itertools.combinations(ranking, 2) keeps the list's order inside each pair.",
    ],
    reason="combinations(ranking, 2) gives each two answers once, the earlier first, and earlier is "
    "better. K = 9 gives 36 pairs from one prompt. They share answers, so InstructGPT put all of "
    "a prompt's pairs into one batch element: shuffled apart, the reward model overfitted.",
)

EXERCISES = [_PROBABILITY, _REWARD_LOSS, _LAST_TOKEN, _PAIRS]
