"""Models with one number as their answer: a language model's body with a scalar head."""

import copy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rlhf_course._checks import as_mask, check_same_shape, check_tensor
from rlhf_course.logprobs import upcast
from rlhf_course.models.unpadded import hidden_states
from rlhf_course.seeding import torch_stream


class NoScalarHead(ValueError):
    """The model has no trained head of one number."""


class ScalarHeadModel(nn.Module):
    """A decoder's body and a linear head without bias, held by an `AutoModelForSequenceClassification`.

    What reward and value model share: building, loading, saving, and the hidden states at right positions.

    Args:
        model: a sequence classifier of transformers with one label and a `score` head (all decoders have
            theirs under this name), or a LoRA model of peft around one.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not isinstance(inner, PreTrainedModel) or not hasattr(inner, "score"):
            raise TypeError(
                "model must be a decoder loaded by AutoModelForSequenceClassification, with a head called "
                f"score, got {type(inner).__name__}"
            )
        if inner.config.num_labels != 1:
            raise NoScalarHead(f"model must have num_labels=1, one number a text, got {inner.config.num_labels}")
        self.model = model

    @classmethod
    def from_policy(cls, policy_model: PreTrainedModel, seed: int) -> Self:
        """The body of a causal language model, its weights copied, under a new head.

        The head is drawn from a normal distribution of standard deviation 1/(H + 1), H the hidden size, by
        the stream `("scalar head",)` of `seed`: so small that rewards start near 0 and the pairwise loss near
        log 2. Device, type and mode (training or not) are the policy's.

        Raises:
            TypeError: for a model that is not a plain causal language model; merge a LoRA model first.
        """
        if not isinstance(policy_model, PreTrainedModel):
            raise TypeError(
                "policy_model must be a causal language model of transformers (for a LoRA model of peft, the "
                f"result of its merge_and_unload()), got {type(policy_model).__name__}"
            )
        config = copy.deepcopy(policy_model.config)
        config.num_labels = 1
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced; leave no trace
            model = AutoModelForSequenceClassification.from_config(config)
        model.base_model.load_state_dict(policy_model.base_model.state_dict())
        scalar_model = cls(model)
        head = model.score.weight
        with torch.no_grad():
            noise = torch.randn(head.shape, generator=torch_stream(seed, "scalar head"))
            head.copy_(noise / (head.shape[1] + 1))
        scalar_model.to(device=policy_model.device, dtype=policy_model.dtype)
        return scalar_model.train(policy_model.training)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Self:
        """Load what `save_pretrained` wrote, or any decoder with one label from the Hub, in evaluation mode.

        Args:
            folder: a folder, or a name on the Hub.
            kwargs: passed on to `AutoModelForSequenceClassification.from_pretrained` (`dtype`, for example).

        Raises:
            NoScalarHead: a ValueError, for a model without a trained head, such as a causal language model.
        """
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True, **kwargs)
        if any(key.startswith("score.") for key in info["missing_keys"]):
            raise NoScalarHead(
                f"{str(folder)!r} holds no scalar head: load it with load_policy and give it one with "
                f"{cls.__name__}.from_policy"
            )
        return cls(model)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights; plain `AutoModelForSequenceClassification.from_pretrained` reads them."""
        self.model.save_pretrained(folder)

    @property
    def config(self):
        """The configuration of transformers."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass, as `PreTrainedModel` does, to save memory."""
        # The newer name; the older one goes with transformers 6.
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        (enable or self.model.gradient_checkpointing_enable)(**kwargs)

    def _inner(self) -> PreTrainedModel:
        """The sequence classifier itself, under peft's wrapper if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The body's last hidden states (B, L, H), and the mask as bools (B, L)."""
        check_tensor("input_ids", input_ids, ndim=2)
        check_tensor("attention_mask", attention_mask, ndim=2)
        check_same_shape(input_ids=input_ids, attention_mask=attention_mask)
        mask = as_mask("attention_mask", attention_mask, input_ids)
        if mask.device.type == "cpu" and not (mask.numel() and mask.any(dim=1).all()):
            raise ValueError("attention_mask must have a 1 in every row: there is no real token to score")
        return hidden_states(self._inner().base_model, input_ids, mask), mask


class RewardModel(ScalarHeadModel):
    """r(x, y): one number for a prompt with its completion, read at the last real token.

    The last token is the one that has seen the whole text. It is found from the attention mask, never from
    the pad token: where padding and end of sequence are one token, the latter reads one token too early.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The rewards (B,), unbounded, in float32 at least; only differences between them mean anything.

        Args:
            input_ids: (B, L) prompts with completions, padded left or right with any token.
            attention_mask: (B, L), 1 on real tokens; at least one a row.
        """
        hidden, mask = self._hidden_states(input_ids, attention_mask)
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        at_last = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return upcast(self._inner().score(at_last)).squeeze(-1)
