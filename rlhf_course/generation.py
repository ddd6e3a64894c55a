"""Sampling from a causal language model, with the log-probability of every token kept while decoding.

Run the prompts through the model once, then feed it one new token a row at a time, with the keys and values of all
earlier tokens cached. Three things are done with care, because the losses downstream rely on them:

* **The distribution is the full forward pass's.** Positions come from the mask, so left padding changes nothing,
  and the log-probability of a sampled token is the one a forward pass over the finished sequence gives.
* **Chance comes from a table.** A token is drawn by inverting the cumulative distribution at a uniform number that
  belongs to its row and position. What a row says depends on its prompt and its numbers, and not on which other
  rows share the batch or how many processes split the work.
* **Finished rows leave the batch.** Most answers are much shorter than the longest one.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf_course._checks import as_mask, check_count, check_number, check_same_shape, check_tensor

#: Finished rows are dropped once they are at least this share of the rows still being decoded.
COMPACTION_SHARE = 1 / 16


@dataclass(frozen=True)
class Generation:
    """What `generate` returns, for B prompts of width Lp and completions of at most T tokens.

    Attributes:
        sequences: (B, Lp + T) int64, the prompts followed by their completions.
        attention_mask: (B, Lp + T) int64, 1 on real tokens of prompt and completion.
        completion_ids: (B, T) int64, padded on the right with `pad_token_id`.
        completion_mask: (B, T) int64, 1 on completion tokens, the stop token included.
        logps: (B, T) float, the log-probability of each token under softmax(logits / temperature), before any
            top-p cut (under softmax(logits) if the temperature is 0); 0 where `completion_mask` is 0. Carries no
            gradient.
    """

    sequences: Tensor
    attention_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    logps: Tensor


@torch.no_grad()
def generate(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] | None,
    pad_token_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> Generation:
    """Sample one completion for each prompt.

    The model decodes in evaluation mode and gets its own mode back afterwards.

    Args:
        model: any causal language model of transformers, LoRA models of peft included.
        input_ids: (B, Lp) int64, prompts padded on the left.
        attention_mask: (B, Lp), 1 on the prompt's tokens and 0 on the padding before them.
        max_new_tokens: the most tokens a completion may have, at least 1, the stop token included.
        eos_token_id: the token or tokens that end a completion, or None to always sample `max_new_tokens`.
        pad_token_id: what fills a completion after its end.
        temperature: divides the logits; at least 0. 0 takes the most likely token each time.
        top_p: sample from the smallest set of most likely tokens whose probability reaches `top_p`, in (0, 1]
            (nucleus sampling, Holtzman et al. 2020). Of equally likely tokens, the first in the vocabulary enter.
        generator: a CPU generator that draws `uniforms`; torch's global one if both are left out.
        uniforms: (B, max_new_tokens) floats in [0, 1), the number that decides each token. Give them to keep a
            row's completion the same however the rows are batched.

    Raises:
        TypeError, ValueError: for an argument of the wrong type, shape or range, prompts padded on the right,
            prompts too long for the model's positions, or a model whose logits are NaN.
    """
    stop_ids = _check_prompts(model, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id)
    check_number("temperature", temperature, low=0.0)
    check_number("top_p", top_p, low=0.0, high=1.0, low_open=True)
    rows, prompt_length, device = len(input_ids), input_ids.shape[1], input_ids.device
    uniforms = _prepare_uniforms(uniforms, generator, rows, max_new_tokens, device)
    stop_ids = torch.tensor(stop_ids, dtype=torch.int64, device=device)

    completion_ids = torch.full((rows, max_new_tokens), pad_token_id, dtype=torch.int64, device=device)
    logps = None
    alive = torch.arange(rows, device=device)  # the batch's rows that are still decoded
    finished = torch.zeros(rows, dtype=torch.bool, device=device)  # of those, the ones that have stopped

    with _evaluation_mode(model):
        decoder = _Decoder(model, attention_mask, prompt_length + max_new_tokens)
        logits = decoder.prefill(input_ids)
        for step in range(max_new_tokens):
            tokens, token_logps = _sample(logits, temperature, top_p, uniforms[:, step : step + 1])
            if logps is None:
                logps = token_logps.new_zeros(rows, max_new_tokens)
            completion_ids[alive, step] = tokens
            logps[alive, step] = token_logps

            if len(stop_ids):
                finished |= torch.isin(tokens, stop_ids)
                num_finished = int(finished.sum())
                if num_finished == len(alive):
                    break
                if num_finished >= COMPACTION_SHARE * len(alive):
                    keep = (~finished).nonzero().squeeze(1)
                    alive, tokens, uniforms, finished = (
                        alive[keep],
                        tokens[keep],
                        uniforms[keep],
                        finished[keep],
                    )
                    decoder.keep_rows(keep)
            if step + 1 < max_new_tokens:
                logits = decoder.step(tokens)

    return _finish(
        input_ids, attention_mask, completion_ids[:, : step + 1], logps[:, : step + 1], stop_ids, pad_token_id
    )


class _Decoder:
    """A model, its cache, and the mask and positions that go with them."""

    def __init__(self, model: nn.Module, attention_mask: Tensor, max_length: int):
        self.model = model
        self.length = 0
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        names = inspect.signature(inner.forward).parameters
        self.cache = DynamicCache(config=inner.config)
        self.cache.layers = [
            _PreallocatedLayer(max_length) if type(layer) is DynamicLayer else layer
            for layer in self.cache.layers
        ]
        # transformers renamed the cache's argument between 5.15 and 5.24
        cache_name = "cache" if "cache" in names else "past_key_values"
        self.arguments = {cache_name: self.cache, "use_cache": True}
        if "logits_to_keep" in names:
            self.arguments["logits_to_keep"] = 1

        new = attention_mask.new_ones(len(attention_mask), max_length - attention_mask.shape[1])
        mask = torch.cat([attention_mask, new], dim=1).to(torch.int64)
        # Without padding every row has the same positions and nothing to mask, so neither is spelt out.
        self.mask = None if bool(attention_mask.all()) else mask
        positions = (mask if self.mask is not None else mask[:1]).cumsum(dim=1) - 1
        self.positions = positions.clamp(min=0) if "position_ids" in names else None

    def prefill(self, input_ids: Tensor) -> Tensor:
        """Run the prompts (B, Lp) through the model: the logits (B, V) of the first new token."""
        return self._forward(input_ids)

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row, (B,): the logits (B, V) of the next one."""
        return self._forward(tokens[:, None])

    def keep_rows(self, keep: Tensor) -> None:
        """Drop every row but those at the indices `keep`."""
        self.cache.batch_select_indices(keep)
        if self.mask is not None:
            self.mask = self.mask[keep]
            self.positions = self.positions[keep] if self.positions is not None else None

    def _forward(self, input_ids: Tensor) -> Tensor:
        start, self.length = self.length, self.length + input_ids.shape[1]
        arguments = dict(self.arguments)
        if self.mask is not None:
            arguments["attention_mask"] = self.mask[:, : self.length]
        if self.positions is not None:
            arguments["position_ids"] = self.positions[:, start : self.length]
        logits = self.model(input_ids=input_ids, **arguments).logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


class _PreallocatedLayer(DynamicLayer):
    """A layer's keys and values written into room reserved once, instead of copied to grow at every token."""

    def __init__(self, max_length: int):
        super().__init__()
        self.max_length = max_length

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_room = self._reserve(key_states)
            self._value_room = self._reserve(value_states)
        end = start + key_states.shape[-2]
        self._key_room[:, :, start:end] = key_states
        self._value_room[:, :, start:end] = value_states
        self.keys, self.values = self._key_room[:, :, :end], self._value_room[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
        self.keys, self.values = self._key_room[:, :, :length], self._value_room[:, :, :length]

    def _reserve(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty(rows, heads, self.max_length, size)


def _sample(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of logits (B, V) by its uniform number, (B, 1): tokens and log-probs, (B,)."""
    probs = torch.softmax(logits if temperature in (0, 1) else logits / temperature, dim=-1)
    if temperature == 0:
        tokens = logits.argmax(dim=-1, keepdim=True)
    else:
        # The token whose step of the cumulative distribution holds the number. `uniforms` stay far enough below 1
        # that their product with the total is below the total: no token of probability 0 can be drawn.
        kept = probs if top_p == 1 else _nucleus(probs, top_p)
        cumulative = kept.cumsum(dim=-1, dtype=uniforms.dtype)
        tokens = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return tokens.squeeze(1), probs.gather(1, tokens).log().squeeze(1)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Set the probabilities (B, V) outside the smallest set of most likely tokens reaching `top_p` to 0."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probs).scatter(1, order, ordered.masked_fill(before >= top_p, 0.0))


def _finish(
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_ids: Tensor,
    logps: Tensor,
    stop_ids: Tensor,
    pad: int,
) -> Generation:
    """Blank what rows went on to say after their stop token, and lay prompts and completions side by side."""
    if not torch.isfinite(logps).all():
        raise ValueError("the model's logits are NaN or infinite, so there is no distribution to sample from")
    stops = torch.isin(completion_ids, stop_ids)
    over = (stops.cumsum(dim=1) - stops.long()) > 0
    completion_mask = (~over).long()
    completion_ids = completion_ids.masked_fill(over, pad)
    return Generation(
        sequences=torch.cat([input_ids, completion_ids], dim=1),
        attention_mask=torch.cat([attention_mask.long(), completion_mask], dim=1),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        logps=logps.masked_fill(over, 0.0),
    )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and give every module its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _prepare_uniforms(
    uniforms: Tensor | None, generator: torch.Generator | None, rows: int, columns: int, device: torch.device
) -> Tensor:
    """The table of uniform numbers on `device`, in the widest type the device has."""
    if uniforms is None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        uniforms = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    elif generator is not None:
        raise ValueError("give either uniforms or a generator to draw them, not both")
    check_tensor("uniforms", uniforms, ndim=2, floating=True)
    if uniforms.shape != (rows, columns):
        raise ValueError(
            f"uniforms must have shape {(rows, columns)}, (rows, max_new_tokens), got {tuple(uniforms.shape)}"
        )
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError("uniforms must lie in [0, 1): at least 0 and below 1")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    # Shrunk by one part in 2^52 (2^23 in float32): see `_sample`.
    return uniforms.to(device, dtype) * (1 - torch.finfo(dtype).eps)


def _check_prompts(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] | None,
    pad_token_id: int,
) -> list[int]:
    """Refuse prompts the loop could not continue rightly; the stop tokens as a list."""
    check_tensor("input_ids", input_ids, ndim=2)
    check_tensor("attention_mask", attention_mask, ndim=2)
    check_same_shape(input_ids=input_ids, attention_mask=attention_mask)
    if input_ids.dtype != torch.int64:
        raise TypeError(f"input_ids must hold int64 token ids, got {input_ids.dtype}")
    if input_ids.numel() == 0:
        raise ValueError(
            f"input_ids must hold at least one prompt of one token, got shape {tuple(input_ids.shape)}"
        )
    check_count("max_new_tokens", max_new_tokens, low=1)
    mask = as_mask("attention_mask", attention_mask, input_ids)
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError(
            "prompts must be padded on the left: a row of attention_mask must be 0s followed by at least one 1"
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(input_ids.min()) < 0 or int(input_ids.max()) >= vocabulary:
        raise ValueError(f"input_ids must lie in 0..{vocabulary - 1}, the model's vocabulary")
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = int(mask.sum(dim=1).max())
    if positions is not None and longest + max_new_tokens > positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} need "
            f"{longest + max_new_tokens} positions, the model has {positions}: shorten one of the two"
        )
    check_count("pad_token_id", pad_token_id)
    stop_ids = (
        []
        if eos_token_id is None
        else [eos_token_id]
        if isinstance(eos_token_id, int)
        else list(eos_token_id)
    )
    return [check_count("eos_token_id", stop_id) for stop_id in stop_ids]
