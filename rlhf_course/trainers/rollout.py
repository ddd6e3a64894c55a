"""Rollouts: a policy's own answers to some prompts, scored. All online methods begin with one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course.data.collators import collate_prompts
from rlhf_course.generation import generate
from rlhf_course.seeding import torch_stream


@dataclass
class Rollout:
    """B completions of at most T tokens, behind prompts padded on the left to one width.

    Attributes:
        sequences, attention_mask: (B, prompt_width + T).
        mask: (B, T) bool, true on completion tokens, the end token included.
        logps: (B, T) log π of the tokens, as they were sampled.
        ended: (B,) bool, whether the completion came to its end token.
        prompts: the prompts as the dataset has them.
        ref_logps, values, scores, rewards: filled in by the method: (B, T), (B, T), (B,), and (B, K) of K reward
            functions, whose weighted sum is the score.
    """

    sequences: Tensor
    attention_mask: Tensor
    mask: Tensor
    logps: Tensor
    ended: Tensor
    prompts: list[Any]
    ref_logps: Tensor | None = None
    values: Tensor | None = None
    scores: Tensor | None = None
    rewards: Tensor | None = None

    @property
    def prompt_width(self) -> int:
        return self.sequences.shape[1] - self.mask.shape[1]

    @property
    def completion_mask(self) -> Tensor:
        """(B, prompt_width + T), 1 on completion tokens."""
        return torch.nn.functional.pad(self.mask, (self.prompt_width, 0))

    def __getitem__(self, rows: Tensor) -> "Rollout":
        """Some of the rows."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value[rows] if isinstance(value, Tensor) else value for name, value in given.items()}
        return Rollout(**{**chosen, "prompts": [self.prompts[i] for i in rows.tolist()]})

    def completions(self, tokenizer) -> list[str]:
        """The completions as text, without special tokens."""
        ids = self.sequences[:, self.prompt_width :]
        return tokenizer.batch_decode([row[kept] for row, kept in zip(ids, self.mask)], skip_special_tokens=True)


def sample_rollout(
    model: nn.Module,
    tokenizer,
    rows: Sequence[dict[str, Any]],
    mine: slice,
    *,
    max_new_tokens: int,
    temperature: float,
    stream: tuple,
    num_generations: int = 1,
) -> Rollout:
    """Sample `num_generations` completions for each of `rows[mine]`, a prompt's side by side.

    The random numbers belong to the rows of the whole batch: how many processes share it changes no answer.

    Args:
        rows: the whole batch's rows, with `prompt` and `prompt_ids`.
        mine: this process's share of them.
        stream: seed and names of the random stream.
    """
    device = next(model.parameters()).device
    shape = (len(rows), num_generations, max_new_tokens)
    uniforms = torch.rand(shape, generator=torch_stream(*stream), dtype=torch.float64)[mine].flatten(0, 1)
    rows = rows[mine]
    prompts = collate_prompts(rows, tokenizer.pad_token_id)
    generation = generate(
        model,
        prompts["input_ids"].to(device),
        prompts["attention_mask"].to(device),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_return_sequences=num_generations,
        uniforms=uniforms,
    )
    mask = generation.completion_mask.bool()
    return Rollout(
        sequences=generation.sequences,
        attention_mask=generation.attention_mask,
        mask=mask,
        logps=generation.logps,
        ended=((generation.completion_ids == tokenizer.eos_token_id) & mask).any(dim=1),
        prompts=[row["prompt"] for row in rows for _ in range(num_generations)],
    )


def score_rollout(reward_func, rollout: Rollout, tokenizer) -> Tensor:
    """Scores (B,) from a reward model, or from a function of prompts and completions (texts)."""
    if isinstance(reward_func, nn.Module):
        return reward_func(rollout.sequences, rollout.attention_mask)
    scores = reward_func(rollout.prompts, rollout.completions(tokenizer))
    scores = torch.as_tensor(scores, dtype=torch.float32, device=rollout.sequences.device)
    if scores.shape != (len(rollout.prompts),):
        expected = f"one number a completion, {len(rollout.prompts)}"
        raise ValueError(f"the reward function must return {expected}, got shape {tuple(scores.shape)}")
    return scores
