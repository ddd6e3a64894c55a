"""Judging policies and reward models by the truth of the small world, on fresh samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_course._checks import check_count, check_same_shape, check_tensor
from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.data.world.config import WORLD, WorldConfig
from rlhf_course.data.world.gold import gold_reward
from rlhf_course.generation import evaluation_mode
from rlhf_course.logprobs import sequence_logps
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.seeding import python_stream
from rlhf_course.trainers.reward import collate_rankings, tokenize_rankings
from rlhf_course.trainers.rollout import Rollout, sample_rollout, score_rollout
from rlhf_course.trainers.support import to_device

#: Rows sampled or scored at once.
CHUNK = 256


@dataclass(frozen=True)
class Answer:
    """A sampled answer: its prompt, its words without special tokens, and whether it came to its end token."""

    prompt: str
    text: str
    ended: bool


def draw_prompts(n: int, seed: int, split: str = "train", world: WorldConfig = WORLD) -> list[str]:
    """`n` prompts of the world drawn uniformly from a split ("train", "held_out" or "all")."""
    rng = python_stream(seed, "prompts")
    prompts = world.prompts(split)
    return [rng.choice(prompts) for _ in range(n)]


def _rollouts(model, tokenizer, prompts: Sequence[str], seed: int, max_new_tokens: int, temperature: float):
    rows = tokenize_prompts([{"prompt": prompt} for prompt in prompts], tokenizer, max_length=1_000_000)
    for start in range(0, len(rows), CHUNK):
        yield sample_rollout(
            model,
            tokenizer,
            rows[start : start + CHUNK],
            slice(None),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            stream=(seed, "answers", start),
        )


def _answers(rollout: Rollout, tokenizer) -> list[Answer]:
    texts = rollout.completions(tokenizer)
    return [Answer(*row) for row in zip(rollout.prompts, texts, rollout.ended.tolist())]


def sample_answers(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    seed: int,
    max_new_tokens: int = WORLD.max_answer_tokens,
    temperature: float = 1.0,
) -> list[Answer]:
    """One answer to each prompt, in order, from the stream `("answers", …)` of `seed`."""
    found = _rollouts(model, tokenizer, prompts, seed, max_new_tokens, temperature)
    return [answer for rollout in found for answer in _answers(rollout, tokenizer)]


@dataclass(frozen=True)
class JudgedAnswers:
    """Fresh answers of a policy and what each is worth, in arrays of their order.

    Attributes:
        gold: the gold reward of each.
        length: its number of tokens, the end token included.
        kl: log π − log π_ref of each, in nats; None without a reference.
        proxy: a reward model's score; None without one.
    """

    answers: list[Answer]
    gold: np.ndarray
    length: np.ndarray
    kl: np.ndarray | None
    proxy: np.ndarray | None

    def means(self) -> dict[str, float]:
        """What `evaluate_policy` returns."""
        error = float(self.gold.std(ddof=1) / sqrt(len(self.gold)))
        others = {"length": self.length, "kl": self.kl, "proxy": self.proxy}
        means = {name: float(values.mean()) for name, values in others.items() if values is not None}
        return {"gold": float(self.gold.mean()), "gold_se": error, **means}


@torch.no_grad()
def judge_answers(
    model: nn.Module,
    tokenizer,
    *,
    ref_model: nn.Module | None = None,
    reward_model: nn.Module | None = None,
    n: int = 512,
    seed: int = 0,
    split: str = "train",
    world: WorldConfig = WORLD,
) -> JudgedAnswers:
    """`n` fresh answers of a policy, at least 2, one by one. Every model keeps the mode it is in."""
    check_count("n", n, low=2)
    prompts = draw_prompts(n, seed, split, world)
    answers, length, kl, proxy = [], [], [], []
    reference = None if ref_model is None else CompletionLogps(ref_model)
    judges = [judge for judge in (ref_model, reward_model) if judge is not None]
    with evaluation_mode(*judges):
        for rollout in _rollouts(model, tokenizer, prompts, seed, world.max_answer_tokens, 1.0):
            answers += _answers(rollout, tokenizer)
            length += rollout.mask.sum(dim=1).tolist()
            if reference is not None:
                ref_logps = reference(rollout.sequences, rollout.attention_mask, rollout.completion_mask)
                ref_logps = ref_logps[:, rollout.prompt_width - 1 :]
                kl += sequence_logps(rollout.logps - ref_logps, rollout.mask).tolist()
            if reward_model is not None:
                proxy += score_rollout(reward_model, rollout, tokenizer).tolist()
    gold = [gold_reward(a.prompt, a.text, ended=a.ended, world=world) for a in answers]
    asked = [None if judge is None else np.array(found) for judge, found in ((ref_model, kl), (reward_model, proxy))]
    return JudgedAnswers(answers, np.array(gold), np.array(length), *asked)


def evaluate_policy(
    model: nn.Module,
    tokenizer,
    *,
    ref_model: nn.Module | None = None,
    reward_model: nn.Module | None = None,
    n: int = 512,
    seed: int = 0,
    split: str = "train",
    world: WorldConfig = WORLD,
) -> dict[str, float]:
    """What a policy is worth on `n` fresh answers, at least 2. Every model keeps the mode it is in.

    Returns:
        `gold`: mean gold reward, and `gold_se` its standard error, in gold units. With `ref_model`, `kl`: nats an
        answer from it, estimated on these answers. With `reward_model`, `proxy`: its mean score. `length`: mean number
        of tokens, the end token included.
    """
    judges = {"ref_model": ref_model, "reward_model": reward_model}
    return judge_answers(model, tokenizer, **judges, n=n, seed=seed, split=split, world=world).means()


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default (Wilson 1927): honest for few trials and near 0 and 1."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must lie between 0 and n, and n be at least 1, got {successes} of {n}")
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def win_rate(scores_a: Tensor, scores_b: Tensor) -> float:
    """How often A's answer beats B's to the same prompt, a share in [0, 1]; a tie counts half, for both.

    So win_rate(a, b) + win_rate(b, a) = 1, and a policy wins half of its games against itself.

    Args:
        scores_a, scores_b: (N,) at least one: what a judge makes of A's and of B's answer to prompt i.
    """
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        check_tensor(name, scores, ndim=1)
    check_same_shape(scores_a=scores_a, scores_b=scores_b)
    check_count("the number of scores", len(scores_a), low=1)
    return ((scores_a > scores_b).double() + 0.5 * (scores_a == scores_b).double()).mean().item()


def pareto_frontier(kl: Tensor, gold: Tensor) -> Tensor:
    """Which of N policies nobody beats: (N,) bools, in the order given.

    A policy is beaten where another has no more KL and no less gold, and is better in at least one of the two. So of
    two with the same gold the one with less KL is kept, and two that are the same in both do not beat each other:
    they are kept or beaten together.

    Args:
        kl, gold: (N,) finite numbers; less KL and more gold are better.
    """
    for name, values in (("kl", kl), ("gold", gold)):
        check_tensor(name, values, ndim=1)
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} must hold finite numbers, got {values.tolist()}")
    check_same_shape(kl=kl, gold=gold)
    no_worse = (kl[None] <= kl[:, None]) & (gold[None] >= gold[:, None])  # [i, j]: j is no worse than i
    better = (kl[None] < kl[:, None]) | (gold[None] > gold[:, None])
    return ~(no_worse & better).any(dim=1)


@torch.no_grad()
def reward_accuracy(reward_model: nn.Module, tokenizer, comparisons: Sequence[dict]) -> dict[str, float]:
    """How a reward model and the labels it learned from rank held-out pairs, by the gold reward.

    Args:
        comparisons: rows with `prompt`, `chosen`, `rejected`, `gold_chosen` and `gold_rejected`, and `ended` if answers
            were cut off. Those whose two answers are the same are left out: no model can tell them apart.

    Returns:
        On the pairs that are not tied in gold: `rm_gold_accuracy` and `label_gold_accuracy`, the shares in gold order;
        `difference` with its 95 % interval `difference_low`, `difference_high` (paired); `pairs`, their number. On all
        pairs, `label_accuracy`: how often the model agrees with the label. A model that rewards both answers alike is
        half right.

    Raises:
        ValueError: where fewer than two pairs are left that differ in gold.
    """
    columns = ("prompt", "chosen", "rejected", "gold_chosen", "gold_rejected")
    pairs = [{**{name: row[name] for name in columns}, "ended": row.get("ended", (True, True))} for row in comparisons]
    rows = tokenize_rankings(pairs, tokenizer, max_length=1_000_000)
    gold_gaps = np.array([row["gold_chosen"] - row["gold_rejected"] for row in rows])
    untied = np.abs(gold_gaps) > 1e-9
    if untied.sum() < 2:
        raise ValueError(f"comparisons must hold at least two pairs that differ in gold, got {untied.sum()}")
    margins = []
    with evaluation_mode(reward_model):
        for start in range(0, len(rows), CHUNK):
            batch = to_device(
                collate_rankings(rows[start : start + CHUNK], tokenizer.pad_token_id), reward_model.device
            )
            rewards = reward_model(batch["input_ids"], batch["attention_mask"])
            margins += (rewards[batch["better"]] - rewards[batch["worse"]]).tolist()
    agrees = (1 + np.sign(margins)) / 2  # with the label: 1, 0, or a half for equal rewards
    label_right = (gold_gaps > 0)[untied].astype(float)
    rm_right = np.where(label_right, agrees[untied], 1 - agrees[untied])
    gain = rm_right - label_right
    half = 1.96 * gain.std(ddof=1) / sqrt(len(gain))
    return {
        "rm_gold_accuracy": float(rm_right.mean()),
        "label_gold_accuracy": float(label_right.mean()),
        "difference": float(gain.mean()),
        "difference_low": float(gain.mean() - half),
        "difference_high": float(gain.mean() + half),
        "pairs": int(untied.sum()),
        "label_accuracy": float(agrees.mean()),
    }
