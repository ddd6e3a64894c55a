"""From logits to log-probabilities, and the sums and means over real tokens that every loss is built from.

Shapes: B completions, T token positions, V words. A mask is 1 (or True) on real tokens and 0 on padding.
Padding never matters, whatever it holds: it is set to 0 *before* any arithmetic, because NaN × 0 is NaN,
and so is the gradient of such a product.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf_course._checks import as_mask, check_number, check_tensor

# How many logits are turned into probabilities at a time: 4 MiB of float32, which fits a processor's cache.
_BLOCK = 2**20


def upcast(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay as they are.

    bfloat16 keeps 8 significant bits: a log-probability near −10 may be off by 0.03, and a sum of many of
    them by far more.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _SelectiveLogSoftmax(torch.autograd.Function):
    """log p = x[id] − logsumexp(x), block by block: no second tensor of the logits' size is kept.

    The gradient is written out by hand, g·(onehot(id) − softmax(x)): autograd would keep a float32 copy of
    half-precision logits.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        rows = max(1, _BLOCK // max(1, logits[0].numel())) if len(logits) else 1
        blocks = zip(logits.split(rows), ids.split(rows))
        logsumexps, logps = [], []
        for x, index in blocks:
            scaled = upcast(x) / temperature if temperature != 1 else upcast(x)
            logsumexps.append(scaled.logsumexp(-1))
            logps.append(scaled.gather(-1, index.unsqueeze(-1)).squeeze(-1) - logsumexps[-1])
        ctx.rows, ctx.temperature = rows, temperature
        ctx.save_for_backward(logits, ids, torch.cat(logsumexps))
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, logsumexp = ctx.saved_tensors
        grad = grad / ctx.temperature
        grad_logits = torch.empty_like(logits)
        tensors = (grad_logits, logits, ids, logsumexp, grad)
        for out, x, index, total, g in zip(*(tensor.split(ctx.rows) for tensor in tensors)):
            probs = (upcast(x) / ctx.temperature - total.unsqueeze(-1)).exp_()
            row = probs.mul_(-g.unsqueeze(-1)).scatter_add_(-1, index.unsqueeze(-1), g.unsqueeze(-1))
            out.copy_(row)
        return grad_logits, None, None


def selective_log_softmax(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probability, in nats, of each chosen word: log softmax(logits / temperature)[ids].

    The same as `logits.log_softmax(-1).gather(-1, ids)`, without the table of all V log-probabilities: one
    number per row is wanted, x[id] − logsumexp(x).

    Args:
        logits: (…, V), at least two dimensions. float16 and bfloat16 are worked out in float32.
        ids: (…) integers from 0 to V − 1. (The label −100 is not a word: use a mask.)
        temperature: above 0; the temperature the words were sampled at.

    Returns:
        (…) log-probabilities, float32 (float64 for float64 logits). Differentiable once, in the logits.
    """
    check_tensor("logits", logits, floating=True)
    check_number("temperature", temperature, low=0, low_open=True)
    if logits.ndim < 2:
        raise ValueError(f"logits must have at least 2 dimensions, (…, V), got shape {tuple(logits.shape)}")
    _check_ids("ids", ids, logits.shape[:-1], logits.shape[-1])
    return _SelectiveLogSoftmax.apply(logits, ids.long(), float(temperature))


def token_logps(logits: Tensor, input_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-probability of every token given those before it, (B, L − 1), for tokens 1 … L − 1.

    The logits at position t speak about the token at t + 1, so everything shifts by one; the matching mask is
    `completion_mask[:, 1:]`.

    Args:
        logits: (B, L, V) as a causal language model returns them.
        input_ids: (B, L) the tokens it was given.
        temperature: above 0, the one the tokens were sampled at; for the policy and the reference alike.
    """
    check_tensor("logits", logits, ndim=3, floating=True)
    _check_ids("input_ids", input_ids, logits.shape[:2], logits.shape[-1])
    # The last position speaks of a token nobody has seen; its number is dropped. (To drop its logits instead
    # would copy all of the others in the backward pass.)
    return selective_log_softmax(logits, input_ids.roll(-1, dims=1), temperature)[:, :-1]


def sequence_logps(logps: Tensor, mask: Tensor, average: bool = False) -> Tensor:
    """The log-probability of each whole completion: log p(y | x) = Σ_t log p(y_t | x, y_<t).

    Args:
        logps: (B, T) log-probabilities of tokens.
        mask: (B, T), 1 on completion tokens (EOS included), 0 on the prompt and padding.
        average: divide by the number of completion tokens (IPO as TRL has it).

    Returns:
        (B,) in nats, or nats per token. A row with no real token gives 0.
    """
    check_tensor("logps", logps, ndim=2, floating=True)
    mask = as_mask("mask", mask, logps)
    return masked_mean(logps, mask, dim=-1) if average else masked_sum(logps, mask, dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """H = −Σ_v p_v log p_v, (…), in nats, from 0 to log V, of the distributions softmax(logits), (…, V).

    Words at −∞ (cut off by top-p, say) have probability 0 and add 0.
    """
    check_tensor("logits", logits, floating=True)
    logp = upcast(logits).log_softmax(-1)
    # 0 × −∞ is NaN. With log p set to 0 there, p log p is the 0 that it is in the limit.
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """The sum of `x` where `mask` is 1, over everything or along `dim`."""
    check_tensor("x", x, floating=True)
    kept = x.masked_fill(~as_mask("mask", mask, x), 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """The mean of `x` where `mask` is 1, over everything or along `dim`; 0 where there is nothing to average.

    A mean of rows' means is something else: there, a short row's tokens count for more.
    """
    check_tensor("x", x, floating=True)
    mask = as_mask("mask", mask, x)
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """The unbiased variance of `x` where `mask` is 1: squared distances from the mean, summed, over n − 1.

    (TRL's former `masked_var` and `torch.var` divide so too.) With one real element, or none, it is 0.
    """
    check_tensor("x", x, floating=True)
    mask = as_mask("mask", mask, x)
    x = x.masked_fill(~mask, 0.0)
    squares = (x - masked_mean(x, mask)).square()
    return masked_sum(squares, mask) / (mask.sum() - 1).clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(x − mean) / √(var + 1e-8) over the positions where `mask` is 1: mean 0 and variance 1; 0 on padding.

    `shift_mean=False` adds the mean back afterwards: it **keeps** the mean and scales only the spread. (At
    least one library has the switch the wrong way round.) Name and formula are those of Ziegler et al.'s
    code (2019), the variance is `masked_var`, unbiased, as in TRL. A single real element whitens to 0, or
    to itself with `shift_mean=False`.
    """
    check_tensor("x", x, floating=True)
    mask = as_mask("mask", mask, x)
    x = x.masked_fill(~mask, 0.0)
    mean = masked_mean(x, mask)
    whitened = (x - mean) * (masked_var(x, mask) + 1e-8).rsqrt()
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def _check_ids(name: str, ids: Tensor, shape: torch.Size, vocabulary: int) -> None:
    check_tensor(name, ids)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got dtype {ids.dtype}")
    if ids.shape != shape:
        raise ValueError(
            f"{name} must have the logits' shape without the last dimension, {tuple(shape)}, got {tuple(ids.shape)}"
        )
    if ids.device.type == "cpu" and ids.numel() and not 0 <= ids.min() <= ids.max() < vocabulary:
        odd = ids[(ids < 0) | (ids >= vocabulary)][0].item()
        raise ValueError(f"{name} must lie from 0 to {vocabulary - 1}, got {odd}")
