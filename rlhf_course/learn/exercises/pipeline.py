"""Exercise of lesson 01: which models a method holds in memory, and which of them learn."""

from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def models_in_memory(method):
    roles = {"policy": None, "reference": None, "reward_model": None, "value_model": None}
    if method == "reward_model":
        return roles | {"reward_model": "train"}
    roles["policy"] = "train"
    if method in ("ppo", "dpo", "grpo"):
        roles["reference"] = "frozen"
    if method in ("ppo", "grpo"):
        roles["reward_model"] = "frozen"
    if method == "ppo":
        roles["value_model"] = "train"
    return roles


def _cases(_stream):
    return [Case(f"the method {method!r}", (method,)) for method in ("sft", "reward_model", "ppo", "dpo", "grpo")]


def _wrong(method_with_mistake, **roles):
    """The right table, but for one method's roles."""

    def function(method):
        table = models_in_memory(method)
        return table | roles if method == method_with_mistake else table

    return function


def _wrong_everywhere(role, was, instead):
    """The right table, but `role` is `instead` wherever it should be `was`."""

    def function(method):
        table = models_in_memory(method)
        return table | {role: instead} if table[role] == was else table

    return function


EXERCISES = [
    Exercise(
        id="pipeline.models_in_memory",
        reference=models_in_memory,
        cases=_cases,
        mistakes=[
            Mistake(
                "the reference learns",
                _wrong_everywhere("reference", "frozen", "train"),
                "The reference is what the policy's drift is measured from. If it learns too, it walks "
                "along: what would the distance between them say then?",
            ),
            Mistake(
                "the reward model learns during RL",
                _wrong_everywhere("reward_model", "frozen", "train"),
                "During PPO and GRPO no human labels arrive. If the reward model learnt there, what "
                "would it learn from?",
            ),
            Mistake(
                "PPO without a critic",
                _wrong("ppo", value_model=None),
                "PPO asks, at every token, whether things went better than expected. Which model holds the "
                "expectation?",
            ),
            Mistake(
                "a frozen critic",
                _wrong("ppo", value_model="frozen"),
                "The critic predicts how well the policy will do, and the policy changes. Can its "
                "predictions stay good if it stays as it is?",
            ),
            Mistake(
                "DPO with a reward model",
                _wrong("dpo", reward_model="frozen"),
                "DPO reads the pairs themselves. What was there to score that the labelers have not already judged?",
            ),
            Mistake(
                "DPO without a reference",
                _wrong("dpo", reference=None),
                "DPO's reward is a log-ratio, log π − log π of something else. Who provides the second term?",
            ),
            Mistake(
                "GRPO with a critic",
                _wrong("grpo", value_model="train"),
                "GRPO also needs to know what to expect, but it asks the other answers to the same "
                "prompt. Which model becomes superfluous?",
            ),
            Mistake(
                "PPO without a reference",
                _wrong("ppo", reference=None),
                "PPO pays for drifting from the model it started from. Which model says how likely that one found "
                "an answer?",
            ),
            Mistake(
                "GRPO without a reference",
                _wrong("grpo", reference=None),
                "GRPO drops one model, the one that says what to expect. The drift is still measured: from which "
                "model?",
            ),
            Mistake(
                "GRPO without a reward model",
                _wrong("grpo", reward_model=None),
                "GRPO compares the scores of a group of answers. Who gives those scores? (Rules can, sometimes; "
                "here a model does.)",
            ),
            Mistake(
                "a policy that learns beside the reward model",
                _wrong("reward_model", policy="train"),
                "Only the judge is made in this stage. Its body began as a copy of the SFT model, but nothing "
                "writes answers here.",
            ),
            Mistake(
                "everything learns",
                lambda method: {role: state and "train" for role, state in models_in_memory(method).items()},
                "The right models, but all of yours learn. Which of them are only asked: for a score, or for how "
                "likely they find an answer?",
            ),
            Mistake(
                "PPO's models for every method",
                lambda method: models_in_memory("ppo"),
                "You give every method the four models of PPO. Most do without some of them: that is their point.",
            ),
            Mistake(
                "SFT with a reference",
                _wrong("sft", reference="frozen"),
                "SFT copies demonstrations and measures no drift. Which models appear in −log π(token)?",
            ),
            Mistake(
                "a policy while the reward model is trained",
                _wrong("reward_model", policy="frozen"),
                "The answers in the pairs were written beforehand. Does anything have to write while "
                "they are compared?",
            ),
        ],
        hints=[
            "For every method ask four questions: who writes the answers? who judges them? who is "
            "compared with? who says what to expect?",
            "A model learns only from a signal of its own: demonstrations, pairs, or rewards. Everything "
            "else that is used is frozen, and what is not used is None.",
            "PPO holds four models and trains two; GRPO drops one of them, DPO drops two.",
            "Start from roles = "
            '{"policy": None, "reference": None, "reward_model": None, "value_model": None}, fill in '
            'PPO: "train", "frozen", "frozen", "train", then take away what the others do without.',
        ],
        reason="Every model in memory is there for one term of the loss. SFT has one term, log π. A "
        "reward model is trained on pairs that exist. PPO needs the policy, a frozen reference "
        "for the KL, a frozen reward model, and a critic that learns along. GRPO replaces the "
        "critic by the group's mean, DPO replaces the reward model by the log-ratio to the "
        "reference. That is also the order of their memory bills.",
    ),
]
