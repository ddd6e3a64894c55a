"""What is trained in a race: the methods, models and rows, the same for our trainers and TRL's.

TRL runs twice: at its best settings for the sizes learners use, and as it comes (activations recomputed, and the
reference of DPO and KTO asked again in every step). Both sides are made anew in every round, and a step is timed from
one update of the weights to the next, so that neither setting up nor the reference's log-probabilities, where they are
computed once, count. In GRPO each side samples with its own sampler. `steps` runs the race, `parity` sees to it that
both do the same work.
"""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

from rlhf_course import pipeline
from rlhf_course.data import unpair_preferences
from rlhf_course.data.world import demonstrations
from rlhf_course.models import RewardModel, load_policy
from rlhf_course.models.tiny import tiny_config
from rlhf_course.over_to_trl import METHODS
from rlhf_course.seeding import seed_all

BEST = "TRL, at its best settings"
DEFAULTS = "TRL, as it comes"
THEIRS = {
    BEST: {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    DEFAULTS: {"gradient_checkpointing": True, "precompute_ref_log_probs": False},
}


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        method: "sft", "reward", "dpo", "kto" or "grpo".
        model: a name of `policy`.
        rows: of a batch: answers, pairs, or in "grpo" sampled answers.
        steps: that are timed in a round, and one more before them.
    """

    method: str
    model: str
    rows: int
    steps: int

    def __str__(self) -> str:
        unit = {"reward": "pairs", "dpo": "pairs"}.get(self.method, "answers")
        return f"{self.method}, {self.model}, {self.rows} {unit}"


CASES = (
    *(Case(method, "tiny", rows, 20) for method in ("sft", "reward", "dpo", "kto") for rows in (8, 64)),
    Case("grpo", "tiny", 64, 6),
    Case("dpo", "tiny-49k", 8, 6),
    *(Case(method, "smollm2", 4, 3) for method in ("sft", "reward", "dpo")),
    Case("grpo", "smollm2", 8, 2),
)


@cache
def policy(name: str) -> tuple[nn.Module, Any]:
    """A policy in float32, and its tokenizer: "tiny", "tiny-49k" (the same with SmolLM2's vocabulary) or "smollm2"."""
    if name == "smollm2":
        model, tokenizer = load_policy("smollm2-135m", "cpu")
        # Its padding is its end token. transformers, and so TRL, finds where to read a reward by the padding's number,
        # and would read one token early.
        tokenizer.pad_token = tokenizer.unk_token
        model.config.pad_token_id = tokenizer.pad_token_id
        return model.float(), tokenizer
    model, tokenizer = load_policy("tiny-sft", "cpu")
    if name == "tiny-49k":
        config = tiny_config()
        config.vocab_size = 49_152
        seed_all(0, "weights")
        model = LlamaForCausalLM(config)
    return model, tokenizer


@cache
def pairs(n: int) -> list[dict[str, Any]]:
    """Comparisons of the small world, of about 40 tokens each with the prompt, to SmolLM2 60."""
    ranked = pipeline.collect_rankings(load_policy("tiny-sft", "cpu")[0], n, 2, seed=0)
    return [{"prompt": row["prompt"], "chosen": row["ranked"][0], "rejected": row["ranked"][1]} for row in ranked]


def closing(prompts: list[Any], completions: list[Any]) -> list[float]:
    """A reward of few operations, so that GRPO's own work is what is timed: how many different words an answer has."""
    return [float(len(set(str(completion).split()))) for completion in completions]


def make(case: Case):
    """Our trainer of a case."""
    model, tokenizer = policy(case.model)
    trainer_class, steps = METHODS[case.method], case.steps + 1
    more = {"max_completion_length": 40, "num_generations": 8} if case.method == "grpo" else {}
    args = trainer_class.config_class(
        per_device_train_batch_size=case.rows,
        max_steps=steps,
        logging_steps=steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        **more,
    )
    torch.manual_seed(0)
    model = RewardModel.from_policy(model, seed=0) if case.method == "reward" else copy.deepcopy(model)
    rewards = {"reward_funcs": closing} if case.method == "grpo" else {}
    return trainer_class(model, args=args, train_dataset=rows(case), processing_class=tokenizer, **rewards)


def rows(case: Case) -> list[dict[str, Any]]:
    """Enough rows that no batch comes twice."""
    n = case.rows * (case.steps + 1)
    if case.method == "sft":
        return demonstrations(n, 0)
    if case.method == "kto":
        return unpair_preferences(pairs(n // 2))
    return pairs(n)
