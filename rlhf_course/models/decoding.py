"""A causal language model fed one token a row at a time, with the keys and values of all earlier tokens kept.

On a small model most of a step is not arithmetic but Python, finding out anew which operations come next. They are
the same ones at every step. So the first step is recorded, by `torch.jit.trace`, and from then on the recording runs.
It runs on the model's own weights, those of the moment: training goes on without a new recording.
"""

import inspect
import operator
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf_course._hub import quiet_loading
from rlhf_course.models.unpadded import is_plain


class Decoder:
    """A model, its cache, and the mask and positions that go with them.

    Args:
        model: any causal language model of transformers, LoRA models of peft included.
        mask: (B, Lp) int64, 1 on the prompts' tokens and 0 on the padding before them.
        max_length: the most tokens a row will be fed, prompt included.
    """

    def __init__(self, model: nn.Module, mask: Tensor, max_length: int):
        self.model = model
        self.length = 0  # tokens seen so far
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # what peft wraps
        names = _forward_arguments(inner)
        self.cache = DynamicCache(config=inner.config)
        self.cache.layers = [_Room(max_length) if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        # Newer versions of transformers call the argument `cache`, older ones `past_key_values`.
        self.arguments = {"cache" if "cache" in names else "past_key_values": self.cache, "use_cache": True}
        if "logits_to_keep" in names:
            self.arguments["logits_to_keep"] = 1

        # Without padding all rows share their positions and nothing is masked.
        self.padded = not bool(mask.all())
        full_mask = torch.cat([mask, mask.new_ones(len(mask), max_length - mask.shape[1])], dim=1)
        self.mask = full_mask if self.padded else full_mask[:1]
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        self.positions = positions if "position_ids" in names else None
        self.recorded: Callable[..., Tensor] | None = None

    def prefill(self, input_ids: Tensor) -> Tensor:
        """Run the prompts (B, Lp) through the model: the logits (B, V) of the first new token."""
        logits = self._forward(input_ids)
        if self.positions is not None and self.length < self.mask.shape[1]:
            self.recorded = _recorded_step(self.model, lambda: self._inputs(input_ids[:, -1]))
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row, (B,): the logits (B, V) of the next one."""
        if self.recorded is None:
            return self._forward(tokens[:, None])
        logits = self.recorded(*self._inputs(tokens))
        self.length += 1
        return logits

    def repeat_rows(self, times: int) -> None:
        """Put so many copies of each row side by side."""
        self.cache.batch_repeat_interleave(times)
        if self.padded:
            self.mask = self.mask.repeat_interleave(times, dim=0)
            self.positions = None if self.positions is None else self.positions.repeat_interleave(times, dim=0)

    def keep_rows(self, keep: Tensor) -> None:
        """Drop every row but those at the indices `keep`."""
        self.cache.batch_select_indices(keep)
        if self.padded:
            self.mask = self.mask[keep]
            self.positions = None if self.positions is None else self.positions[keep]

    def _forward(self, input_ids: Tensor) -> Tensor:
        start, self.length = self.length, self.length + input_ids.shape[1]
        arguments = dict(self.arguments)
        if self.padded:
            arguments["attention_mask"] = self.mask[:, : self.length]
        if self.positions is not None:
            arguments["position_ids"] = self.positions[:, start : self.length]
        return self.model(input_ids=input_ids, **arguments).logits[:, -1]

    def _inputs(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """What a recorded step takes: tokens, their positions, what attention may look at, and keys and values."""
        seen = self.mask[:, None, None, : self.length + 1].bool()
        rooms = [room for layer in self.cache.layers for room in (layer.key_room, layer.value_room)]
        return tokens, self.positions[:, self.length, None], seen, rooms


class _Room(DynamicLayer):
    """One layer's keys and values, written into room for `max_length` tokens instead of copied to grow."""

    def __init__(self, max_length: int):
        super().__init__()
        self.max_length, self.length = max_length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_room, self.value_room = (
                states.new_empty(*states.shape[:2], self.max_length, states.shape[3])
                for states in (key_states, value_states)
            )
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.key_room[:, :, start : self.length] = key_states
        self.value_room[:, :, start : self.length] = value_states
        return self.key_room[:, :, : self.length], self.value_room[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.key_room = self.key_room.repeat_interleave(repeats, dim=0)
        self.value_room = self.value_room.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.key_room = self.key_room.index_select(0, indices)
        self.value_room = self.value_room.index_select(0, indices)


class _Step(nn.Module):
    """A step of decoding as a function of nothing but tensors, which is what can be recorded."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, seen: Tensor, rooms: list[Tensor]) -> Tensor:
        decoder = Decoder(self.model, seen[:, 0, 0].long(), seen.shape[-1])
        for layer, keys, values in zip(decoder.cache.layers, rooms[::2], rooms[1::2], strict=True):
            layer.key_room, layer.value_room, layer.is_initialized = keys, values, True
            # While a recording is made, a shape is a tensor: what is done with it is recorded too.
            layer.length = seen.shape[-1] - 1
        ids = tokens[:, None]
        return self.model(ids, position_ids=positions, attention_mask=seen, **decoder.arguments).logits[:, -1]


@dataclass(frozen=True)
class _Recording:
    """A recorded step, and the model's weights and buffers at the time: it runs on these tensors and on no others."""

    step: Callable[..., Tensor]
    tensors: list[Tensor]


_recordings: WeakKeyDictionary[nn.Module, _Recording] = WeakKeyDictionary()


def _recorded_step(model: nn.Module, inputs: Callable[[], tuple]) -> Callable[..., Tensor] | None:
    """The model's step, recorded now or earlier; None if its steps need not be alike, or if it is on a GPU (where
    this was never measured)."""
    if not _steps_are_alike(model):
        return None
    tensors = [*model.parameters(), *model.buffers()]
    known = _recordings.get(model)
    if known is None or len(known.tensors) != len(tensors) or any(map(operator.is_not, known.tensors, tensors)):
        # torch warns of sizes that the recording keeps: the model's own, which stay. It also looks at every attribute,
        # and transformers warns of one that is of no use without labels.
        with quiet_loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = torch.jit.trace(_Step(model), inputs(), check_trace=False)
        known = _recordings[model] = _Recording(step, tensors)
    return known.step


def _steps_are_alike(model: nn.Module) -> bool:
    """Whether a step is the same operations each time: a plain decoder of transformers on the CPU, as it came."""
    body = getattr(model, "base_model", None)
    if model.device.type != "cpu" or torch.is_autocast_enabled("cpu") or body is None or not is_plain(body):
        return False
    changes_with_length = getattr(body.rotary_emb, "rope_type", None) in ("dynamic", "longrope")
    return not changes_with_length and all(map(_as_it_came, model.modules()))


def _as_it_came(module: nn.Module) -> bool:
    """Whether a module runs its library's own code and nothing else: no adapter, no hook, no other forward."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not hooked and type(module).__module__.startswith(("transformers.", "torch.nn."))


def _forward_arguments(model: nn.Module) -> Collection[str]:
    """The names of forward's arguments, looking through subclasses that only hand on `*args, **kwargs`."""
    for kind in type(model).__mro__:
        names = inspect.signature(kind.forward).parameters if "forward" in vars(kind) else ()
        if "input_ids" in names:
            return names
    raise TypeError(f"model must be a causal language model of transformers, got {type(model).__name__}")
