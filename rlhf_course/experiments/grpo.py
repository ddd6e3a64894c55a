"""What lesson 08 claims about GRPO: against PPO, run after run, the ways to average, and a rule that pays.

The policies come from the pipeline's SFT and reward model of each seed; those of the pipeline's own settings are kept
by `trained`. One seed of all of it takes about ten minutes on one core.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data.world import concept_of, gold_reward, world_tokenizer
from rlhf_course.evaluation import draw_prompts, evaluate_policy, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.base import Trainer
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer

SEEDS = (0, 1, 2)
METHODS = ("sft", "ppo", "grpo", "rloo")
#: Ways to turn token losses into one number, with what belongs to each where it was proposed.
AGGREGATIONS: dict[str, dict[str, Any]] = {
    "dapo": {},  # the pipeline's own
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 8},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
}
#: Runs of each method from the same SFT and reward model, the pipeline's own included.
RUNS = 3
#: Steps of both trainers that are timed, after as many that warm up.
TIMED_STEPS = 6
RULE_STEPS = 60


def against_ppo(seeds: Sequence[int] = SEEDS) -> Table:
    """SFT, PPO, GRPO and RLOO, judged on the same prompts by the truth; every method has 80 steps of 64 answers.

    Columns: `seed`, `method`, then what `evaluate_policy` returns: `gold` with its standard error `gold_se`, `length`,
    `kl` (nats an answer from the SFT model) and `proxy`, the reward model's score. Three minutes a seed, once the
    models are there.
    """
    rows = [
        {"seed": seed, "method": method, **_judge(trained(method, seed), seed)} for seed in seeds for method in METHODS
    ]
    return Table("grpo.against_ppo", _settings(seeds), rows)


def run_to_run(seeds: Sequence[int] = SEEDS, runs: int = RUNS) -> Table:
    """PPO and GRPO again and again from the same SFT and reward model: how far chance alone moves the result.

    Columns: `seed` of the models; `method`; `run`, from 0, the pipeline's own, others with other prompts and samples;
    then what `evaluate_policy` returns. Four minutes a seed.
    """
    rows = []
    for seed in seeds:
        for method in ("ppo", "grpo"):
            for run in range(runs):
                policy = trained(method, seed) if run == 0 else _again(method, seed, run)
                rows.append({"seed": seed, "method": method, "run": run, **_judge(policy, seed)})
    return Table("grpo.run_to_run", _settings(seeds, runs=runs), rows)


def cost(seeds: Sequence[int] = SEEDS, steps: int = TIMED_STEPS) -> Table:
    """What a step takes and what has to be held: PPO and GRPO take turns, a step each, in one process.

    Columns: `seed`; `method`, "ppo", "grpo" or "grpo without a reference" (β = 0); `seconds`, the median step's
    processor time, for comparing methods and not machines; `trained` and `frozen`, numbers of weights; and in MB
    `weights`, `gradients` and `optimizer`, counted over the tensors there are after a step. Activations are not
    counted. Half a minute a seed.
    """
    rows = []
    for seed in seeds:
        trainers = _trainers(seed, 2 * steps)
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for step in range(2 * steps):
            for name, trainer in trainers.items():
                began = time.process_time()
                trainer.before_step()
                trainer.step(trainer.batch(step))
                seconds[name].append(time.process_time() - began)
                trainer.global_step += 1
        for name, trainer in trainers.items():
            median = torch.tensor(seconds[name][steps:]).median().item()
            rows.append({"seed": seed, "method": name, "seconds": median, **_held(trainer)})
    return Table("grpo.cost", _settings(seeds, timed_steps=steps), rows)


def aggregation(seeds: Sequence[int] = SEEDS, ways: Sequence[str] = tuple(AGGREGATIONS)) -> Table:
    """GRPO with token losses averaged in four ways: what it does to the answers' length, and to the truth.

    Columns: `seed`, `way` (of `AGGREGATIONS`; "dr_grpo" also leaves out the division by the spread, and "bnpo" works
    through a batch in eight pieces, without which it is "dapo"), then what `evaluate_policy` returns. Four minutes a
    seed.
    """
    rows = []
    for seed in seeds:
        for way in ways:
            if AGGREGATIONS[way]:
                policy = _grpo(seed, trained("reward", seed), **AGGREGATIONS[way]).model
            else:
                policy = trained("grpo", seed)
            rows.append({"seed": seed, "way": way, **_judge(policy, seed)})
    return Table("grpo.aggregation", _settings(seeds), rows)


def verifiable(seeds: Sequence[int] = SEEDS, steps: int = RULE_STEPS) -> Table:
    """GRPO with a rule in the reward model's place: 1 for an answer that states the truth, else 0.

    Columns: `seed`, `step`; `passed`, the share of the step's answers that pass `states_the_truth`; `zero_std`, the
    share of groups whose answers all get the same; `length`, in tokens. The row of the last step + 1 is not of training
    but of fresh answers: `zero_std` is not known there. `gold` is of fresh answers at the first and last row, else
    None. One minute a seed.
    """
    rows = []
    for seed in seeds:
        start = trained("sft", seed)
        trainer = _grpo(seed, states_the_truth, max_steps=steps)
        rows.append({"seed": seed, "step": 0, **_passes(start, seed), "zero_std": None})
        rows += [
            {
                "seed": seed,
                "step": row["step"],
                "passed": row["reward"],
                "length": row["completions/mean_length"],
                "gold": None,
                "zero_std": row["frac_reward_zero_std"],
            }
            for row in trainer.history
        ]
        rows.append({"seed": seed, "step": steps + 1, **_passes(trainer.model, seed), "zero_std": None})
    return Table("grpo.verifiable", _settings(seeds, rule_steps=steps), rows)


def states_the_truth(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A rule in the place of a reward model: 1 for an answer that has both the fact and the fitting analogy, else 0.

    It can be checked by looking for the concept's words; how the answer is written does not matter to it.
    """
    concepts = [concept_of(prompt) for prompt in prompts]
    return [float(c.fact in answer and c.analogy in answer) for c, answer in zip(concepts, completions)]


# ---------------------------------------------------------------------- runs and what is measured of them


def _start(seed: int) -> tuple[nn.Module, nn.Module]:
    return trained("sft", seed), trained("reward", seed)


def _grpo(seed: int, reward_funcs, **changes: Any) -> GRPOTrainer:
    return pipeline.grpo(trained("sft", seed), reward_funcs, seed, use_cpu=True, disable_tqdm=True, **changes)


def _again(method: str, seed: int, run: int) -> nn.Module:
    stage = {"ppo": pipeline.ppo, "grpo": pipeline.grpo}[method]
    chance = derive_seed(seed, f"{method}, run {run}")
    return stage(*_start(seed), chance, use_cpu=True, disable_tqdm=True).model


def _judge(policy: nn.Module, seed: int) -> dict[str, float]:
    sft, judge = _start(seed)
    return evaluate_policy(
        policy, world_tokenizer(), ref_model=sft, reward_model=judge, seed=derive_seed(seed, "fresh answers")
    )


def _passes(policy: nn.Module, seed: int, n: int = 512) -> dict[str, float]:
    """The rule's and the truth's verdict on fresh answers."""
    prompts = draw_prompts(n, derive_seed(seed, "fresh answers"))
    answers = sample_answers(policy, world_tokenizer(), prompts, derive_seed(seed, "fresh answers"))
    passed = states_the_truth(prompts, [answer.text for answer in answers])
    golds = [gold_reward(answer.prompt, answer.text, ended=answer.ended) for answer in answers]
    lengths = [len(answer.text.split()) + answer.ended for answer in answers]
    return {"passed": sum(passed) / n, "length": sum(lengths) / n, "gold": sum(golds) / n}


def _trainers(seed: int, steps: int) -> dict[str, Trainer]:
    """A PPO and two GRPO trainers from the same models, none of which has taken a step."""
    sft, judge = _start(seed)
    quiet = {"seed": seed, "use_cpu": True, "disable_tqdm": True, "max_steps": steps}
    ppo = PPOConfig(**pipeline.settings("ppo", value_warmup_steps=0, **quiet))
    grpo = {
        "grpo": GRPOConfig(**pipeline.settings("grpo", **quiet)),
        "grpo without a reference": GRPOConfig(**pipeline.settings("grpo", beta=0.0, **quiet)),
    }
    common = {"ref_model": sft, "reward_funcs": judge, "processing_class": world_tokenizer()}
    prompts = [{"prompt": prompt} for prompt in draw_prompts(steps * 64, derive_seed(seed, "cost"))]

    def policy() -> nn.Module:
        return trained("sft", seed)

    return {
        "ppo": PPOTrainer(policy(), args=ppo, train_dataset=prompts, **common),
        **{name: GRPOTrainer(policy(), args=args, train_dataset=prompts, **common) for name, args in grpo.items()},
    }


def _held(trainer: Trainer) -> dict[str, float]:
    """What a trainer holds, counted: numbers of weights, and megabytes of weights, gradients and Adam's averages."""
    learning = [p for model in trainer.trained_models().values() for p in model.parameters()]
    frozen = [trainer.reward_funcs] if isinstance(trainer.reward_funcs, nn.Module) else list(trainer.reward_funcs)
    if getattr(trainer.args, "beta", 1.0) > 0:
        frozen.append(trainer.ref_model)
    still = [p for model in frozen for p in model.parameters()]
    averages = [x for state in trainer.optimizer.state.values() for x in state.values() if torch.is_tensor(x)]

    def megabytes(tensors) -> float:
        return sum(x.numel() * x.element_size() for x in tensors) / 1e6

    return {
        "trained": sum(p.numel() for p in learning),
        "frozen": sum(p.numel() for p in still),
        "weights": megabytes(learning) + megabytes(still),
        "gradients": megabytes(learning),
        "optimizer": megabytes(averages),
    }


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "grpo": pipeline.SETTINGS["grpo"], "rloo": pipeline.SETTINGS["rloo"], **more}
