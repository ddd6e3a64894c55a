"""Where a step of GRPO spends its time, ours and TRL's, and what PPO's step costs beside it."""

import copy
import statistics
from functools import partial

from benchmarks.race import OURS, Result, calls_timed, race, steps_timed
from benchmarks.steps import trainer_of
from benchmarks.training import THEIRS, Case, policy, rows
from rlhf_course.models import load_reward_model
from rlhf_course.trainers import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer


def parts(case: Case, rounds: int) -> list[Result]:
    """A step of GRPO in two parts: drawing and scoring the answers, and the rest, which is the update."""
    return [
        result
        for part in ("rollout", "update")
        for result in race(
            f"{case}, {part}", {side: partial(_part, side, case, part) for side in (*THEIRS, OURS)}, rounds
        )
    ]


def _part(side: str, case: Case, part: str) -> float:
    sampling = "rollout" if side == OURS else "_generate_and_score_completions"
    with trainer_of(side, case) as trainer, calls_timed(trainer, sampling) as rollouts, steps_timed() as wholes:
        trainer.train()
    # A step reaches from one update to the next: the first rollout lies before the first of them.
    found = rollouts[1:] if part == "rollout" else [whole - rollout for whole, rollout in zip(wholes, rollouts[1:])]
    return statistics.median(found)


def ppo_against_grpo(rounds: int, answers: int = 64, steps: int = 6) -> list[Result]:
    """PPO's step at its default four passes and at one, as a multiple of GRPO's ("ours"), with the same judge."""
    shared = {"per_device_train_batch_size": answers, "max_steps": steps, "use_cpu": True, "disable_tqdm": True}
    ppo, grpo = (
        partial(PPOConfig, **shared, response_length=40),
        partial(GRPOConfig, **shared, max_completion_length=40),
    )
    sides = {
        "PPO, four passes": partial(_whole, PPOTrainer, ppo()),
        "PPO, one pass": partial(_whole, PPOTrainer, ppo(num_ppo_epochs=1)),
        OURS: partial(_whole, GRPOTrainer, grpo()),
    }
    return race(f"ppo against grpo, tiny, {answers} answers", sides, rounds)


def _whole(trainer_class: type, args) -> float:
    model, tokenizer = policy("tiny")
    judge = load_reward_model("tiny-reward", "cpu")[0].requires_grad_(False)
    prompts = rows(Case("grpo", "tiny", args.per_device_train_batch_size, args.max_steps))
    trainer = trainer_class(
        copy.deepcopy(model), reward_funcs=judge, args=args, train_dataset=prompts, processing_class=tokenizer
    )
    with calls_timed(trainer, "step") as seconds:
        trainer.train()
    return statistics.median(seconds)
