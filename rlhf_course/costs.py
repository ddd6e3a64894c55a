"""What alignment costs: labels, sampling and training, from prices that are stated and can be changed.

Computation is counted as the scaling-law papers count it (Kaplan et al. 2020): reading a token takes 2 operations a
weight, learning from it 6. What a GPU makes of them in an hour, and what a label costs, are assumptions, in `Plan`.
Not counted: demonstrations and SFT, evaluation, failed runs, and the people who do all that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from rlhf_course._checks import check_choice, check_number

METHODS = ("PPO", "DPO", "GRPO", "RLAIF", "GRPO, rules")
PARTS = ("labels", "sampling", "training")
#: Operations a weight, for every token that a model reads, or learns from.
FORWARD, LEARN = 2, 6
#: What an H100 SXM can do in a second at most: bf16, dense (NVIDIA's data sheet).
PEAK = 989e12
#: The share of that peak which is reached, assumed: in training, and in sampling, which waits for the memory.
TRAINING_USE, SAMPLING_USE = 0.4, 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A project and its prices. All models have one size; every prompt and answer together one length.

    Attributes:
        prompts: whose answers are compared; InstructGPT's reward model had 33,207.
        answers_each: answers to each of them, ranked together; InstructGPT had 4 to 9.
        human_label, ai_label: USD for one comparison by a person, and for one verdict of a model. Assumptions.
        gpu_hour: USD for an hour of one H100. An assumption.
        billions: weights of each model, in billions.
        tokens: of a prompt and its answer together.
        rl_answers: answers sampled and learnt from in RL; InstructGPT had about 256,000.
    """

    prompts: int = 33_207
    answers_each: int = 4
    human_label: float = 1.0
    ai_label: float = 0.01
    gpu_hour: float = 2.0
    billions: float = 7.0
    tokens: int = 500
    rl_answers: int = 256_000

    def __post_init__(self):
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), low=2 if field.name == "answers_each" else 0)

    @property
    def comparisons(self) -> int:
        """The fewest comparisons that put the answers to every prompt in order, each new one beside the last: K − 1."""
        return self.prompts * (self.answers_each - 1)

    @property
    def pairs(self) -> int:
        """The pairs that these rankings give, C(K, 2) a prompt."""
        return self.prompts * self.answers_each * (self.answers_each - 1) // 2


def cost(method: str, plan: Plan) -> dict[str, float]:
    """USD for `PARTS` of a method, one of `METHODS`.

    "RLAIF" is PPO on a model's labels, asked in both orders; "GRPO, rules" needs neither labels nor a reward model.
    """
    check_choice("method", method, METHODS)
    labelled, rl = plan.prompts * plan.answers_each, plan.rl_answers
    reward_model = LEARN * labelled
    policy, critic, reference, judge = LEARN * rl, LEARN * rl, FORWARD * rl, FORWARD * rl
    labels = {
        "RLAIF": 2 * plan.comparisons * plan.ai_label,
        "GRPO, rules": 0.0,
    }.get(method, plan.comparisons * plan.human_label)
    sampled = {"DPO": labelled, "GRPO, rules": rl}.get(method, labelled + rl)
    learnt = {
        "DPO": LEARN * 2 * plan.pairs + FORWARD * labelled,  # the reference reads every answer once
        "GRPO": reward_model + policy + reference + judge,
        "GRPO, rules": policy + reference,
    }.get(method, reward_model + policy + critic + reference + judge)
    return {
        "labels": float(labels),
        "sampling": _gpu_hours(FORWARD * sampled, plan, SAMPLING_USE) * plan.gpu_hour,
        "training": _gpu_hours(learnt, plan, TRAINING_USE) * plan.gpu_hour,
    }


def costs(plan: Plan, methods: Sequence[str] = METHODS) -> dict[str, dict[str, float]]:
    """`cost` of several methods, by name."""
    return {method: cost(method, plan) for method in methods}


def _gpu_hours(answers: float, plan: Plan, use: float) -> float:
    """Hours of one GPU for so many answers, each counted as often as there are operations a weight."""
    return answers * plan.tokens * plan.billions * 1e9 / (PEAK * use) / 3600
