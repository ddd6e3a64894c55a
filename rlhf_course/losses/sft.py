"""Supervised fine-tuning: make the demonstrated answer likely."""

from torch import Tensor

from rlhf_course._checks import as_mask, check_tensor
from rlhf_course.losses._reduce import reduce_tokens


def sft_loss(logps: Tensor, mask: Tensor, *, num_items_in_batch: int | Tensor | None = None) -> Tensor:
    """Next-token cross-entropy on the completion: −mean over its tokens of log π(y_t | x, y_<t).

    The prompt is masked out: the model learns to answer, not to ask (Ouyang et al. 2022, §3.5).

    Args:
        logps: (B, T) log-probabilities of the demonstrated tokens.
        mask: (B, T), 1 on completion tokens, EOS included; 0 on the prompt and on padding.
        num_items_in_batch: completion tokens of the whole global batch. Given, the loss is the sum over this
            micro-batch divided by it; without, the mean over this batch.

    Returns:
        The loss, in nats per token. With no completion token at all it is 0.
    """
    check_tensor("logps", logps, ndim=2, floating=True)
    mask = as_mask("mask", mask, logps)
    return reduce_tokens(-logps, mask, num_items_in_batch)
