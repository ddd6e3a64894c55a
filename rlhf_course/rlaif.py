"""Feedback from a model in the place of feedback from people (Bai et al. 2022; Lee et al. 2023).

Constitutional AI has two halves. First a model criticises its own answers by the principles of a constitution, rewrites
them, and is fine-tuned on what it rewrote. Then a model says which of two answers keeps the principles better, a reward
model learns from its preferences, and RL from that.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from rlhf_course._checks import check_number, check_same_shape, check_tensor
from rlhf_course.data.collators import collate_prompts
from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.data.world import CONSTITUTION, Labeler, Principle, gold_reward, violations
from rlhf_course.data.world.constitution import critique, revise
from rlhf_course.generation import evaluation_mode
from rlhf_course.models.scoring import body_and_head
from rlhf_course.seeding import python_stream
from rlhf_course.trainers.sft import SFTConfig, SFTTrainer

Found = TypeVar("Found")

#: What the language model says when the answer shown first is the better one, and when the other is.
FIRST, SECOND = "this", "that"
#: Pairs read at once.
CHUNK = 256


# ---------------------------------------------------------------------- one idea each


def debiased_preference(p_first: Tensor, p_first_swapped: Tensor) -> Tensor:
    """P(answer A wins), from a labeler that was asked twice: with A shown first, and with A shown second.

    The mean of p and 1 − p′ (Lee et al. 2023): a labeler that favours a slot favours A once and B once.

    Args:
        p_first: (N,) probability that the *slot* shown first wins, where A stood in it.
        p_first_swapped: (N,) the same where B stood in it.

    Returns:
        (N,) probabilities.
    """
    check_tensor("p_first", p_first, floating=True)
    check_tensor("p_first_swapped", p_first_swapped, floating=True)
    check_same_shape(p_first=p_first, p_first_swapped=p_first_swapped)
    return (p_first + 1 - p_first_swapped) / 2


def clamp_soft_labels(probs: Tensor, low: float = 0.4, high: float = 0.6) -> Tensor:
    """Soft labels held between `low` and `high`: a labeler that is too sure of itself may lean, no more.

    Constitutional AI clamps to 40–60 % where the labeler thinks aloud first, since its probabilities are then near 0
    or 1 (Bai et al. 2022, §4.1).

    Args:
        probs: probabilities, of any shape.
        low, high: in [0, 1], `low` at most `high`.
    """
    check_tensor("probs", probs, floating=True)
    check_number("low", low, low=0, high=1)
    check_number("high", high, low=low, high=1)
    return probs.clamp(low, high)


def critique_and_revise(
    answer: str,
    principles: Sequence[Any],
    critic: Callable[[str, Any], Found | None],
    reviser: Callable[[str, Found], str],
) -> str:
    """The answer after one round for each principle, in order: criticise, and rewrite if there is something to mend.

    Each critique reads the answer as the rounds before have left it (Bai et al. 2022, §3.1).

    Args:
        critic: (answer, principle) → a critique, or None if the answer keeps the principle.
        reviser: (answer, critique) → the answer rewritten.
    """
    for principle in principles:
        found = critic(answer, principle)
        if found is not None:
            answer = reviser(answer, found)
    return answer


def soft_reward_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, probs: Tensor) -> Tensor:
    """Bradley–Terry on soft labels: −p log σ(g) − (1 − p) log σ(−g), g = r_c − r_r, the mean over pairs, in nats.

    It is lowest where σ(g) = p: a label of 60 % asks for a gap of 0.41, a label of 1 for an endless one.

    Args:
        chosen_rewards, rejected_rewards, probs: (B,); `probs` are the labeler's P(chosen wins).
    """
    for name, tensor in (("chosen_rewards", chosen_rewards), ("rejected_rewards", rejected_rewards), ("probs", probs)):
        check_tensor(name, tensor, floating=True)
    check_same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, probs=probs)
    gap = chosen_rewards - rejected_rewards
    return -(probs * logsigmoid(gap) + (1 - probs) * logsigmoid(-gap)).mean()


# ---------------------------------------------------------------------- labelers


class AILabeler(Protocol):
    """Asked about pairs of answers: the probability (N,) that the answer shown first is the better one."""

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class RuleLabeler:
    """An AI labeler made of rules: what `labeler` sees and how sure it is, and a bias for the first slot.

    `position_bias` is added to the log-odds of the answer shown first; 1.0 makes 73 % of a coin's toss.
    """

    labeler: Labeler
    position_bias: float = 0.0

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        utilities = [
            [self.labeler.utility(prompt, answer) for prompt, answer in zip(prompts, answers)]
            for answers in (first, second)
        ]
        gap = torch.tensor(utilities[0]) - torch.tensor(utilities[1])
        return torch.sigmoid(gap / self.labeler.temperature + self.position_bias)


def verdict_prompt(prompt: str, first: str, second: str) -> str:
    """What a `ModelLabeler` reads before it gives its verdict."""
    return f"{prompt} {first} <sep> {second} <sep>"


@dataclass(frozen=True)
class ModelLabeler:
    """A language model that reads a prompt and two answers, and says in one word which is better.

    Only the two words' probabilities are compared, at the one place where the verdict would stand.

    Attributes:
        words: the verdict for the answer shown first, and for the other.
        ask: (prompt, first, second) → what the model reads, as text or as chat messages.
    """

    model: nn.Module
    tokenizer: Any
    words: tuple[str, str] = (FIRST, SECOND)
    ask: Callable[[str, str, str], Any] = verdict_prompt

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        rows = [{"prompt": self.ask(*row)} for row in zip(prompts, first, second)]
        rows = tokenize_prompts(rows, self.tokenizer, max_length=1_000_000)
        words = [self.tokenizer(word, add_special_tokens=False).input_ids[-1] for word in self.words]
        body, head = body_and_head(self.model)
        found = []
        with evaluation_mode(self.model):
            for start in range(0, len(rows), CHUNK):
                batch = collate_prompts(rows[start : start + CHUNK], self.tokenizer.pad_token_id)
                mask = batch["attention_mask"]
                batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
                batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
                logits = head(body(**batch, use_cache=False).last_hidden_state[:, -1])[:, words].float()
                found.append(torch.sigmoid(logits[:, 0] - logits[:, 1]).cpu())
        return torch.cat(found)


def teach_labeler(
    policy: nn.Module,
    tokenizer,
    groups: Sequence[dict],
    seed: int = 0,
    principles: Sequence[Principle] = CONSTITUTION,
    **changes: Any,
) -> ModelLabeler:
    """Teach a copy of a language model a constitution, by examples, until it can say which of two answers keeps it.

    Each group gives two examples: its two answers, and its first answer beside its own revision. The better one is the
    one with fewer sentences that break a principle; it stands in either slot, by a toss. Ties teach nothing.

    Args:
        groups: dicts with `prompt` and `answers`, at least two each, as `pipeline.sample_groups` returns them.
        changes: settings of the training (`SFTConfig`) other than the defaults here.
    """
    stream = python_stream(seed, "slots")
    rows = []
    for group in groups:
        prompt, (a, b) = group["prompt"], group["answers"][:2]
        for pair in ((a, b), (a, revised(prompt, a, principles))):
            first, second = stream.sample(pair, 2)
            broken = [violations(prompt, answer, principles) for answer in (first, second)]
            if broken[0] != broken[1]:
                verdict = FIRST if broken[0] < broken[1] else SECOND
                rows.append({"prompt": verdict_prompt(prompt, first, second), "completion": verdict})
    args = SFTConfig(**{"learning_rate": 1e-3, "group_by_length": True, "seed": seed, "disable_tqdm": True, **changes})
    trainer = SFTTrainer(copy.deepcopy(policy), args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return ModelLabeler(trainer.model.eval(), tokenizer)


# ---------------------------------------------------------------------- the two halves of Constitutional AI


def revised(
    prompt: str,
    answer: str,
    principles: Sequence[Principle] = CONSTITUTION,
    loop: Callable[..., str] = critique_and_revise,
) -> str:
    """An answer in the small world after critique and revision by every principle."""
    return loop(
        answer,
        principles,
        lambda text, principle: critique(prompt, text, principle),
        lambda text, found: revise(prompt, text, found),
    )


def ai_comparisons(
    groups: Sequence[dict],
    labeler: AILabeler,
    *,
    swap: bool = True,
    low: float = 0.0,
    high: float = 1.0,
    debias: Callable[[Tensor, Tensor], Tensor] = debiased_preference,
    clamp: Callable[[Tensor, float, float], Tensor] = clamp_soft_labels,
) -> list[dict]:
    """Pairs of answers with an AI labeler's soft labels, the preferred answer as `chosen`.

    Args:
        groups: dicts with `prompt`, two `answers` and `ended`, as `pipeline.sample_groups` returns them.
        swap: ask in both orders, at twice the cost; else the first answer is always shown first.
        low, high: where labels are clamped, as P(the first answer wins).

    Returns:
        Rows with `prompt`, `chosen`, `rejected`, `ended`, `probability` (the label: P(chosen wins), at least a half)
        and, for judging only, `gold_chosen`, `gold_rejected`.
    """
    prompts = [group["prompt"] for group in groups]
    a, b = ([group["answers"][i] for group in groups] for i in (0, 1))
    probs = labeler(prompts, a, b)
    if swap:
        probs = debias(probs, labeler(prompts, b, a))
    rows = []
    for group, p in zip(groups, clamp(probs, low, high).tolist()):
        order = (0, 1) if p >= 0.5 else (1, 0)
        answers, ended = ([group[name][i] for i in order] for name in ("answers", "ended"))
        golds = [gold_reward(group["prompt"], text, ended=end) for text, end in zip(answers, ended)]
        rows.append(
            {
                "prompt": group["prompt"],
                **dict(zip(("chosen", "rejected"), answers)),
                "ended": ended,
                "probability": max(p, 1 - p),
                **dict(zip(("gold_chosen", "gold_rejected"), golds)),
            }
        )
    return rows


def agreement(probs: np.ndarray | Tensor) -> float:
    """How often two draws of a labeler's label agree: the mean of p² + (1 − p)²."""
    probs = torch.as_tensor(probs, dtype=torch.float64)
    return float((probs**2 + (1 - probs) ** 2).mean())
