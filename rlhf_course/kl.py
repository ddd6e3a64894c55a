"""How far the policy π is from the reference π_ref: estimators, the exact divergence, and controllers of β.

All of it is in nats and in the direction KL(π‖π_ref) = E_{y∼π}[log π(y) − log π_ref(y)], which RLHF keeps
small. The other direction, KL(π_ref‖π), is a different number with a different gradient.
"""

from torch import Tensor, inf

from rlhf_course._checks import check_choice, check_count, check_number, check_same_shape, check_tensor
from rlhf_course.logprobs import upcast


def kl_estimate(logps: Tensor, ref_logps: Tensor, estimator: str) -> Tensor:
    """One sample's estimate of KL(π‖π_ref) at a time, from the log-probabilities of what π sampled.

    With d = log π − log π_ref (Schulman 2020, "Approximating KL divergence"):

        k1 = d                  unbiased; single samples may be negative
        k2 = ½ d²               biased, never negative
        k3 = e^(−d) − 1 + d     unbiased, never negative

    These are statements about **values**, averaged over y ∼ π. Gradients are another matter. On samples
    drawn from π itself, one action at a time (or whole sequences, with the sequence's log-probability), the
    mean's gradient is

        k1      0 in expectation: as a loss it holds nothing back. Right inside the (detached) reward.
        k2      that of KL(π‖π_ref), only while the samples are from the current policy.
        k3      that of the reverse divergence, KL(π_ref‖π).
        ρ·k3    that of KL(π‖π_ref), also when π has moved away from the policy π_old it was sampled from;
                ρ = π/π_old carries a gradient. `ppo_rlhf_loss` and `grpo_loss` use it.

    For the tokens of a sequence, each of these as a loss term gives only every state's own divergence and
    misses what a token does to the states after it. `advantages.kl_shaped_rewards` with the reward still to
    come does not.

    Args:
        logps: any shape, log π of the samples. Not detached.
        ref_logps: the same shape, log π_ref of the same samples.
        estimator: "k1", "k2" or "k3".

    Returns:
        The same shape, in nats. Average with `logprobs.masked_mean`.
    """
    check_tensor("logps", logps, floating=True)
    check_tensor("ref_logps", ref_logps, floating=True)
    check_same_shape(logps=logps, ref_logps=ref_logps)
    check_choice("estimator", estimator, ("k1", "k2", "k3"))
    log_ratio = logps - ref_logps
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    return (-log_ratio).expm1() + log_ratio


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π‖π_ref) = Σ_v π_v (log π_v − log π_ref,v), summed over all V words rather than sampled.

    Args:
        logits: (…, V), of π. Log-probabilities will do: they are logits that are normalised already.
        ref_logits: (…, V), of π_ref.

    Returns:
        (…) in nats, at least 0 up to rounding; ∞ where π gives a word a chance and π_ref gives it none.
        Its gradient is exact.
    """
    check_tensor("logits", logits, floating=True)
    check_tensor("ref_logits", ref_logits, floating=True)
    check_same_shape(logits=logits, ref_logits=ref_logits)
    if logits.ndim < 1:
        raise ValueError("logits must have at least 1 dimension, (…, V), got a single number")
    logp = upcast(logits).log_softmax(-1)
    ref_logp = upcast(ref_logits).log_softmax(-1)
    # Where π is 0 the term is 0, whatever π_ref is there: set it so before 0 × ∞ makes it NaN.
    log_ratio = (logp - ref_logp).masked_fill(logp == -inf, 0.0)
    return (logp.exp() * log_ratio).sum(-1)


def adaptive_beta(beta: float, kl: float, target: float, batch_size: int, horizon: int) -> float:
    """The next β: β·(1 + clip(KL/target − 1, −0.2, 0.2) · n/horizon) (Ziegler et al. 2019).

    Too far from the reference and β grows; too near and it shrinks. The clip keeps one wild batch from
    mattering.

    Args:
        beta: β now, above 0.
        kl: the batch's mean KL **of whole sequences**, in nats. A sampled k1 may be negative.
        target: the KL to hold, above 0, in the same units.
        batch_size: n, the number of sequences the mean is over, at least 1.
        horizon: the number of sequences over which β answers, at least `batch_size`, so that β stays above 0.
    """
    check_number("beta", beta, low=0, low_open=True)
    check_number("kl", kl)
    check_number("target", target, low=0, low_open=True)
    check_count("batch_size", batch_size, low=1)
    check_number("horizon", horizon, low=batch_size)
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * batch_size / horizon)


class FixedKLController:
    """β stays as it was given."""

    def __init__(self, kl_coef: float):
        #: β as it is now.
        self.value = float(check_number("kl_coef", kl_coef, low=0))

    def update(self, kl: float, batch_size: int) -> None:
        """Nothing changes; there so that both controllers are called alike."""


class AdaptiveKLController:
    """β follows the KL, to hold it near `target`: `adaptive_beta` after every batch (Ziegler et al. 2019).

    Args:
        init_kl_coef: the first β, above 0.
        target: nats per sequence, above 0.
        horizon: sequences; the larger, the slower.
    """

    def __init__(self, init_kl_coef: float, target: float = 6.0, horizon: int = 10_000):
        #: β as it is now.
        self.value = float(check_number("init_kl_coef", init_kl_coef, low=0, low_open=True))
        self.target = check_number("target", target, low=0, low_open=True)
        self.horizon = check_count("horizon", horizon, low=1)

    def update(self, kl: float, batch_size: int) -> None:
        """Move β by what the last batch showed: its mean KL per sequence, over `batch_size` sequences."""
        self.value = adaptive_beta(self.value, kl, self.target, batch_size, self.horizon)
