"""Llama 2-Chat in miniature (Touvron et al. 2023): two reward models, rejection sampling, then PPO.

As the paper: one reward model learns what helps, another what is safe; where a prompt is flagged, or the safety score
is below 0.15, safety decides, else helpfulness; the combined score goes through logit and whitening; β = 0.01.
Rejection sampling comes first: of K answers to a prompt the best-scored is kept, and the model fine-tuned on these.

In the small world an answer is unsafe where it says what is false, and the prompts flagged are those about health. The
raters of help like a fact, true or not, and cannot check it; the raters of safety see only what is false.
"""

from dataclasses import dataclass

import torch

from rlhf_course import pipeline
from rlhf_course.data.world import (
    Labeler,
    concept_of,
    demonstrations,
    explain_gold,
    label_rankings,
    world_tokenizer,
)
from rlhf_course.data.world.gold import TERM_NAMES
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.experiments.reward_model import score_answers
from rlhf_course.models.reward import RewardModel
from rlhf_course.recipes import Kitchen
from rlhf_course.seeding import derive_seed

FALSE = ("wrong fact", "wrong analogy")
HELPFULNESS = Labeler(temperature=0.5, blind_to=FALSE)
SAFETY = Labeler(temperature=0.5, blind_to=tuple(name for name in TERM_NAMES if name not in FALSE))
FLAGGED = ("blood pressure", "immune system", "sleep stage")
SAFE_ENOUGH = 0.15
CANDIDATES = 8


@dataclass
class PiecewiseReward:
    """The two reward models' scores as one (section 3.4): safety where it matters, helpfulness elsewhere."""

    helpfulness: RewardModel
    safety: RewardModel
    __name__ = "piecewise"

    def combined(self, prompts: list[str], completions: list[str]) -> torch.Tensor:
        """R_c in (0, 1), (N,)."""
        texts = list(zip(prompts, completions))
        helps = torch.sigmoid(score_answers(self.helpfulness, texts))
        safe = torch.sigmoid(score_answers(self.safety, texts))
        flagged = torch.tensor([concept_of(prompt).name in FLAGGED for prompt in prompts])
        return piecewise(helps, safe, flagged)

    def __call__(self, prompts: list[str], completions: list[str]) -> torch.Tensor:
        """whiten(logit(R_c)) of a batch of answers, (N,)."""
        score = torch.logit(self.combined(prompts, completions), eps=1e-4)
        return (score - score.mean()) / score.std(correction=0).clamp(min=1e-6)


def piecewise(helps: torch.Tensor, safe: torch.Tensor, flagged: torch.Tensor) -> torch.Tensor:
    """R_c: the safety score where the prompt is flagged or that score is below 0.15, else helpfulness. All (N,)."""
    return torch.where(flagged | (safe < SAFE_ENOUGH), safe, helps)


def falsehoods(policy, seed: int, n: int = 256) -> float:
    """False facts and analogies an answer, of fresh answers."""
    stream = derive_seed(seed, "falsehoods")
    answers = sample_answers(policy, world_tokenizer(), draw_prompts(n, stream), stream)
    terms = [term for a in answers for term in explain_gold(a.prompt, a.text, ended=a.ended)]
    return sum(term.amount for term in terms if term.name in FALSE) / n


def run(kitchen: Kitchen) -> None:
    """SFT → two reward models → rejection sampling → PPO."""
    seed, quiet = kitchen.seed, kitchen.quiet
    sft = pipeline.sft(kitchen.base, seed, demonstrations(kitchen.part(8_000), seed), **quiet).model
    kitchen.done("SFT on demonstrations", sft, f"false sentences an answer {falsehoods(sft, seed):.2f}")

    groups = pipeline.sample_groups(sft, kitchen.part(1_500), 4, seed)
    judges = [
        pipeline.reward(sft, seed, label_rankings(groups, rater, derive_seed(seed, name), False), **quiet).model
        for name, rater in (("helpfulness", HELPFULNESS), ("safety", SAFETY))
    ]
    reward = PiecewiseReward(*judges)
    kitchen.say(f"two reward models: {len(groups)} rankings of 4 each, one of help, one of safety")

    chosen = best_of_candidates(sft, reward, kitchen.part(400), seed)
    rejection = pipeline.sft(sft, seed, chosen, learning_rate=5e-4, **quiet).model
    name = f"rejection sampling, best of {CANDIDATES}"
    kitchen.done(name, rejection, f"false sentences an answer {falsehoods(rejection, seed):.2f}")

    policy = pipeline.ppo(rejection, reward, seed, kl_coef=0.01, max_steps=kitchen.part(50), **quiet).model
    kitchen.done("PPO on the combined score", policy, f"false sentences an answer {falsehoods(policy, seed):.2f}")


def best_of_candidates(policy, reward: PiecewiseReward, n: int, seed: int) -> list[dict[str, str]]:
    """Demonstrations: for each of `n` prompts, the best-scored of the policy's answers."""
    groups = pipeline.sample_groups(policy, n, CANDIDATES, seed, name="candidates")
    prompts = [group["prompt"] for group in groups for _ in range(CANDIDATES)]
    scores = reward.combined(prompts, [answer for group in groups for answer in group["answers"]])
    best = scores.reshape(-1, CANDIDATES).argmax(dim=1).tolist()
    return [{"prompt": group["prompt"], "completion": group["answers"][i]} for group, i in zip(groups, best)]
