"""Lesson 12's run: judge, DPO, GRPO on a real model, measured before and after each."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rlhf_course import capstone
from rlhf_course.capstone.pairs import DATA, DATA_VARIABLE
from rlhf_course.experiments.table import Table
from rlhf_course.models import load_policy, weights_note
from rlhf_course.trainers import DPOTrainer, GRPOTrainer

#: The whole run again from each of these: the draw of the rows, the judge's head, the order and the sampling.
SEEDS = (0, 1, 2)


def cpu(seeds: Sequence[int] = SEEDS) -> Table:
    """The run of the tier "cpu", on the comparisons that `RLHF_COURSE_PREFERENCES` names.

    Columns: `seed`; `stage` ("start", "DPO", "GRPO"). Of `pairs` held-out comparisons, the share that the policy's
    implicit rewards put in order (`accuracy`, `accuracy_low`, `accuracy_high`), that its log-probabilities alone do
    (`logp_accuracy`), and that the judge does (`judge_accuracy`). Of its answers to `prompts` held-out prompts, the
    judge's mean `score`, how often it prefers them to the start's (`win_rate`, `win_low`, `win_high`), their `kl` from
    the start, in nats an answer, and their mean `length` in tokens. Of `tasks` held-out sums, the share answered
    in the form (`form`), and rightly as well (`right`, `right_low`, `right_high`). `seconds` since the run began.

    Takes about five minutes a seed on one core, and 4 GB.
    """
    settings, rows = capstone.TIERS["cpu"], capstone.load_rows()
    found = [row for seed in seeds for row in _run(settings, rows, seed)]
    note = weights_note(load_policy(settings.model, "cpu")[0])
    data = Path(os.environ.get(DATA_VARIABLE, DATA)).name
    about = {"seeds": list(seeds), "model": settings.model, "weights": note or "as published", "data": data}
    return Table("capstone.cpu", about, found)


def _run(settings: capstone.Settings, rows, seed: int) -> list[dict[str, Any]]:
    began = time.perf_counter()
    start, tokenizer = load_policy(settings.model)
    pairs = capstone.choose_pairs(rows, tokenizer, settings, seed)
    judge = capstone.train_judge(start, tokenizer, pairs.judge, settings, seed)
    judged = capstone.judge_accuracy(judge, tokenizer, pairs.held_out, settings)
    start_logps = capstone.pair_logps(start, tokenizer, pairs.held_out, settings)
    before = capstone.sample(start, start, judge, tokenizer, pairs.held_out, settings, seed)

    def measured(stage: str, policy: nn.Module) -> dict[str, Any]:
        same = policy is start
        logps = start_logps if same else capstone.pair_logps(policy, tokenizer, pairs.held_out, settings)
        accuracy = capstone.preference_accuracy(logps, start_logps)
        after = before if same else capstone.sample(policy, start, judge, tokenizer, pairs.held_out, settings, seed)
        match = capstone.evaluate(before.answer, after.answer, capstone.lookup_judge(before, after), before.questions)
        passes = capstone.pass_rates(policy, tokenizer, capstone.sums("held_out"), settings, seed)
        return {
            "seed": seed,
            "stage": stage,
            "pairs": accuracy.n,
            "accuracy": accuracy.value,
            **dict(zip(("accuracy_low", "accuracy_high"), accuracy.interval)),
            "logp_accuracy": capstone.preference_accuracy(logps).value,
            "prompts": match["n"],
            "score": after.scores.mean().item(),
            "win_rate": match["win_rate"],
            "win_low": match["low"],
            "win_high": match["high"],
            "kl": after.kl.mean().item(),
            "length": after.lengths.float().mean().item(),
            "tasks": passes.form.n,
            "form": passes.form.value,
            "right": passes.right.value,
            **dict(zip(("right_low", "right_high"), passes.right.interval)),
            "judge_accuracy": judged.value,
            "seconds": time.perf_counter() - began,
        }

    found = [measured("start", start)]
    policy = capstone.trainable_copy(start, settings)
    DPOTrainer(policy, args=settings.args("dpo", seed), train_dataset=pairs.train, processing_class=tokenizer).train()
    found.append(measured("DPO", policy))

    tasks = capstone.sums("train")
    GRPOTrainer(
        policy,
        reward_funcs=[form, capstone.correct_reward(tasks)],
        args=settings.args("grpo", seed),
        train_dataset=tasks,
        processing_class=tokenizer,
    ).train()
    found.append(measured("GRPO", policy))
    return found


def form(prompts, completions) -> list[float]:
    """`capstone.format_reward`, called as GRPO calls a reward."""
    return capstone.format_reward(completions)
