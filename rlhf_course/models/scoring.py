"""Log-probabilities of completions under a language model, computed only where a completion token stands."""

from torch import Tensor, nn

from rlhf_course._checks import as_mask, check_same_shape, check_tensor
from rlhf_course.logprobs import entropy, selective_log_softmax
from rlhf_course.models.unpadded import hidden_states


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
        hidden = hidden_states(body, input_ids, attention_mask)
        logits = head(hidden[:, :-1][wanted])
        found = selective_log_softmax(logits, input_ids[:, 1:][wanted], temperature)
        logps = found.new_zeros(wanted.shape).masked_scatter(wanted, found)
        if not with_entropy:
            return logps
        entropies = entropy(logits.detach() / temperature)
        return logps, entropies.new_zeros(wanted.shape).masked_scatter(wanted, entropies)
