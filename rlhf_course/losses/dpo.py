"""Direct preference optimisation and its variants that differ in what they do with the same margin."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlhf_course._checks import check_choice, check_number, check_tensor
from rlhf_course.losses._pairs import check_pair_logps
from rlhf_course.losses._reduce import reduce_examples


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor | None,
    ref_rejected_logps: Tensor | None,
    beta: float = 0.1,
    *,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    reference_free: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """−log σ(β·h), with h = (π_c − π_r) − (ref_c − ref_r) (Rafailov et al. 2023, equation 7).

    β·(log π − log π_ref) is a reward, up to a constant of the prompt, so this is Bradley–Terry on the
    policy's own implicit rewards. With ε = `label_smoothing`, the chance that a label is flipped:

        sigmoid   −(1 − ε)·log σ(βh) − ε·log σ(−βh)                 ε > 0: "conservative" (Mitchell 2023)
        robust    [−(1 − ε)·log σ(βh) + ε·log σ(−βh)] / (1 − 2ε)    unbiased (Chowdhury et al. 2024)
        hinge     max(0, 1 − βh)                                    SLiC's margin (Zhao et al. 2023)

    Args:
        policy_chosen_logps: (B,) log π of the preferred completions, summed over their tokens.
        policy_rejected_logps: (B,) log π of the others.
        ref_chosen_logps: (B,) the frozen reference's of the same completions. Unread with `reference_free`.
        ref_rejected_logps: (B,) likewise.
        beta: β, above 0: how dear it is to leave the reference. Small is cheap.
        loss_type: "sigmoid", "robust" or "hinge".
        label_smoothing: ε from 0 to ½ (for "robust" below ½; not for "hinge").
        reference_free: take the reference's terms for 0, as if it found all completions equally likely.
        reduction: "mean", "sum" or "none".

    Returns:
        The loss; (B,) with "none". "robust" may be negative.
    """
    check_choice("loss_type", loss_type, ("sigmoid", "robust", "hinge"))
    check_number("beta", beta, low=0, low_open=True)
    check_number("label_smoothing", label_smoothing, low=0, high=0.5, high_open=loss_type == "robust")
    if loss_type == "hinge" and label_smoothing > 0:
        raise ValueError(f"label_smoothing must be 0 with loss_type 'hinge', got {label_smoothing}")
    if reference_free:
        check_tensor("policy_chosen_logps", policy_chosen_logps, floating=True)
        ref_chosen_logps = ref_rejected_logps = torch.zeros_like(policy_chosen_logps)
    check_pair_logps(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)

    margin = beta * ((policy_chosen_logps - policy_rejected_logps) - (ref_chosen_logps - ref_rejected_logps))
    right, flipped = -logsigmoid(margin), -logsigmoid(-margin)
    if loss_type == "sigmoid":
        losses = (1 - label_smoothing) * right + label_smoothing * flipped
    elif loss_type == "robust":
        losses = ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    else:
        losses = relu(1 - margin)
    return reduce_examples(losses, reduction)
