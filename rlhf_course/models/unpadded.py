"""A decoder run on a batch's real tokens alone: padding costs memory and time, and nobody reads what it computes.

Attention is the only place in a decoder where tokens meet. All else (embedding, norms, projections, feed-forward) does
the same to each token by itself, so there the rows of a batch lie end to end, one long row without padding. Attention
takes them apart again. Each of them then begins at the left, so "no token looks ahead" is the only mask it needs.
"""

import inspect
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_ROWS = "sdpa_by_rows"

#: With less padding than this share of a batch, taking rows apart costs more than the padding (measured, tiny model).
LITTLE = 0.1


@dataclass(frozen=True)
class Rows:
    """Where the tokens of an end-to-end batch stand in a batch whose rows all begin at the left.

    Attributes:
        shape: (B, W), W the most real tokens of a row.
        places: (T,) of the T real tokens, as indices into the B·W places.
    """

    shape: tuple[int, int]
    places: Tensor

    @classmethod
    def of(cls, mask: Tensor, positions: Tensor) -> "Rows":
        """From a bool mask (B, L), True on real tokens, wherever in their row they stand, and their positions (T,)."""
        width = int(positions.max()) + 1
        row, _ = mask.nonzero(as_tuple=True)
        return cls((len(mask), width), row * width + positions)

    def apart(self, states: Tensor) -> Tensor:
        """(1, heads, T, D) → (B, heads, W, D), 0 where a row has ended."""
        _, heads, _, size = states.shape
        batch, width = self.shape
        laid = states.new_zeros(batch * width, heads, size).index_copy(0, self.places, states[0].transpose(0, 1))
        return laid.view(batch, width, heads, size).transpose(1, 2)

    def end_to_end(self, states: Tensor) -> Tensor:
        """(B, W, heads, D) → (1, T, heads, D)."""
        return states.flatten(0, 1).index_select(0, self.places).unsqueeze(0)


def attention_by_rows(module, query, key, value, attention_mask, rows: Rows | None = None, **settings):
    """transformers' own attention, row by row if the batch lies end to end."""
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    states = (rows.apart(states) for states in (query, key, value))
    output, weights = sdpa_attention_forward(module, *states, None, **settings)
    return rows.end_to_end(output), weights


AttentionInterface.register(BY_ROWS, attention_by_rows)
AttentionMaskInterface.register(BY_ROWS, sdpa_mask)


def hidden_states(body: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last hidden states (B, L, H) of a decoder. What they are on padding means nothing.

    Positions are counted over real tokens: under left padding, the first of them is position 0. A decoder whose
    attention is not transformers' plain one (sliding windows, another implementation, no rotary positions) is called
    with its padding.

    Args:
        body: the decoder without its head, such as `LlamaModel`.
        input_ids: (B, L), padded left or right with any token.
        attention_mask: (B, L), 1 on real tokens.
    """
    mask = attention_mask.bool()
    plain = is_plain(body)
    if _ends_alone_are_padded(mask) and (not plain or mask.float().mean() >= 1 - LITTLE):
        # Padding stands behind every real token, and none of them looks ahead: no mask is needed.
        return body(input_ids=input_ids, use_cache=False).last_hidden_state
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    if not plain:
        arguments = {"position_ids": positions} if _takes_positions(body) else {}
        arguments["attention_mask"] = mask.long()
        return body(input_ids=input_ids, use_cache=False, **arguments).last_hidden_state
    body.set_attn_implementation(BY_ROWS)
    real = positions[mask]
    found = body(
        input_ids=input_ids[mask].unsqueeze(0),
        position_ids=real.unsqueeze(0),
        # Four dimensions: transformers passes it on as it is, and attention by rows needs none.
        attention_mask=mask.new_ones(1, 1, 1, 1),
        rows=Rows.of(mask, real),
        use_cache=False,
    ).last_hidden_state
    return found.new_zeros(*mask.shape, found.shape[-1]).masked_scatter(mask.unsqueeze(-1), found)


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
