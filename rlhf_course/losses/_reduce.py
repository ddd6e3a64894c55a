"""From one loss per token, or per example, to the number that is minimised."""

from torch import Tensor

from rlhf_course._checks import check_choice, check_num_items
from rlhf_course.logprobs import masked_mean, masked_sum


def reduce_examples(losses: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of (B,) losses, or, with "none", all of them."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    return losses if reduction == "none" else getattr(losses, reduction)()


def reduce_tokens(token_loss: Tensor, mask: Tensor, num_items_in_batch: int | Tensor | None) -> Tensor:
    """The mean over real tokens, or their sum divided by `num_items_in_batch`, the whole global batch's.

    With gradient accumulation the second is the one that is right: the sums of the micro-batches, each
    divided by the same number, add up to the mean of the whole batch. A mean of their means does not.
    """
    items = check_num_items(num_items_in_batch)
    if items is None:
        return masked_mean(token_loss, mask)
    if isinstance(items, Tensor):
        return masked_sum(token_loss, mask) / items.to(token_loss.device).clamp(min=1)
    return masked_sum(token_loss, mask) / max(items, 1)
