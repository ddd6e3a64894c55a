"""What each stage of the pipeline brings, and what the KL penalty buys, on the small world from pre-training on."""

from collections.abc import Sequence
from typing import Any

from rlhf_course import pipeline
from rlhf_course.data.world import WORLD, world_tokenizer
from rlhf_course.evaluation import evaluate_policy, reward_accuracy, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.seeding import derive_seed

SEEDS = (0, 1, 2)
TEST_PAIRS = 1_500
#: Prices of a nat of KL, in units of the reward model's score. 0 is no penalty; 0.1 is the pipeline's own.
BETAS = (0.0, 0.02, 0.05, 0.1, 0.3, 1.0)
#: A little longer than the PPO of the pipeline: enough to see what comes after the peak.
STEPS, STEPS_BETWEEN_LOOKS = 100, 10
FRESH_ANSWERS = 256
#: The prompt whose answer every look keeps.
ASKED = WORLD.prompts("train")[0]


def stages(seeds: Sequence[int] = SEEDS) -> Table:
    """Gold reward after every stage that writes answers, and the reward model against its labels.

    Columns: `seed`; `base_gold`, `sft_gold`, `ppo_gold`, `dpo_gold`, means of 512 fresh answers each; `ppo_kl`,
    `dpo_kl`, nats an answer from the SFT model; then what `reward_accuracy` returns. One seed takes about five minutes
    on one core, half a minute if its models are there already.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        row: dict[str, float] = {"seed": seed}
        for name, stage in (("base", "pretrain"), ("sft", "sft"), ("ppo", "ppo"), ("dpo", "dpo")):
            judged = evaluate_policy(
                trained(stage, seed), world_tokenizer(), ref_model=sft, seed=derive_seed(seed, "fresh answers")
            )
            row[f"{name}_gold"] = judged["gold"]
            if name in ("ppo", "dpo"):
                row[f"{name}_kl"] = judged["kl"]
        pairs = pipeline.collect_rankings(sft, TEST_PAIRS, 2, seed, name="test pairs")
        rows.append(row | reward_accuracy(trained("reward", seed), world_tokenizer(), pairs))
    return Table("pipeline.stages", {"seeds": list(seeds), "test_pairs": TEST_PAIRS}, rows)


def kl_price(seeds: Sequence[int] = SEEDS, betas: Sequence[float] = BETAS, steps: int = STEPS) -> Table:
    """PPO at several prices of the KL: how far each run drifts, what its reward model says, and what is true.

    Columns: `seed`, `beta`, then as `ppo_run` returns them. A run takes a little over a minute on one core.
    """
    rows = [
        {"seed": seed, "beta": beta, **look} for seed in seeds for beta in betas for look in ppo_run(seed, beta, steps)
    ]
    ppo = pipeline.settings("ppo", max_steps=steps)
    del ppo["kl_coef"]
    settings = {"seeds": list(seeds), **ppo, "fresh_answers": FRESH_ANSWERS, "prompt": ASKED}
    return Table("pipeline.kl_price", settings, rows)


def ppo_run(seed: int, beta: float, steps: int = STEPS, every: int = STEPS_BETWEEN_LOOKS) -> list[dict[str, Any]]:
    """One PPO run from the pipeline's SFT and reward model of a seed, looked at every so many steps.

    Returns:
        A dict a look, the first before any step: `step`; `kl`, nats an answer from the SFT model; `proxy`, the reward
        model's mean score, and `gold`, the mean gold reward, of the same fresh answers; `length`, their tokens;
        `answer`, one to the prompt `ASKED`, always of the same random numbers.
    """
    sft, judge = trained("sft", seed), trained("reward", seed)
    stream = derive_seed(seed, "looks")
    looks: list[dict[str, Any]] = []

    def look(step: int, policy) -> None:
        found = evaluate_policy(
            policy, world_tokenizer(), ref_model=sft, reward_model=judge, n=FRESH_ANSWERS, seed=stream
        )
        (answer,) = sample_answers(policy, world_tokenizer(), [ASKED], stream)
        kept = {name: found[name] for name in ("kl", "proxy", "gold", "length")}
        looks.append({"step": step, **kept, "answer": answer.text})

    def metrics(trainer) -> dict[str, float]:
        look(trainer.global_step, trainer.model)
        return {}

    look(0, sft)
    pipeline.ppo(
        sft, judge, seed, metrics, kl_coef=beta, max_steps=steps, eval_steps=every, use_cpu=True, disable_tqdm=True
    )
    return looks
