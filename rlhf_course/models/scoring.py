"""Log-probabilities of completions under a language model, computed only where a completion token stands."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_course._checks import as_mask, check_same_shape, check_tensor
from rlhf_course.logprobs import entropy, selective_log_softmax
from rlhf_course.models.unpadded import hidden_states

#: No more logits than this exist at a time (half a gigabyte in float32): of more tokens they are made piece by piece,
#: and once more for the gradient.
LOGITS_AT_ONCE = 2**27


def body_and_head(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The decoder of a causal language model and its output embedding, under a LoRA wrapper if there is one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model, inner.get_output_embeddings()


class CompletionLogps(nn.Module):
    """log π(y_t | x, y_<t) at every completion token.

    The hidden states of prompt and padding never meet the vocabulary: on a model of 50,000 words, whose logits
    are most of the memory, that saves what the prompt would have cost.

    Args:
        model: a causal language model of transformers, LoRA models of peft included, whose logits are its
            output embedding's (models that scale or cap them afterwards are refused).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        config = model.config
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"models with {name} are not supported, and {config.model_type} has it")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        completion_mask: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The log-probabilities (B, L − 1) of tokens 1 … L − 1, 0 where `completion_mask[:, 1:]` is 0.

        Args:
            input_ids: (B, L) prompts with completions.
            attention_mask: (B, L), 1 on real tokens. Prompts may be padded on the left, completions on the right.
            completion_mask: (B, L), 1 on the completion's tokens.
            temperature: divides the logits, as it did when the tokens were sampled.
            with_entropy: also return the entropies (B, L − 1), in nats, without gradient.
        """
        check_tensor("input_ids", input_ids, ndim=2)
        check_same_shape(input_ids=input_ids, attention_mask=attention_mask, completion_mask=completion_mask)
        wanted = as_mask("completion_mask", completion_mask, input_ids)[:, 1:]
        body, head = body_and_head(self.model)
        hidden = hidden_states(body, input_ids, attention_mask)[:, :-1][wanted]
        tokens = input_ids[:, 1:][wanted]
        of_piece = partial(_of_tokens, head, temperature=temperature, with_entropy=with_entropy)
        size = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        if len(tokens) > size:
            of_piece = partial(checkpoint, of_piece, use_reentrant=False, preserve_rng_state=False)
        pieces = [of_piece(*piece) for piece in zip(hidden.split(size), tokens.split(size), strict=True)]
        found, entropies = (torch.cat(column) for column in zip(*pieces, strict=True))
        logps = found.new_zeros(wanted.shape).masked_scatter(wanted, found)
        if not with_entropy:
            return logps
        return logps, entropies.new_zeros(wanted.shape).masked_scatter(wanted, entropies)


def _of_tokens(
    head: nn.Module, hidden: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (T,) of tokens (T,) from hidden states (T, H), and the entropies there, empty if not wanted."""
    logits = head(hidden)
    entropies = entropy(logits.detach() / temperature) if with_entropy else logits.new_zeros(0)
    return selective_log_softmax(logits, tokens, temperature), entropies
