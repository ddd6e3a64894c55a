"""The reward model's loss: make the votes likely (Bradley–Terry)."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_course._checks import check_number, check_same_shape, check_tensor
from rlhf_course.losses._reduce import reduce_examples


def reward_loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    margin: Tensor | None = None,
    center_rewards_coefficient: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """−log σ(r_c − r_r − margin) + c·(r_c + r_r)², the negative log-likelihood of the labelers' choices.

    P(chosen ≻ rejected) = σ(r_c − r_r) (Bradley and Terry 1952; Ouyang et al. 2022, equation 1). Only the
    difference counts: a reward has no zero. The centring term gives it one, by asking each pair to sum to 0
    (Eisenstein et al. 2023). A margin asks for a wider gap where the labelers were surer (Llama 2, §3.2.2).

    Args:
        chosen_rewards: (B,) scores of the preferred answers.
        rejected_rewards: (B,) scores of the others.
        margin: (B,) in units of the reward, or None for 0.
        center_rewards_coefficient: c, at least 0. Off by default; 0.01 when on.
        reduction: "mean", "sum" or "none".

    Returns:
        The loss in nats (plus the centring term); (B,) with "none".
    """
    check_tensor("chosen_rewards", chosen_rewards, floating=True)
    check_tensor("rejected_rewards", rejected_rewards, floating=True)
    if margin is not None:
        check_tensor("margin", margin)
    check_same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margin=margin)
    check_number("center_rewards_coefficient", center_rewards_coefficient, low=0)

    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        gap = gap - margin
    losses = -logsigmoid(gap)
    if center_rewards_coefficient > 0:
        losses = losses + center_rewards_coefficient * (chosen_rewards + rejected_rewards).square()
    return reduce_examples(losses, reduction)
