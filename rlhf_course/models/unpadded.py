"""A decoder run on a batch's real tokens alone: padding costs memory and time, and nobody reads what it computes.

Attention is the only place in a decoder where tokens meet. All else (embedding, norms, projections, feed-forward) does
the same to each token by itself, so there the rows of a batch lie end to end, one long row without padding, the short
ones first. Attention takes them apart again, some rows of like length at a time. Each of them then begins at the left,
so "no token looks ahead" is the only mask it needs.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlhf_course.models.linear import FEWEST, ROUND, pays, use_onednn

BY_ROWS = "sdpa_by_rows"

#: With less padding than this share of a batch, taking rows apart costs more than the padding (measured, tiny model).
LITTLE = 0.1
#: How many rows attention takes at a time: with fewer, its calls cost more than the padding that is saved (measured,
#: tiny model).
AT_A_TIME = 32


@dataclass(frozen=True)
class Rows:
    """Some neighbours in an end-to-end batch, and where their tokens stand when each begins at the left.

    Attributes:
        tokens: theirs, of all tokens of the batch.
        shape: (B, W), how many rows they are, and the most tokens of one.
        places: (T,) of their T tokens, as indices into the B·W places.
    """

    tokens: slice
    shape: tuple[int, int]
    places: Tensor

    @classmethod
    def of_like_length(cls, lengths: Tensor) -> list["Rows"]:
        """All rows of an end-to-end batch, `AT_A_TIME` each, from their numbers of tokens (N,), in ascending order."""
        found, start = [], 0
        for some in lengths.split(AT_A_TIME):
            width = int(some[-1])
            places = (torch.arange(width, device=some.device) < some.unsqueeze(1)).flatten().nonzero().squeeze(1)
            if len(places):
                found.append(cls(slice(start, start + len(places)), (len(some), width), places))
            start += len(places)
        return found

    def apart(self, states: Tensor) -> Tensor:
        """(1, heads, all tokens, D) → (B, heads, W, D), 0 where a row has ended."""
        _, heads, _, size = states.shape
        batch, width = self.shape
        mine = states[0, :, self.tokens].transpose(0, 1)
        laid = states.new_zeros(batch * width, heads, size).index_copy(0, self.places, mine)
        return laid.view(batch, width, heads, size).transpose(1, 2)

    def end_to_end(self, states: Tensor) -> Tensor:
        """(B, W, heads, D) → (T, heads, D)."""
        return states.flatten(0, 1).index_select(0, self.places)


def attention_by_rows(module, query, key, value, attention_mask, rows: Sequence[Rows] = (), **settings):
    """transformers' own attention, some rows at a time if the batch lies end to end."""
    if not rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    outputs = []
    for some in rows:
        states = (some.apart(states) for states in (query, key, value))
        output, _ = sdpa_attention_forward(module, *states, None, **settings)
        outputs.append(some.end_to_end(output))
    outputs.append(output.new_zeros(query.shape[2] - rows[-1].tokens.stop, *output.shape[2:]))  # that nobody reads
    return torch.cat(outputs).unsqueeze(0), None


AttentionInterface.register(BY_ROWS, attention_by_rows)
AttentionMaskInterface.register(BY_ROWS, sdpa_mask)


def hidden_states(body: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last hidden states (B, L, H) of a decoder. What they are on padding means nothing.

    Positions are counted over real tokens: under left padding, the first of them is position 0. A decoder whose
    attention is not transformers' plain one (sliding windows, another implementation, no rotary positions) is called
    with its padding. On a processor where that pays, the decoder's linear layers multiply by oneDNN from then on.

    Args:
        body: the decoder without its head, such as `LlamaModel`.
        input_ids: (B, L), padded left or right with any token.
        attention_mask: (B, L), 1 on real tokens.
    """
    mask = attention_mask.bool()
    plain, by_onednn = is_plain(body), pays() and input_ids.device.type == "cpu"
    if by_onednn:
        use_onednn(body)
    if _ends_alone_are_padded(mask) and (not plain or mask.float().mean() >= 1 - LITTLE):
        # Padding stands behind every real token, and none of them looks ahead: no mask is needed.
        return body(input_ids=input_ids, use_cache=False).last_hidden_state
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    if not plain:
        arguments = {"position_ids": positions} if _takes_positions(body) else {}
        arguments["attention_mask"] = mask.long()
        return body(input_ids=input_ids, use_cache=False, **arguments).last_hidden_state
    body.set_attn_implementation(BY_ROWS)
    lengths, order = mask.sum(dim=1).sort(stable=True)
    cells = torch.arange(mask.numel(), device=mask.device).view_as(mask)
    real = cells[order][mask[order]]  # the batch's places with a token, the shortest row's first
    extra = -len(real) % ROUND if by_onednn and len(real) >= FEWEST else 0
    called = torch.cat([real, real[:extra]])  # some twice, to make a round number
    found = body(
        input_ids=input_ids.flatten()[called].unsqueeze(0),
        position_ids=positions.flatten()[called].unsqueeze(0),
        # Four dimensions: transformers passes it on as it is, and attention by rows needs none.
        attention_mask=mask.new_ones(1, 1, 1, 1),
        rows=Rows.of_like_length(lengths),
        use_cache=False,
    ).last_hidden_state[0, : len(real)]
    return found.new_zeros(mask.numel(), found.shape[-1]).index_copy(0, real, found).view(*mask.shape, -1)


def is_plain(body: nn.Module) -> bool:
    """Whether attention sees all tokens before a token, through transformers' interface, at rotary positions."""
    config = body.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return (
        config._attn_implementation in ("sdpa", BY_ROWS)
        and getattr(body, "_supports_attention_backend", False)
        and hasattr(body, "rotary_emb")
        and set(kinds) == {"full_attention"}
        and not windows
    )


def _ends_alone_are_padded(mask: Tensor) -> bool:
    """Whether each row of a bool mask (B, L) begins with a real token and has none behind padding."""
    return bool(mask[:, 0].all() and (mask[:, :-1] | ~mask[:, 1:]).all())


def _takes_positions(body: nn.Module) -> bool:
    return "position_ids" in inspect.signature(body.forward).parameters
