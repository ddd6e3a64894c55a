"""The third exercise of lesson 05: whitening."""

import torch

from rlhf_course import logprobs
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def masked_whiten(x, mask):
    mask = mask.to(x.dtype)
    n = mask.sum()
    mean = (x * mask).sum() / n
    variance = ((x - mean).square() * mask).sum() / (n - 1).clamp(min=1)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def _mask(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


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
            "no mask",
            lambda x, mask: (x - x.mean()) * torch.rsqrt(x.var() + 1e-8),
            "The mask changes nothing in yours. Mean and variance are over its tokens alone, and the rest becomes 0.",
        ),
        Mistake(
            "real tokens only",
            lambda x, mask: (x[mask.bool()] - x[mask.bool()].mean()) * torch.rsqrt(x[mask.bool()].var() + 1e-8),
            "The numbers are right, and their places are gone: x[mask] is one long row. Use it for the mean and the "
            "variance, and return the shape (B, T).",
        ),
        Mistake(
            "mask as an index",
            lambda x, mask: (x - x[mask].mean()) * torch.rsqrt(x[mask].var() + 1e-8) * mask,
            "x[mask] picks *rows* 0 and 1 when the mask holds whole numbers. Only a mask of booleans picks tokens: "
            "mask.bool().",
        ),
        Mistake(
            "divided by 0",
            lambda x, mask: (x - x[mask.bool()].mean()) / x[mask.bool()].std() * mask,
            "Right, until all the numbers are the same: their spread is 0, and 0/0 is not a number. Add something "
            "tiny, such as 1e-8, to the variance under the root.",
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

EXERCISES = [_WHITEN]
