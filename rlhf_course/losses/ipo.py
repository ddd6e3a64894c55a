"""Identity preference optimisation: a margin to reach, not to exceed."""

from torch import Tensor

from rlhf_course._checks import check_number, check_same_shape, check_tensor
from rlhf_course.losses._pairs import check_pair_logps
from rlhf_course.losses._reduce import reduce_examples


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    *,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """(Δ − 1/(2β))², where Δ = (π_c − ref_c) − (π_r − ref_r) (Azar et al. 2023, equation 17; their τ is β).

    DPO's loss falls for ever as the margin grows; this one is least at Δ = 1/(2β) and rises after it.
    β = 0.1 asks for 5 nats: of the whole completions by sums (Mitchell), but **per token** by averages (TRL,
    HALOs).

    Args:
        policy_chosen_logps: (B,) log π of the preferred completions, summed over their tokens.
        policy_rejected_logps: (B,) log π of the others.
        ref_chosen_logps: (B,) the frozen reference's of the same completions.
        ref_rejected_logps: (B,) likewise.
        beta: β, above 0.
        chosen_lengths: (B,) tokens of the preferred completions. With both lengths, each log-ratio is divided
            by its completion's length; without, Δ is of sums.
        rejected_lengths: (B,) tokens of the others. An empty completion, whose sums are 0, counts as 1.
        reduction: "mean", "sum" or "none".

    Returns:
        The loss in nats²; (B,) with "none".
    """
    check_pair_logps(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    check_number("beta", beta, low=0, low_open=True)
    if (chosen_lengths is None) != (rejected_lengths is None):
        missing = "chosen_lengths" if chosen_lengths is None else "rejected_lengths"
        raise ValueError(f"chosen_lengths and rejected_lengths must be given together, got {missing}=None")

    chosen = policy_chosen_logps - ref_chosen_logps
    rejected = policy_rejected_logps - ref_rejected_logps
    if chosen_lengths is not None:
        _check_lengths("chosen_lengths", chosen_lengths, chosen)
        _check_lengths("rejected_lengths", rejected_lengths, rejected)
        chosen = chosen / chosen_lengths.clamp(min=1)
        rejected = rejected / rejected_lengths.clamp(min=1)
    losses = (chosen - rejected - 1 / (2 * beta)).square()
    return reduce_examples(losses, reduction)


def _check_lengths(name: str, lengths: Tensor, logps: Tensor) -> None:
    check_tensor(name, lengths)
    check_same_shape(**{name: lengths, "policy_chosen_logps": logps})
    if lengths.device.type == "cpu" and lengths.numel() and lengths.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {lengths.min().item()}")
