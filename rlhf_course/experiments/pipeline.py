"""What each stage of the pipeline brings, on the small world from pre-training on."""

from collections.abc import Sequence

from rlhf_course import pipeline
from rlhf_course.data.world import world_tokenizer
from rlhf_course.evaluation import evaluate_policy, reward_accuracy
from rlhf_course.experiments.table import Table
from rlhf_course.seeding import derive_seed

SEEDS = (0, 1, 2)
TEST_PAIRS = 1_500


def stages(seeds: Sequence[int] = SEEDS) -> Table:
    """Gold reward after every stage that writes answers, and the reward model against its labels.

    Columns: `seed`; `base_gold`, `sft_gold`, `ppo_gold`, `dpo_gold`, means of 512 fresh answers each; `ppo_kl`,
    `dpo_kl`, nats an answer from the SFT model; then what `reward_accuracy` returns. One seed takes about five minutes
    on one core.
    """
    rows = []
    for seed in seeds:
        models = {
            name: stage.trainer.model
            for name, stage in pipeline.run(seed, on_stage=lambda stage: None, use_cpu=True, disable_tqdm=True).items()
        }
        row: dict[str, float] = {"seed": seed}
        for name, stage in (("base", "pretrain"), ("sft", "sft"), ("ppo", "ppo"), ("dpo", "dpo")):
            judged = evaluate_policy(
                models[stage], world_tokenizer(), ref_model=models["sft"], seed=derive_seed(seed, "fresh answers")
            )
            row[f"{name}_gold"] = judged["gold"]
            if name in ("ppo", "dpo"):
                row[f"{name}_kl"] = judged["kl"]
        pairs = pipeline.collect_rankings(models["sft"], TEST_PAIRS, 2, seed, name="test pairs")
        rows.append(row | reward_accuracy(models["reward"], world_tokenizer(), pairs))
    return Table("pipeline.stages", {"seeds": list(seeds), "test_pairs": TEST_PAIRS}, rows)
