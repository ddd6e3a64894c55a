"""The four log-probabilities of a preference pair, and the one number that losses make of them."""

from torch import Tensor

from rlhf_course._checks import check_same_shape, check_tensor


def check_pair_logps(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
) -> None:
    """Refuse what is not four tensors (B,) of real numbers."""
    named = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "ref_chosen_logps": ref_chosen_logps,
        "ref_rejected_logps": ref_rejected_logps,
    }
    for name, logps in named.items():
        check_tensor(name, logps, ndim=1, floating=True)
    check_same_shape(**named)
