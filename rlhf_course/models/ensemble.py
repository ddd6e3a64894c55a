"""Several reward models as one: a check on what any single one of them can be talked into."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlhf_course._checks import check_choice, check_number, check_tensor

_METHODS = ("mean", "wco", "uwo")


def combine_rewards(rewards: Tensor, method: str = "mean", weight: float = 0.1) -> Tensor:
    """One reward a text out of K models' (Coste et al. 2023, "Reward Model Ensembles Help Mitigate
    Overoptimization").

    mean: the average.
    wco (worst-case optimisation): the lowest.
    uwo (uncertainty-weighted optimisation): the average − `weight` × variance, the variance over the K models
        and divided by K, so that one model alone has none.

    Args:
        rewards: (K, B) float, row k from model k.
        method: "mean", "wco" or "uwo".
        weight: at least 0, the price of a unit of variance; "uwo" alone uses it.

    Returns:
        (B,).
    """
    check_tensor("rewards", rewards, ndim=2, floating=True)
    check_choice("method", method, _METHODS)
    check_number("weight", weight, low=0)
    if not len(rewards):
        raise ValueError("rewards must come from at least one model, got none")
    if method == "mean":
        return rewards.mean(dim=0)
    if method == "wco":
        return rewards.amin(dim=0)
    return rewards.mean(dim=0) - weight * rewards.var(dim=0, correction=0)


class RewardEnsemble(nn.Module):
    """Reward models that answer as one, called like one of them.

    Args:
        models: at least one model, (input_ids, attention_mask) → (B,).
        method, weight: as in `combine_rewards`.
    """

    def __init__(self, models: Sequence[nn.Module], method: str = "mean", weight: float = 0.1):
        super().__init__()
        if not models or not all(isinstance(model, nn.Module) for model in models):
            raise ValueError("models must be one or more reward models")
        self.models = nn.ModuleList(models)
        self.method = check_choice("method", method, _METHODS)
        self.weight = check_number("weight", weight, low=0)

    @property
    def device(self) -> torch.device:
        """The first model's."""
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The combined rewards (B,)."""
        rewards = torch.stack([model(input_ids, attention_mask) for model in self.models])
        return combine_rewards(rewards, self.method, self.weight)
