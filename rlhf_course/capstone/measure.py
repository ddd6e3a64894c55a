"""What a real policy is worth: shares with their intervals, and answers with scores, KL and lengths."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_course.capstone.pairs import question
from rlhf_course.capstone.rule import correct_reward, format_reward
from rlhf_course.capstone.settings import Settings
from rlhf_course.data import Rows, collate_preferences, tokenize_prompts
from rlhf_course.evaluation import wilson_interval
from rlhf_course.generation import evaluation_mode
from rlhf_course.logprobs import sequence_logps
from rlhf_course.models import RewardModel
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.trainers.rollout import sample_rollout, score_rollout
from rlhf_course.trainers.support import to_device


@dataclass(frozen=True)
class Share:
    """So many of `n`, with the 95 % interval of the share behind it (Wilson). A tie counts a half."""

    count: float
    n: int

    @property
    def value(self) -> float:
        return self.count / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.count, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.value:.1f} % ({self.count:g} of {self.n}, 95 % interval {100 * low:.0f} to {100 * high:.0f})"
        )


def evaluate(
    before: Callable[[str], str],
    after: Callable[[str], str],
    judge: Callable[[str, str], float],
    prompts: Sequence[str],
) -> dict[str, float]:
    """Is a trained policy better than the one it came from, and how sure is that?

    Args:
        before, after: the two policies. Called with a prompt they give an answer, and asked again maybe another one:
            each is asked once a prompt.
        judge: called with a prompt and an answer it gives a score; more is better.
        prompts: held out from training, at least one.

    Returns:
        `win_rate`: the share of prompts whose answer after training scores higher, a tie counting a half; `low` and
        `high`: its 95 % interval (Wilson); `n`: the number of prompts; `length_before` and `length_after`: mean number
        of words of the same answers.
    """
    pairs = [(prompt, before(prompt), after(prompt)) for prompt in prompts]
    gaps = [judge(prompt, new) - judge(prompt, old) for prompt, old, new in pairs]
    won = Share(sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps), len(gaps))
    lengths = zip(*((len(old.split()), len(new.split())) for _, old, new in pairs))
    length_before, length_after = (sum(counts) / len(gaps) for counts in lengths)
    return {
        "win_rate": won.value,
        "low": won.interval[0],
        "high": won.interval[1],
        "n": len(gaps),
        "length_before": length_before,
        "length_after": length_after,
    }


@torch.no_grad()
def pair_logps(model: nn.Module, tokenizer, rows: Rows, settings: Settings) -> Tensor:
    """log π of the chosen and of the rejected answers, (N, 2), of rows that `choose_pairs` has drawn."""
    score = CompletionLogps(model)

    def both(batch):
        return sequence_logps(score(**batch), batch["completion_mask"][:, 1:])

    with evaluation_mode(model):
        return _of_pairs(both, tokenizer, rows, settings, model.device)


def _of_pairs(function: Callable[[dict[str, Tensor]], Tensor], tokenizer, rows: Rows, settings: Settings, device):
    """What a function of a batch says of chosen and rejected answers, (N, 2); rows of like length go together."""
    lengths = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    found = torch.empty(len(rows), 2)
    with _if_memory_runs_out():
        for places in _parts(torch.tensor(lengths).argsort(), settings.eval_batch_size // 2):
            batch = to_device(collate_preferences([rows[i] for i in places], tokenizer.pad_token_id), device)
            found[places] = torch.stack(function(batch).float().cpu().chunk(2), dim=1)
    return found


def preference_accuracy(logps: Tensor, start_logps: Tensor | None = None) -> Share:
    """How often the chosen answer is put above the rejected one: by its implicit reward, log π − log π of the start, or
    by log π alone. Before training the implicit rewards are all 0: ties, and so a half.

    Args:
        logps, start_logps: (N, 2) as `pair_logps` gives them.
    """
    rewards = logps if start_logps is None else logps - start_logps
    return Share(((1 + (rewards[:, 0] - rewards[:, 1]).sign()) / 2).sum().item(), len(rewards))


@torch.no_grad()
def judge_accuracy(judge: RewardModel, tokenizer, rows: Rows, settings: Settings) -> Share:
    """How often the judge scores the chosen answer higher."""

    def both(batch):
        return judge(batch["input_ids"], batch["attention_mask"])

    return preference_accuracy(_of_pairs(both, tokenizer, rows, settings, judge.device))


@dataclass(frozen=True)
class Answers:
    """A policy's answers to some prompts.

    Attributes:
        questions, texts: what was asked, and what was said.
        scores: the judge's, (N,).
        kl: log π − log π of the start, added up over an answer, (N,); its mean estimates the KL in nats an answer.
        lengths: tokens, (N,), the end token included.
    """

    questions: list[str]
    texts: list[str]
    scores: Tensor
    kl: Tensor
    lengths: Tensor

    def answer(self, asked: str) -> str:
        """The answer to a question, as a policy gives it."""
        return self.texts[self.questions.index(asked)]

    def __str__(self) -> str:
        kl, length = round(self.kl.mean().item(), 2) + 0.0, self.lengths.float().mean().item()  # -0.0 + 0.0 is 0.0
        return f"{len(self.texts)} answers: mean score {self.scores.mean():+.2f}, KL {kl:.2f} nats, {length:.0f} tokens"


@torch.no_grad()
def sample(
    policy: nn.Module, start: nn.Module, judge: RewardModel, tokenizer, rows: Rows, settings: Settings, seed: int = 0
) -> Answers:
    """One answer to each of the first `settings.prompts` prompts of `rows`, with score and KL.

    The score is the judge's, the KL is from `start`. Two policies asked with one seed draw the same random numbers.
    """
    rows = tokenize_prompts(rows[: settings.prompts], tokenizer, settings.max_length)
    reference = CompletionLogps(start)
    texts, scores, kl, lengths = [], [], [], []
    with _if_memory_runs_out(), evaluation_mode(start):
        for place, part in enumerate(_parts(rows, settings.eval_batch_size)):
            rollout = sample_rollout(
                policy,
                tokenizer,
                part,
                slice(None),
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                stream=(seed, "capstone answers", place),
            )
            whole = (rollout.sequences, rollout.attention_mask, rollout.completion_mask)
            ref_logps = reference(*whole, settings.temperature)[:, rollout.prompt_width - 1 :]
            texts += rollout.completions(tokenizer)
            scores.append(score_rollout(judge, rollout, tokenizer).cpu())
            kl.append(sequence_logps(rollout.logps - ref_logps, rollout.mask).cpu())
            lengths.append(rollout.mask.sum(dim=1).cpu())
    questions = [question(row["prompt"]) for row in rows]
    return Answers(questions, texts, *map(torch.cat, (scores, kl, lengths)))


def lookup_judge(*answers: Answers) -> Callable[[str, str], float]:
    """The judge's scores of answers that were sampled already, as a function of question and answer."""
    scores = {
        (asked, text): score
        for some in answers
        for asked, text, score in zip(some.questions, some.texts, some.scores.tolist())
    }
    return lambda asked, text: scores[asked, text]


class Passes(NamedTuple):
    """How many answers have the form, how many are right as well, and what they say."""

    form: Share
    right: Share
    texts: list[str]


@torch.no_grad()
def pass_rates(
    policy: nn.Module, tokenizer, tasks: Sequence[dict[str, Any]], settings: Settings, seed: int = 0
) -> Passes:
    """What the rule says of one answer to each of the first `settings.tasks` tasks."""
    tasks = list(tasks)[: settings.tasks]
    rows, correct = tokenize_prompts(tasks, tokenizer, settings.max_length), correct_reward(tasks)
    form, right, texts = 0.0, 0.0, []
    with _if_memory_runs_out():
        for place, part in enumerate(_parts(rows, settings.eval_batch_size)):
            rollout = sample_rollout(
                policy,
                tokenizer,
                part,
                slice(None),
                max_new_tokens=settings.grpo["max_completion_length"],
                temperature=settings.temperature,
                stream=(seed, "capstone tasks", place),
            )
            found = rollout.completions(tokenizer)
            form += sum(format_reward(found))
            right += sum(correct(rollout.prompts, found))
            texts += found
    return Passes(Share(form, len(rows)), Share(right, len(rows)), texts)


def _parts(rows: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(rows), max(size, 1)):
        yield rows[start : start + max(size, 1)]


@contextmanager
def _if_memory_runs_out() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            "out of memory in an evaluation: lower eval_batch_size (or max_length, max_new_tokens) of the settings"
        ) from error
