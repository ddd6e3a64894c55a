"""The critic: what reward a policy may expect from here on, at every token."""

import copy
from typing import Self

from torch import Tensor

from rlhf_course.logprobs import upcast
from rlhf_course.models.reward import RewardModel, ScalarHeadModel


class ValueModel(ScalarHeadModel):
    """V(s_t): one number at every position, the reward model's shape without its choice of the last token."""

    @classmethod
    def from_reward_model(cls, reward_model: RewardModel) -> Self:
        """A copy of a reward model, body and head, to start the critic from (Ouyang et al. 2022, §3.5)."""
        if not isinstance(reward_model, RewardModel):
            raise TypeError(f"reward_model must be a RewardModel, got {type(reward_model).__name__}")
        return cls(copy.deepcopy(reward_model.model)).train(reward_model.training)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The values (B, L), in float32 at least, and 0 on padding.

        The value at position t has seen the tokens up to and including t: it belongs to the state in which
        token t + 1 is chosen.

        Args:
            input_ids: (B, L) prompts with completions, padded left or right with any token.
            attention_mask: (B, L), 1 on real tokens; at least one a row.
        """
        hidden, mask = self._hidden_states(input_ids, attention_mask)
        return upcast(self._inner().score(hidden)).squeeze(-1).masked_fill(~mask, 0.0)
