"""The reward model (InstructGPT, stage 2): learn a scalar from comparisons."""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from rlhf_course._checks import check_number
from rlhf_course.data.collators import collate_sft
from rlhf_course.data.preferences import EQUAL_WHEN_CUT, tokenize_preferences
from rlhf_course.data.rows import Rows, dropped_before
from rlhf_course.data.tokenize import TOO_LONG, encode_prompt_completion, required
from rlhf_course.losses.reward import reward_loss
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.config import TrainingConfig
from rlhf_course.trainers.support import Called, disable_dropout, to_device


@dataclass(kw_only=True)
class RewardConfig(TrainingConfig):
    """Settings of `RewardTrainer`. The defaults suit the tiny model.

    Attributes:
        center_rewards_coefficient: weight of the term that keeps rewards around 0 (0.01 is usual); None is off.
        group_by_length: on. The loss is a mean over pairs, so short answers weigh as much as long ones.
    """

    warmup_steps: int = 20
    group_by_length: bool = True
    center_rewards_coefficient: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.center_rewards_coefficient is not None:
            check_number("center_rewards_coefficient", self.center_rewards_coefficient, low=0)


class RewardTrainer(Trainer):
    """Fits a `RewardModel` to comparisons by Bradley–Terry.

    Rows: `prompt`, `chosen`, `rejected`, and optionally `margin`; or `prompt` and `ranked`, K completions from best
    to worst, which stand for K(K − 1)/2 pairs. `ended`, K booleans in that order, says which of them came to their end
    and were not cut off; left out, all did. A ranking's pairs stay in one batch and each of its answers is run through
    the model once (Ouyang et al. 2022, §3.5: shuffled into one pile, the pairs overfit).

    `loss_fn(chosen_rewards, rejected_rewards)` takes the rewards of P pairs, (P,) each.
    """

    config_class = RewardConfig
    loss_settings = ("center_rewards_coefficient",)
    shown = ("loss", "accuracy")

    def prepare_rows(self, dataset):
        rows = tokenize_rankings(dataset, self.tokenizer, self.args.max_length)
        with_margin = sum("margin" in row for row in rows)
        if with_margin not in (0, len(rows)):
            raise ValueError(f"either all rows or none must have a margin, got {with_margin} of {len(rows)}")
        if with_margin and self.loss_fn is not None:
            raise ValueError(
                "loss_fn is called with the rewards alone, so it cannot honour the rows' margin: leave out one of them"
            )
        return rows

    def setup(self):
        disable_dropout(self.model)
        self.model.to(self.accelerator.device)
        self.reward_model = self.prepared(Called(self.model))

    def num_items(self, rows) -> int:
        """Pairs: the loss is their mean."""
        return sum(len(row["ranked_ids"]) * (len(row["ranked_ids"]) - 1) // 2 for row in rows)

    def compute_loss(self, rows) -> tuple[Tensor, dict[str, Tensor]]:
        batch = collate_rankings(rows, self.tokenizer.pad_token_id)
        batch = to_device(batch, self.accelerator.device)
        rewards = self.reward_model(batch["input_ids"], batch["attention_mask"])
        chosen, rejected = rewards[batch["better"]], rewards[batch["worse"]]
        if self.loss_fn is not None:
            loss = self.loss_fn(chosen, rejected)
        else:
            centring = self.args.center_rewards_coefficient or 0.0
            loss = reward_loss(chosen, rejected, margin=batch.get("margin"), center_rewards_coefficient=centring)
        return loss, {
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
            "mean_reward": rewards.mean(),
        }


def tokenize_rankings(dataset, tokenizer, max_length: int) -> Rows:
    """Rows of pairs or rankings with `prompt_ids`, `ranked_ids` (best first) and `length`, the longest one's.

    Rows with two answers that are the same within `max_length` say nothing or contradict themselves: dropped, counted.
    """
    if len(dataset) and "ranked" in dataset[0]:
        rows = _encode_rankings(dataset, tokenizer, max_length)
    else:
        rows = tokenize_preferences(dataset, tokenizer, max_length)
        for row in rows:
            row["ranked_ids"] = [row["chosen_ids"], row["rejected_ids"]]
    for row in rows:
        row["length"] = len(row["prompt_ids"]) + max(map(len, row["ranked_ids"]))
    return rows


def _encode_rankings(dataset, tokenizer, max_length: int) -> Rows:
    rows = Rows(dropped=dropped_before(dataset))
    for row in dataset:
        prompt, ranked = required(row, "prompt"), required(row, "ranked")
        if not isinstance(ranked, list | tuple) or len(ranked) < 2:
            raise ValueError(f"ranked must be a list of at least two completions, best first, got {ranked!r}")
        ended = row.get("ended", [True] * len(ranked))
        if len(ended) != len(ranked):
            raise ValueError(f"ended must say of each of the {len(ranked)} completions whether it ended, got {ended!r}")
        encoded = [encode_prompt_completion(tokenizer, prompt, *answer) for answer in zip(ranked, ended)]
        prompt_ids = encoded[0][0]
        room = max_length - len(prompt_ids)
        ranked_ids = [ids[: max(room, 0)] for _, ids in encoded]
        if room < 1:
            rows.dropped[TOO_LONG] += 1
        elif len(set(map(tuple, ranked_ids))) < len(ranked):
            rows.dropped[EQUAL_WHEN_CUT] += 1
        else:
            rows.append({"prompt_ids": prompt_ids, "ranked_ids": ranked_ids})
    return rows


def collate_rankings(rows, pad_token_id: int) -> dict[str, Tensor]:
    """All answers of all rows once, (N, L), and the pairs as places among them: `better` and `worse`, (P,)."""
    answers, better, worse = [], [], []
    for row in rows:
        places = range(len(answers), len(answers) + len(row["ranked_ids"]))
        answers += [{"prompt_ids": row["prompt_ids"], "completion_ids": ids} for ids in row["ranked_ids"]]
        for i, j in combinations(places, 2):
            better.append(i)
            worse.append(j)
    batch = {
        **collate_sft(answers, pad_token_id),
        "better": torch.tensor(better),
        "worse": torch.tensor(worse),
    }
    if "margin" in rows[0]:
        batch["margin"] = torch.tensor([float(row["margin"]) for row in rows])
    return batch
