"""What online methods share: the policy's own answers, their log-probabilities, and a reference that stays."""

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers.base import Rows, Trainer
from rlhf_course.trainers.rollout import Rollout, sample_rollout
from rlhf_course.trainers.support import disable_dropout


class OnlineTrainer(Trainer):
    """A trainer whose rows are prompts, and whose data are the answers that the policy gives to them as it learns.

    Its `args` have a `temperature`. With `ref_model` left out, the reference is the model as it is now; of a LoRA
    model, the model without its adapter.
    """

    def prepare_rows(self, dataset):
        return tokenize_prompts(dataset, self.tokenizer, self.args.max_length)

    def prepare_models(self, rewarders: Iterable[Any], with_reference: bool = True) -> None:
        """Put policy, reference and reward models on the device, without dropout, and ready to be called."""
        device = self.accelerator.device
        self._lora_reference = with_reference and self.ref_model is None and hasattr(self.model, "disable_adapter")
        if with_reference and self.ref_model is None and not self._lora_reference:
            self.ref_model = copy.deepcopy(self.model)
        for model in self.trained_models().values():
            disable_dropout(model)
            model.to(device)
        for model in (self.ref_model, *rewarders):
            if isinstance(model, nn.Module):
                model.to(device).eval()
        self.policy_logps = self.prepared(CompletionLogps(self.model))
        if self.accelerator.distributed_type == "FSDP":
            with torch.no_grad():  # it gets ready when the whole is first called, and sampling calls a part
                self.policy_logps(*torch.ones(3, 1, 2, dtype=torch.int64, device=device))
        if with_reference:
            self.reference_logps = self.policy_logps if self._lora_reference else CompletionLogps(self.ref_model)

    @property
    def mine(self) -> slice:
        """This process's share of a batch's prompts."""
        return slice(self.accelerator.process_index, None, self.accelerator.num_processes)

    @torch.no_grad()
    def sample(self, rows: Rows, mine: slice, stream: tuple, max_new_tokens: int, num_generations: int = 1) -> Rollout:
        """Answers to the prompts of `rows[mine]`, from the random stream called `stream` under the run's seed."""
        with self.whole_weights():
            rollout = sample_rollout(
                self.model,
                self.tokenizer,
                rows,
                mine,
                max_new_tokens=max_new_tokens,
                temperature=self.args.temperature,
                stream=(self.args.seed, *stream),
                num_generations=num_generations,
            )
        if self.accelerator.mixed_precision != "no":
            # Decoding rounds otherwise than the update's forward pass does, and the ratio must start at 1.
            rollout.logps = self.completion_logps(self.policy_logps, rollout)
        return rollout

    @torch.no_grad()
    def log_reference(self, rollout: Rollout) -> Tensor:
        """The reference's log-probabilities of a rollout's completion tokens, (B, T)."""
        with self.model.disable_adapter() if self._lora_reference else nullcontext():
            return self.completion_logps(self.reference_logps, rollout)

    def completion_logps(self, policy_logps: nn.Module, rollout: Rollout, with_entropy: bool = False):
        """Log-probabilities (and entropies) of a rollout's completion tokens, (B, T)."""
        found = policy_logps(
            rollout.sequences,
            rollout.attention_mask,
            rollout.completion_mask,
            self.args.temperature,
            with_entropy,
        )
        start = rollout.prompt_width - 1  # where the first completion token's log-probability stands
        return tuple(x[:, start:] for x in found) if with_entropy else found[:, start:]
