"""The first three exercises of lesson 05: the score spread over tokens, GAE, whitening."""

import torch

from rlhf_course import advantages, logprobs
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


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


def masked_whiten(x, mask):
    mask = mask.to(x.dtype)
    n = mask.sum()
    mean = (x * mask).sum() / n
    variance = ((x - mean).square() * mask).sum() / (n - 1).clamp(min=1)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


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
            "returns from the rewards",
            _gae(returns=lambda a, v, r: a + r),
            "The critic's target is advantage + V: what was expected and by how much that was wrong. You added the "
            "reward.",
        ),
        Mistake(
            "padding takes part",
            _gae(masked=False),
            "Your recursion starts in the padding: the value predicted there is taken for what follows the last real "
            "token. After an answer's end there is nothing.",
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


# ---------------------------------------------------------------------- masked_whiten


def _whiten_cases(stream):
    x = 3 + 2 * torch.randn(4, 5, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    return [
        Case("two answers", (torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]]), _mask([2, 1], 3))),
        Case("answers of different lengths", (x, mask)),
        Case("no padding", (x, torch.ones(4, 5, dtype=torch.long))),
        Case("a mask of booleans", (x, mask.bool())),
        Case("values that are all the same", (torch.full((2, 3), 0.5), _mask([3, 2], 3))),
        Case("numbers around a thousand", (x + 1000, mask), tolerance=1e-2),
    ]


def _whiten(over=None, correction=1, spread=None, padding=0.0):
    def function(x, mask):
        mask = mask.to(x.dtype)
        dims = {} if over is None else {"dim": over, "keepdim": True}
        n = mask.sum(**dims)
        mean = (x * mask).sum(**dims) / n
        variance = ((x - mean).square() * mask).sum(**dims) / (n - correction).clamp(min=1)
        white = (x - mean) * (spread or (lambda v: torch.rsqrt(v + 1e-8)))(variance)
        return white * mask if padding == 0.0 else white

    return function


_WHITEN = Exercise(
    id="ppo.masked_whiten",
    reference=logprobs.masked_whiten,
    answer=masked_whiten,
    cases=_whiten_cases,
    mistakes=[
        Mistake(
            "padding counts",
            lambda x, mask: (x - x.mean()) * torch.rsqrt(x.var() + 1e-8) * mask,
            "Your mean and variance go over the padding too. What stands there is not an advantage of anything.",
        ),
        Mistake(
            "zeros for padding count",
            lambda x, mask: (x * mask - (x * mask).mean()) * torch.rsqrt((x * mask).var() + 1e-8) * mask,
            "You set the padding to 0 and then average over it: each 0 pulls the mean towards 0. Divide by the "
            "number of real tokens.",
        ),
        Mistake(
            "row by row",
            _whiten(over=1),
            "You whiten each answer by itself. An answer that is bad from beginning to end then has as many good "
            "tokens as bad ones. Whom should a token be compared with?",
        ),
        Mistake(
            "divided by the variance",
            _whiten(spread=lambda v: 1 / (v + 1e-8)),
            "You divide by the variance; its root is in the unit of x. Double x, and the result should stay the same.",
        ),
        Mistake(
            "population variance",
            _whiten(correction=0),
            "Your variance divides by n, this one by n − 1, as torch.var does.",
        ),
        Mistake(
            "spread left as it is",
            _whiten(spread=lambda v: torch.ones_like(v)),
            "You took the mean away and left the spread. Whitened, the numbers have variance 1.",
        ),
        Mistake(
            "padding not 0",
            _whiten(padding=None),
            "Behind the answers' ends your result is not 0. A loss that forgets the mask would learn from it.",
        ),
    ],
    hints=[
        "Mean 0 and variance 1, over real tokens alone, of the whole batch.",
        "n = mask.sum(); the mean is (x * mask).sum() / n. The variance divides by n − 1.",
        "(x - mean) * torch.rsqrt(variance + 1e-8) * mask",
    ],
    reason="Advantages come in the unit of the reward, which has none of its own: a reward model may score from −1 "
    "to 1 or from −100 to 100. Whitened, a learning rate means the same for both. The mean goes too, so "
    "that about half of the tokens are praised and half blamed, however generous the judge.",
)

EXERCISES = [_SHAPED, _GAE, _WHITEN]
