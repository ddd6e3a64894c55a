"""Sampling from a causal language model, with the log-probability of every token kept while decoding.

Run the prompts through the model once, then feed it one new token a row at a time, with the keys and values
of all earlier tokens cached. Three things are done with care, because the losses downstream rely on them:

* **The distribution is the full forward pass's.** Positions come from the mask, so left padding changes
  nothing, and a sampled token's log-probability is the one a forward pass over the finished sequence gives.
* **Chance comes from a table.** A token is drawn by inverting the cumulative distribution at a uniform number
  that belongs to its row and position. What a row says depends on its prompt and its numbers, not on which
  other rows share the batch or how many processes split the work.
* **Finished rows leave the batch.** Most answers are much shorter than the longest one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_course._checks import as_mask, check_count, check_number, check_tensor
from rlhf_course.models.decoding import Decoder

#: Finished rows leave the batch when they make up this share of it. Dropping them copies the others' cache;
#: on the tiny model every share from an eighth to a half was equally fast.
COMPACTION_SHARE = 1 / 4


@dataclass(frozen=True)
class Generation:
    """What `generate` returns: B completions of at most T tokens, of prompts of width Lp, a prompt's side by side.

    Attributes:
        sequences: (B, Lp + T) int64, the prompts followed by their completions.
        attention_mask: (B, Lp + T) int64, 1 on real tokens of prompt and completion.
        completion_ids: (B, T) int64, padded on the right with `pad_token_id`.
        completion_mask: (B, T) int64, 1 on completion tokens, the stop token included.
        logps: (B, T) float, each token's log-probability under softmax(logits / temperature), before a top-p
            cut (under softmax(logits) if the temperature is 0); 0 where `completion_mask` is 0. No gradient.
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
    num_return_sequences: int = 1,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> Generation:
    """Sample one completion for each prompt, or a group of them.

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
            (nucleus sampling, Holtzman et al. 2020). Of equal tokens the vocabulary's first enter.
        num_return_sequences: completions of each prompt, side by side in what is returned. The prompt is run through
            the model once, and its cache is copied for each.
        generator: a CPU generator that draws `uniforms`; torch's global one if both are left out.
        uniforms: (completions, max_new_tokens) floats in [0, 1), the number that decides each token. Give them to
            keep a row's completion the same however the rows are batched.

    Raises:
        TypeError, ValueError: for an argument of the wrong type, shape or range, prompts padded on the right
            or too long for the model's positions, or a model whose logits are not numbers.
    """
    mask = _check_prompts(model, input_ids, attention_mask, max_new_tokens)
    stop_ids = _check_tokens(eos_token_id, pad_token_id).to(input_ids.device)
    check_number("temperature", temperature, low=0.0)
    check_number("top_p", top_p, low=0.0, high=1.0, low_open=True)
    each = check_count("num_return_sequences", num_return_sequences, low=1)
    rows, prompt_length, device = len(input_ids) * each, input_ids.shape[1], input_ids.device
    uniforms = _prepare_uniforms(uniforms, generator, rows, max_new_tokens, device)

    # Made outside inference mode and only written to inside it, so that autograd may use what is returned.
    completion_ids = torch.full((rows, max_new_tokens), pad_token_id, dtype=torch.int64, device=device)
    precision = torch.float64 if model.dtype == torch.float64 else torch.float32
    logps = torch.zeros(rows, max_new_tokens, dtype=precision, device=device)

    with torch.inference_mode(), evaluation_mode(model):
        decoder = Decoder(model, mask, prompt_length + max_new_tokens - 1)
        logits = decoder.prefill(input_ids)
        if each > 1:
            logits = logits.repeat_interleave(each, dim=0)
            decoder.repeat_rows(each)
        decoding = torch.arange(rows, device=device)  # the rows still in the decoder's batch
        finished = torch.zeros(rows, dtype=torch.bool, device=device)  # which of those have stopped
        for step in range(max_new_tokens):
            tokens, token_logps = _sample(logits.to(precision), temperature, top_p, uniforms[:, step, None])
            completion_ids[decoding, step] = tokens
            logps[decoding, step] = token_logps
            if len(stop_ids):
                finished |= torch.isin(tokens, stop_ids)
                num_finished = int(finished.sum())
                if num_finished == len(decoding):
                    break
                if num_finished >= COMPACTION_SHARE * len(decoding):
                    keep = (~finished).nonzero().squeeze(1)
                    decoding, finished = decoding[keep], finished[keep]
                    tokens, uniforms = tokens[keep], uniforms[keep]
                    decoder.keep_rows(keep)
            if step + 1 < max_new_tokens:
                logits = decoder.step(tokens)

    completion_ids, logps = completion_ids[:, : step + 1], logps[:, : step + 1]
    if not torch.isfinite(logps).all():
        raise ValueError("the model's logits are NaN or infinite, so there is no distribution to sample from")
    # A row that waited for others to finish went on talking: blank what follows its first stop token.
    stops = torch.isin(completion_ids, stop_ids).long()
    after_stop = stops.cumsum(dim=1) > stops
    completion_ids, completion_mask = (
        completion_ids.masked_fill(after_stop, pad_token_id),
        (~after_stop).long(),
    )
    prompt_ids, prompt_mask = (x.repeat_interleave(each, dim=0) for x in (input_ids, mask))
    return Generation(
        sequences=torch.cat([prompt_ids, completion_ids], dim=1),
        attention_mask=torch.cat([prompt_mask, completion_mask], dim=1),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        logps=logps.masked_fill(after_stop, 0.0),
    )


def _sample(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of logits (B, V) by its uniform number (B, 1): tokens and log-probs, (B,)."""
    probs = torch.softmax(logits if temperature in (0, 1) else logits / temperature, dim=-1)
    if temperature == 0:
        tokens = logits.argmax(dim=-1, keepdim=True)
    else:
        # The token whose step of the cumulative distribution holds the number. `uniforms` stay so far below 1
        # that their product with the total is below the total: no token of probability 0 can be drawn.
        kept = probs if top_p == 1 else _nucleus(probs, top_p)
        cumulative = kept.cumsum(dim=-1, dtype=uniforms.dtype)
        tokens = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        tokens = tokens.clamp(max=logits.shape[1] - 1)  # NaN logits find no token: `generate` reports them
    return tokens.squeeze(1), probs.gather(1, tokens).log().squeeze(1)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Set the probabilities (B, V) outside the smallest set of most likely tokens reaching `top_p` to 0."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probs).scatter(1, order, ordered.masked_fill(before >= top_p, 0.0))


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Switch dropout off, and give every module its own mode back afterwards."""
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _prepare_uniforms(
    uniforms: Tensor | None, generator: torch.Generator | None, rows: int, columns: int, device: torch.device
) -> Tensor:
    """The table of uniform numbers on `device`, drawn on the CPU if it was not given."""
    if uniforms is None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        uniforms = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    elif generator is not None:
        raise ValueError("give either uniforms or a generator to draw them, not both")
    check_tensor("uniforms", uniforms, ndim=2, floating=True)
    if uniforms.shape != (rows, columns):
        expected = f"{(rows, columns)}, a number for each row and new token"
        raise ValueError(f"uniforms must have shape {expected}, got {tuple(uniforms.shape)}")
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError("uniforms must be at least 0 and below 1")
    dtype = torch.float32 if device.type == "mps" else torch.float64  # the widest type the device has
    return uniforms.to(device, dtype) * (1 - torch.finfo(dtype).eps)  # for the reason in `_sample`


def _check_prompts(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int) -> Tensor:
    """Refuse prompts that could not be continued rightly; the mask as int64."""
    check_tensor("input_ids", input_ids, ndim=2)
    if input_ids.dtype != torch.int64:
        raise TypeError(f"input_ids must hold int64 token ids, got {input_ids.dtype}")
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids must hold at least one prompt of one token, got {tuple(input_ids.shape)}")
    if input_ids.device != model.device:
        raise ValueError(f"input_ids must be on the model's device {model.device}, got {input_ids.device}")
    check_count("max_new_tokens", max_new_tokens, low=1)
    mask = as_mask("attention_mask", attention_mask, input_ids)
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError("prompts must be padded on the left: each row of attention_mask 0s, then 1s to its end")
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(input_ids.min()) < 0 or int(input_ids.max()) >= vocabulary:
        raise ValueError(f"input_ids must lie in 0..{vocabulary - 1}, the model's vocabulary")
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = int(mask.sum(dim=1).max())
    if positions is not None and longest + max_new_tokens > positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} are more than the model's "
            f"{positions} positions: shorten the prompt or lower max_new_tokens"
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("models with learned prompts (prompt tuning, prefix tuning) cannot be sampled here")
    return mask.long()


def _check_tokens(eos_token_id: int | Sequence[int] | None, pad_token_id: int) -> Tensor:
    """The stop tokens as a tensor, possibly empty."""
    check_count("pad_token_id", pad_token_id)
    if eos_token_id is None:
        stop_ids = []
    elif isinstance(eos_token_id, Sequence):
        stop_ids = list(eos_token_id)
    else:
        stop_ids = [eos_token_id]
    return torch.tensor([check_count("eos_token_id", stop_id) for stop_id in stop_ids], dtype=torch.int64)
