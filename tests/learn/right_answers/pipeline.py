"""Right answers to the exercises of `pipeline`, written otherwise than the package does."""


def models_by_table(method):
    none = dict.fromkeys(["policy", "reference", "reward_model", "value_model"])
    return {
        "sft": {**none, "policy": "train"},
        "reward_model": {**none, "reward_model": "train"},
        "ppo": {"policy": "train", "reference": "frozen", "reward_model": "frozen", "value_model": "train"},
        "dpo": {**none, "policy": "train", "reference": "frozen"},
        "grpo": {**none, "policy": "train", "reference": "frozen", "reward_model": "frozen"},
    }[method]


def models_by_questions(method):
    rl = method in {"ppo", "grpo"}
    return {
        "value_model": "train" if method == "ppo" else None,
        "reward_model": "train" if method == "reward_model" else "frozen" if rl else None,
        "reference": "frozen" if rl or method == "dpo" else None,
        "policy": None if method == "reward_model" else "train",
    }


RIGHT_ANSWERS = {
    "pipeline.models_in_memory": [models_by_table, models_by_questions],
}
