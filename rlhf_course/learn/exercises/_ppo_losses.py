"""The last two exercises of lesson 05: the two clipped losses."""

import torch

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def ppo_clip_loss(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    token_loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return (token_loss * mask).sum() / mask.sum()


def ppo_value_loss(values, old_values, returns, mask, cliprange_value=0.2):
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    squares = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * (squares * mask).sum() / mask.sum()


def _mask(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def _mean(x, mask):
    return (x * mask).sum() / mask.sum()


# ---------------------------------------------------------------------- ppo_clip_loss


def _clip_cases(stream):
    old = -3 * torch.rand(4, 5, generator=stream)
    new = old + 0.4 * torch.randn(4, 5, generator=stream)
    spread = torch.randn(4, 5, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    quadrants = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log()
    zero, signs = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    return [
        Case("the four quadrants: ratio 1.5 and 0.5, advantage 1 and −1", (quadrants, zero, signs, _mask([4], 4), 0.2)),
        Case("answers of different lengths", (new, old, spread, mask, 0.2)),
        Case("a narrow clip", (new, old, spread, mask, 0.05)),
        Case("the first pass, where the ratio is 1", (old, old.clone(), spread, mask, 0.2)),
        Case("only good tokens", (new, old, spread.abs(), mask, 0.2)),
        Case("only bad tokens", (new, old, -spread.abs(), mask, 0.2)),
        Case("one answer, a mask of booleans", (new[:1], old[:1], spread[:1], mask[2:3].bool(), 0.2)),
    ]


def _clip(ratio=None, objective=None, average=None):
    def loss(logps, old_logps, advantages, mask, epsilon=0.2):
        rho = (ratio or (lambda new, old: (new - old).exp()))(logps, old_logps)
        clipped = rho.clamp(1 - epsilon, 1 + epsilon)
        wanted = (objective or (lambda r, c, a: torch.minimum(r * a, c * a)))(rho, clipped, advantages)
        return (average or _mean)(-wanted, mask)

    return loss


_CLIP = Exercise(
    id="ppo.ppo_clip_loss",
    reference=losses.ppo_clip_loss,
    answer=ppo_clip_loss,
    cases=_clip_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "maximum for minimum",
            _clip(objective=lambda r, c, a: torch.maximum(r * a, c * a)),
            "You take the larger of the two. The clip must take gains away and never harm: where a bad token has "
            "become likelier, what does yours do to the gradient?",
        ),
        Mistake(
            "the clipped ratio alone",
            _clip(objective=lambda r, c, a: c * a),
            "You use the clipped ratio everywhere. Outside the clip the gradient is then 0 in all four quadrants, "
            "also where a bad token has become likelier and must still be pushed back.",
        ),
        Mistake(
            "no clip",
            _clip(objective=lambda r, c, a: r * a),
            "Nothing stops your ratio. After a few passes over one batch the policy has left the place where these "
            "answers say anything about it.",
        ),
        Mistake(
            "reversed",
            lambda *args: -ppo_clip_loss(*args),
            "Your loss falls when good tokens get rarer. An optimiser goes downhill: which sign makes that a gain?",
        ),
        Mistake(
            "ratio upside down",
            _clip(ratio=lambda new, old: (old - new).exp()),
            "Your ratio is π_old/π. It falls where a good token gets likelier: gains look like losses.",
        ),
        Mistake(
            "log-ratio for ratio",
            _clip(ratio=lambda new, old: new - old),
            "You clip the difference of the log-probabilities. The clip is around 1, and the ratio is its exponential.",
        ),
        Mistake(
            "minimum by the absolute value",
            _clip(objective=lambda r, c, a: torch.minimum(r, c) * a),
            "You take the smaller *ratio* and multiply afterwards. For a negative advantage the smaller product "
            "comes from the larger ratio.",
        ),
        Mistake(
            "mean over the padding",
            _clip(average=lambda x, mask: (x * mask).mean()),
            "You divide by the size of the table, padding included. The same answers beside a longer one would "
            "count less.",
        ),
        Mistake(
            "mean of each answer's mean",
            _clip(average=lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean()),
            "You average within each answer first, and a token of a short answer weighs more. PPO's mean is over "
            "all real tokens of the batch. (GRPO's was the other: lesson 08.)",
        ),
        Mistake(
            "mask ignored",
            _clip(average=lambda x, mask: x.mean()),
            "The mask changes nothing in yours: padding has a say. Average over the tokens where it is 1.",
        ),
        Mistake(
            "sum",
            _clip(average=lambda x, mask: (x * mask).sum()),
            "You add the tokens up. It is a mean over the real ones, so that a larger batch takes no longer steps.",
        ),
        Mistake(
            "no average",
            _clip(average=lambda x, mask: x * mask),
            "One number for each token is right so far. Training needs one for the batch.",
        ),
        Mistake(
            "clipped around 0",
            lambda logps, old_logps, advantages, mask, epsilon=0.2: _mean(
                -torch.minimum(
                    (logps - old_logps).exp() * advantages,
                    (logps - old_logps).exp().clamp(-epsilon, epsilon) * advantages,
                ),
                mask,
            ),
            "You clip the ratio to ±ε. A token that has not moved has the ratio 1: there the clip has its centre.",
        ),
        Mistake(
            "log-ratio clipped",
            lambda logps, old_logps, advantages, mask, epsilon=0.2: _mean(
                -torch.minimum(
                    (logps - old_logps).exp() * advantages,
                    (logps - old_logps).clamp(-epsilon, epsilon).exp() * advantages,
                ),
                mask,
            ),
            "You clip the log-ratio to ±ε and take the exponential afterwards: that gives 0.82 to 1.22 for ε = 0.2. "
            "It is the ratio that goes from 0.8 to 1.2.",
        ),
        Mistake(
            "clipped from above only",
            lambda logps, old_logps, advantages, mask, epsilon=0.2: _mean(
                -torch.minimum(
                    (logps - old_logps).exp() * advantages,
                    (logps - old_logps).exp().clamp(max=1 + epsilon) * advantages,
                ),
                mask,
            ),
            "Your clip has an upper end alone. A bad token's gain lies on the other side: it has to stop below 1 − ε.",
        ),
        Mistake(
            "product clipped",
            lambda logps, old_logps, advantages, mask, epsilon=0.2: _mean(
                -torch.minimum(
                    (logps - old_logps).exp() * advantages,
                    ((logps - old_logps).exp() * advantages).clamp(1 - epsilon, 1 + epsilon),
                ),
                mask,
            ),
            "You clip the product of ratio and advantage. Clip the ratio first: an advantage may be of any size.",
        ),
        Mistake(
            "quotient of logarithms",
            _clip(ratio=lambda new, old: new / old),
            "You divide log-probabilities. The logarithm of a ratio is a *difference* of logarithms.",
        ),
    ],
    hints=[
        "Two candidates for each token: ratio times advantage, and clipped ratio times advantage. Be pessimistic.",
        "ratio = exp(logps − old_logps); clipped = ratio.clamp(1 − ε, 1 + ε).",
        "It is the *products* of which the smaller is taken. Then a minus, for optimisers minimise.",
        "-torch.minimum(ratio * advantages, clipped * advantages), averaged over the real tokens.",
    ],
    reason="At ratio 1 the gradient is the policy gradient, A·∇log π. A token that has already moved by more than "
    "ε the way its advantage asks gains nothing more; one that moved the wrong way is pushed back, clip or "
    "no clip. That is why the minimum is over products: the sign of the advantage decides which side is the "
    "gain.",
)


# ---------------------------------------------------------------------- ppo_value_loss


def _value_cases(stream):
    old = torch.randn(4, 5, generator=stream)
    new = old + 0.3 * torch.randn(4, 5, generator=stream)
    returns = torch.randn(4, 5, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    one = torch.tensor([[0.5, 1.5, 0.9]]), torch.tensor([[0.5, 0.5, 1.0]]), torch.tensor([[1.0, 2.0, 0.0]])
    return [
        Case("one answer of three tokens", (*one, _mask([3], 3), 0.2)),
        Case("answers of different lengths", (new, old, returns, mask, 0.2)),
        Case("a narrow clip", (new, old, returns, mask, 0.05)),
        Case("the first pass, where nothing has moved", (old, old.clone(), returns, mask, 0.2), gradient=False),
        Case("one answer, a mask of booleans", (new[:1], old[:1], returns[:1], mask[2:3].bool(), 0.2)),
    ]


def _value(squares, factor=0.5, average=_mean):
    def loss(values, old_values, returns, mask, cliprange_value=0.2):
        clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
        return factor * average(squares(values, clipped, returns, cliprange_value), mask)

    return loss


def _larger(values, clipped, returns, _):
    return torch.maximum((values - returns).square(), (clipped - returns).square())


_VALUE = Exercise(
    id="ppo.ppo_value_loss",
    reference=losses.ppo_value_loss,
    answer=ppo_value_loss,
    cases=_value_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "minimum for maximum",
            _value(lambda v, c, r, e: torch.minimum((v - r).square(), (c - r).square())),
            "You take the smaller error. Pessimism about a *loss* is the larger one: the critic gains nothing by "
            "moving further than it may.",
        ),
        Mistake(
            "no clip",
            _value(lambda v, c, r, e: (v - r).square()),
            "That is plain squared error. The critic, too, is held near where it was when the batch was sampled.",
        ),
        Mistake(
            "the clipped value alone",
            _value(lambda v, c, r, e: (c - r).square()),
            "You use the clipped value everywhere. Once it is outside, nothing ever calls it back.",
        ),
        Mistake(
            "without the half",
            _value(_larger, factor=1.0),
            "Twice too large: ½·(V − R)² has the derivative V − R, and vf_coef was chosen for that.",
        ),
        Mistake(
            "clipped like a ratio",
            lambda v, o, r, m, e=0.2: (
                0.5 * _mean(torch.maximum((v - r).square(), (v.clamp(1 - e, 1 + e) - r).square()), m)
            ),
            "You clip the value around 1. A ratio starts at 1; a value starts at the old value, and is clipped "
            "around that.",
        ),
        Mistake(
            "the error clipped",
            lambda v, o, r, m, e=0.2: 0.5 * _mean((v - r).clamp(-e, e).square(), m),
            "You limit the *error*. A value that is far off then learns nothing, and it is the one that should learn "
            "most. What is limited is how far a value moves from its old self.",
        ),
        Mistake(
            "clipped around 0",
            lambda v, o, r, m, e=0.2: 0.5 * _mean(torch.maximum((v - r).square(), (v.clamp(-e, e) - r).square()), m),
            "You clip the value itself to ±c. Its *change* is clipped: how far it is from the old value.",
        ),
        Mistake(
            "the change for the value",
            lambda v, o, r, m, e=0.2: (
                0.5 * _mean(torch.maximum((v - r).square(), ((v - o).clamp(-e, e) - r).square()), m)
            ),
            "You compare the clipped *change* with the returns. Add it to the old value first.",
        ),
        Mistake(
            "larger value for larger error",
            _value(lambda v, c, r, e: (torch.maximum(v, c) - r).square()),
            "You take the larger *value*. Which of the two has the larger error depends on the side on which the "
            "return lies: square first, then compare.",
        ),
        Mistake(
            "mask ignored",
            _value(_larger, average=lambda x, mask: x.mean()),
            "The mask changes nothing in yours: the critic is told off for what it says of padding.",
        ),
        Mistake(
            "sum",
            _value(_larger, average=lambda x, mask: (x * mask).sum()),
            "You add the tokens up. It is a mean over the real ones, so that a larger batch takes no longer steps.",
        ),
        Mistake(
            "mean of each answer's mean",
            _value(_larger, average=lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean()),
            "You average within each answer first, and a token of a short answer weighs more. The mean is over all "
            "real tokens of the batch.",
        ),
        Mistake(
            "mean over the padding",
            _value(_larger, average=lambda x, mask: (x * mask).mean()),
            "You divide by the size of the table, padding included. The same answers beside a longer one would "
            "count less.",
        ),
    ],
    hints=[
        "Two candidates for each token, as before: the error of the value, and of the value that moved no more than c.",
        "clipped = old_values + (values − old_values).clamp(−c, c)",
        "0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), averaged over the real tokens.",
    ],
    reason="The critic is trained on the same few answers for several passes, and would learn them by heart. The "
    "clip takes away what it gains beyond c; the maximum keeps what it loses. (Whether the value's clip "
    "helps is disputed: Andrychowicz et al. 2021 found that it does not. It is here because Ziegler et al. "
    "2019, and most of RLHF after them, have it.)",
)

EXERCISES = [_CLIP, _VALUE]
