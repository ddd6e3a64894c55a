"""A reward model from soft labels, as AI labelers give them (Bai et al. 2022, §4.1)."""

import torch
from torch import Tensor

from rlhf_course.data.tokenize import required
from rlhf_course.rlaif import soft_reward_loss
from rlhf_course.trainers.reward import RewardTrainer, collate_rankings
from rlhf_course.trainers.support import to_device


class SoftLabelRewardTrainer(RewardTrainer):
    """Fits a `RewardModel` to probabilities in the place of votes.

    Rows: `prompt`, `chosen`, `rejected` and `probability`, the labeler's P(chosen wins); `rlaif.ai_comparisons` makes
    them. `loss_fn(chosen_rewards, rejected_rewards, probs)`, (B,) each. Settings are `RewardTrainer`'s.
    """

    loss_settings = ("center_rewards_coefficient",)

    def prepare_rows(self, dataset):
        for row in dataset:
            probability = required(row, "probability")
            if not 0 <= probability <= 1:
                raise ValueError(f"probability must lie between 0 and 1, got {probability}")
        if self.args.center_rewards_coefficient is not None:
            raise ValueError("soft labels have no center_rewards_coefficient: leave it None")
        return super().prepare_rows(dataset)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        batch = collate_rankings(rows, self.tokenizer.pad_token_id)
        batch["probs"] = torch.tensor([float(row["probability"]) for row in rows])
        batch = to_device(batch, self.accelerator.device)
        rewards = self.reward_model(batch["input_ids"], batch["attention_mask"])
        chosen, rejected = rewards[batch["better"]], rewards[batch["worse"]]
        loss = (self.loss_fn or soft_reward_loss)(chosen, rejected, batch["probs"])
        return loss, {
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
            "mean_reward": rewards.mean(),
        }
