"""The first two exercises of lesson 05: the score spread over tokens, and GAE."""

import torch

from rlhf_course import advantages
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.learn.exercises._ppo_whitening import masked_whiten


def kl_shaped_rewards(scores, logps, ref_logps, mask, beta):
    rewards = -beta * (logps - ref_logps) * mask
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
    return rewards + last * scores[:, None]


def gae(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value, next_advantage = values[:, t] * mask[:, t], advantages[:, t]
    return advantages, (advantages + values) * mask


def _mask(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


# ---------------------------------------------------------------------- kl_shaped_rewards


def _shaped_cases(stream):
    logps = -3 * torch.rand(4, 5, generator=stream)
    ref = logps + 0.5 * torch.randn(4, 5, generator=stream)
    scores = torch.randn(4, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    two = torch.tensor([[-1.0, -2.0, -0.5], [-0.5, -1.0, 0.0]]), torch.tensor([[-1.5, -2.0, -2.5], [-1.5, -1.0, 0.0]])
    return [
        Case("answers of three and of two tokens", (torch.tensor([3.7, 2.1]), *two, _mask([3, 2], 3), 0.1)),
        Case("answers of different lengths", (scores, logps, ref, mask, 0.1)),
        Case("no price, β = 0", (scores, logps, ref, mask, 0.0)),
        Case("a high price", (scores, logps, ref, mask, 2.0)),
        Case("the policy is the reference", (scores, logps, logps.clone(), mask, 0.1)),
        Case("one answer of one token", (scores[:1], logps[:1, :1], ref[:1, :1], _mask([1], 1), 0.1)),
        Case("as many answers as tokens", (scores[:3], logps[:3, :3], ref[:3, :3], _mask([1, 3, 2], 3), 0.1)),
    ]


def _shaped(kl=None, place=None):
    """A wrong reward that differs from the right one in the price of the KL or in the place of the score."""

    def rewards(scores, logps, ref_logps, mask, beta):
        paid = beta * (kl or (lambda new, ref: ref - new))(logps, ref_logps) * mask
        right = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
        return paid + (right if place is None else place(mask)) * scores[:, None]

    return rewards


def _last_column(mask):
    place = torch.zeros_like(mask)
    place[:, -1] = 1
    return place


def _first_column(mask):
    place = torch.zeros_like(mask)
    place[:, 0] = 1
    return place


def _second_to_last(mask):
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
    moved = last.roll(-1, dims=1)
    moved[:, -1] = 0
    return moved


def _replaced(scores, logps, ref_logps, mask, beta):
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last == 1, scores[:, None], -beta * (logps - ref_logps) * mask)


def _all_at_the_end(scores, logps, ref_logps, mask, beta):
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
    return last * (scores - beta * ((logps - ref_logps) * mask).sum(1))[:, None]


def _behind_the_end(scores, logps, ref_logps, mask, beta):
    rewards = -beta * (logps - ref_logps) * mask
    rewards[torch.arange(len(scores)), mask.sum(1)] += scores
    return rewards


_SHAPED = Exercise(
    id="ppo.kl_shaped_rewards",
    reference=advantages.kl_shaped_rewards,
    answer=kl_shaped_rewards,
    cases=_shaped_cases,
    mistakes=[
        Mistake(
            "drifting is rewarded",
            _shaped(kl=lambda new, ref: new - ref),
            "A token that the policy finds likelier than the reference does *earns* something in your reward. β is a "
            "price: should drifting be paid for, or paid?",
        ),
        Mistake(
            "score on every token",
            _shaped(place=lambda mask: mask),
            "You add the score at every token, so a long answer collects it many times over. How often was the answer "
            "judged?",
        ),
        Mistake(
            "score in the last column",
            _shaped(place=_last_column),
            "You put the score in the last column of the batch. For a short answer that is padding, and what "
            "stands there is never looked at: its score is lost. Where does this row end?",
        ),
        Mistake(
            "score in the last column, then masked",
            _shaped(place=lambda mask: _last_column(mask) * mask),
            "Only the longest answers get their score in yours. It stands in the last column, and for the others the "
            "mask then wipes it out. Where does each row end?",
        ),
        Mistake(
            "score in place of the price",
            _replaced,
            "On the last token your score *replaces* what the KL costs there. Both are paid: the score is added.",
        ),
        Mistake(
            "price at the end",
            _all_at_the_end,
            "You charge an answer's whole KL at its last token. The sum is right, but each token is to pay for its own "
            "drift, where it arises.",
        ),
        Mistake(
            "one number an answer",
            lambda scores, logps, ref_logps, mask, beta: scores - beta * ((logps - ref_logps) * mask).sum(1),
            "That is what each answer earns in all, (B,). Here it is to be spread over the tokens, (B, T), each with "
            "what it is paid.",
        ),
        Mistake(
            "score shared out",
            _shaped(place=lambda mask: mask / mask.sum(1, keepdim=True)),
            "You give every token an equal part of the score. Which token deserves what is for the advantages to find "
            "out; paid is the score once, when the answer is done.",
        ),
        Mistake(
            "score on the first token",
            _shaped(place=_first_column),
            "The score comes when the answer is done. Which token's choice completed it?",
        ),
        Mistake(
            "score one token early",
            _shaped(place=_second_to_last),
            "Your score stands one token before the end. The token that ends the answer then gets no part of it, "
            "and the policy never learns when to stop.",
        ),
        Mistake(
            "no price at all",
            _shaped(kl=lambda new, ref: torch.zeros_like(new)),
            "Your rewards hold the score and no KL. With β = 0 that is right; what is to keep the policy near the "
            "reference otherwise?",
        ),
        Mistake(
            "β left out",
            lambda scores, logps, ref_logps, mask, beta: advantages.kl_shaped_rewards(
                scores, logps, ref_logps, mask, 1.0
            ),
            "β changes nothing in yours: a nat always costs 1. How much of the score does one nat cost?",
        ),
        Mistake(
            "one place behind the end",
            _behind_the_end,
            "mask.sum(1) counts the real tokens. Positions are counted from 0, so the last one stands one before that.",
        ),
        Mistake(
            "squared log-ratio",
            _shaped(kl=lambda new, ref: -0.5 * (new - ref).square()),
            "You charge half the squared log-ratio, k2. In the reward the plain log-ratio is exact: summed over an "
            "answer it is log π − log π_ref of the whole answer.",
        ),
        Mistake(
            "the padding pays too",
            lambda scores, logps, ref_logps, mask, beta: (
                -beta * (logps - ref_logps) + (mask * (mask.flip(1).cumsum(1).flip(1) == 1)) * scores[:, None]
            ),
            "Positions behind the end of an answer get a reward in yours. Nobody chose those tokens.",
        ),
    ],
    hints=[
        "Two payments. At every token: −β times how much likelier the policy found it than the reference did. At the "
        "end of the answer: the score.",
        "The last real token is the one from which exactly one real token is left, itself. Count the mask from the "
        "back.",
        "mask.flip(1).cumsum(1).flip(1) counts the real tokens still to come, this one included.",
        "rewards = -beta * (logps - ref_logps) * mask; last = mask * (to_come == 1); rewards + last * scores[:, None]",
    ],
    reason="The reward model reads whole answers, so its score comes once, at the end. The KL is paid where it "
    "arises, token by token. Summed over a row this is score − β·(log π(answer) − log π_ref(answer)): the "
    "objective of lesson 04.",
)


# ---------------------------------------------------------------------- gae


def _gae_cases(stream):
    rewards = torch.randn(4, 5, generator=stream)
    values = torch.randn(4, 5, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    one = torch.tensor([[-0.1, -0.2, 1.0]]), torch.tensor([[0.5, 0.4, 0.3]]), _mask([3], 3)
    return [
        Case("one answer of three tokens", (*one, 1.0, 0.95)),
        Case("answers of different lengths", (rewards * mask, values, mask, 1.0, 0.95)),
        Case("λ = 0, the critic alone", (rewards * mask, values, mask, 1.0, 0.0)),
        Case("λ = 1, the rewards alone", (rewards * mask, values, mask, 1.0, 1.0)),
        Case("γ = 0.9", (rewards * mask, values, mask, 0.9, 0.8)),
        Case("one token", (rewards[:1, :1], values[:1, :1], _mask([1], 1), 1.0, 0.95)),
    ]


def _gae(delta=None, carry=None, returns=None, masked=True):
    """A wrong GAE that differs from the right one in one part."""

    def function(rewards, values, mask, gamma, lam):
        found = torch.zeros_like(rewards)
        next_value = next_advantage = torch.zeros_like(rewards[:, 0])
        for t in reversed(range(rewards.shape[1])):
            step = (delta or (lambda r, v, w, g: r + g * w - v))(rewards[:, t], values[:, t], next_value, gamma)
            factor = gamma * lam if carry is None else carry(gamma, lam)
            kept = mask[:, t] if masked else torch.ones_like(mask[:, t])
            found[:, t] = (step + factor * next_advantage) * kept
            next_value, next_advantage = values[:, t] * kept, found[:, t]
        targets = (returns or (lambda a, v, r: a + v))(found, values, rewards)
        return found * mask, targets * mask

    return function


def _bootstrapped(rewards, values, mask, gamma, lam):
    rewards = torch.cat([rewards[:, :-1], rewards[:, -1:] + gamma * values[:, -1:]], dim=1)
    return gae(rewards, values, mask, gamma, lam)


def _backwards_or_not(rewards, values, next_values, mask, factor, columns):
    deltas, found, carried = (rewards + next_values - values) * mask, torch.zeros_like(rewards), 0.0
    for t in columns:
        carried = deltas[:, t] + factor * carried
        found[:, t] = carried
    return found * mask, (found + values) * mask


def _shifted(x):
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)


def _forwards(rewards, values, mask, gamma, lam):
    next_values = gamma * _shifted(values * mask)
    return _backwards_or_not(rewards, values, next_values, mask, gamma * lam, range(rewards.shape[1]))


def _padding_follows(rewards, values, mask, gamma, lam):
    columns = reversed(range(rewards.shape[1]))
    return _backwards_or_not(rewards, values, gamma * _shifted(values), mask, gamma * lam, columns)


def _whitened(rewards, values, mask, gamma, lam):
    found, _ = gae(rewards, values, mask, gamma, lam)
    white = masked_whiten(found, mask)
    return white, (white + values) * mask


_GAE = Exercise(
    id="ppo.gae",
    reference=advantages.gae,
    answer=gae,
    cases=_gae_cases,
    mistakes=[
        Mistake(
            "nothing after this step",
            _gae(delta=lambda r, v, w, g: r - v),
            "Your δ compares the reward with V alone. What the next state is worth belongs to what this step brought: "
            "r + γ·V(next) − V.",
        ),
        Mistake(
            "values the wrong way round",
            _gae(delta=lambda r, v, w, g: r + v - g * w),
            "In your δ the value before the step is added and the one after it taken away. Which of them was "
            "expected, and which is what you now have?",
        ),
        Mistake(
            "no λ",
            _gae(carry=lambda gamma, lam: gamma),
            "You hand on the whole of the later advantage, as if λ were 1. Each step back should trust it λ times "
            "less.",
        ),
        Mistake(
            "one step only",
            _gae(carry=lambda gamma, lam: 0.0),
            "Your advantage is δ alone: λ = 0, whatever λ was asked for. What went better later is owed to this "
            "token too.",
        ),
        Mistake(
            "γ left out of what is carried",
            _gae(carry=lambda gamma, lam: lam),
            "What is carried back is λ times the later advantage in yours; it is also discounted, by γ.",
        ),
        Mistake(
            "no γ",
            lambda rewards, values, mask, gamma, lam: gae(rewards, values, mask, 1.0, lam),
            "γ changes nothing in yours. It stands twice: in δ before the next value, and beside λ.",
        ),
        Mistake(
            "last value follows itself",
            _bootstrapped,
            "In the last column you take its own V for the next one. Behind the end nothing is to come: V is 0 there.",
        ),
        Mistake(
            "forwards",
            _forwards,
            "You go from the first token to the last, and so each advantage collects what came *before* it. A_t needs "
            "A_{t+1}: begin at the end.",
        ),
        Mistake(
            "padding's values count",
            _padding_follows,
            "For the last real token your next value is what the critic says of the padding. Behind an answer's end "
            "nothing is to come: set it to 0 there.",
        ),
        Mistake(
            "returns from the rewards",
            _gae(returns=lambda a, v, r: a + r),
            "The critic's target is advantage + V: what was expected and by how much that was wrong. You added the "
            "reward.",
        ),
        Mistake(
            "returns without the values",
            _gae(returns=lambda a, v, r: a),
            "Your returns are the advantages. The critic is to be told what it should have *said*: what it did say, "
            "and by how much that was wrong.",
        ),
        Mistake(
            "returns are what was paid",
            _gae(returns=lambda a, v, r: r.flip(1).cumsum(1).flip(1)),
            "Your returns are the rewards still to come: right at λ = 1 alone. At a smaller λ the target leans on the "
            "critic as much as the advantages do: R = A + V.",
        ),
        Mistake(
            "returns first",
            lambda *args: gae(*args)[::-1],
            "Both are right, and in the wrong order: advantages first, then returns.",
        ),
        Mistake(
            "advantages only",
            lambda *args: gae(*args)[0],
            "The advantages are right. The critic's returns are wanted, too: return both, as a pair.",
        ),
        Mistake(
            "padding takes part",
            _gae(masked=False),
            "Your recursion starts in the padding: the value predicted there is taken for what follows the last real "
            "token. After an answer's end there is nothing.",
        ),
        Mistake(
            "mask ignored",
            lambda rewards, values, mask, gamma, lam: gae(rewards, values, torch.ones_like(mask), gamma, lam),
            "The mask changes nothing in yours: it goes on behind the answers' ends, and hands back what the critic "
            "says of padding. Nothing is to come there, and both results are 0.",
        ),
        Mistake(
            "whitened already",
            _whitened,
            "Your advantages have mean 0 and spread 1, and the returns are built on them. The critic would then learn "
            "numbers that have lost their unit. Whiten later, the advantages only.",
        ),
    ],
    hints=[
        "Begin at the last token: there only the reward and V are left. Then one token back, and you know what "
        "comes after.",
        "δ_t = r_t + γ·V_{t+1} − V_t, and A_t = δ_t + γλ·A_{t+1}; behind the last real token V and A are 0.",
        "Loop t from the last column to the first, carry next_value and next_advantage, and set both to 0 where "
        "the mask is.",
        "delta = rewards[:, t] + gamma * next_value - values[:, t]; returns = advantages + values",
    ],
    reason="λ chooses whom to believe. At 0 the critic's next guess stands for everything that follows: little "
    "noise, and whatever the critic has wrong. At 1 the rewards themselves do: nothing wrong, and much "
    "noise. The sum of δs telescopes, so at λ = 1 and γ = 1 the advantage is the reward still to come minus "
    "V.",
)

EXERCISES = [_SHAPED, _GAE]
