"""Constitutional AI in miniature (Bai et al. 2022): critique and revise, imitate; AI preferences, a reward model, RL.

As the paper: the model's own answers are criticised by one principle after the other and rewritten, and it is
fine-tuned on what comes out (SL-CAI). Then a model that was taught the same principles says which of two answers keeps
them better; its probabilities are the labels, a reward model learns from them, and PPO from that (RL-CAI). Where its
labeler thinks aloud, the paper clamps labels to 40–60 %; ours answers at once, with probabilities that need no clamp.
"""

import numpy as np
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data.world import CONSTITUTION, demonstrations, violations, world_tokenizer
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.models.reward import RewardModel
from rlhf_course.recipes import Kitchen
from rlhf_course.rlaif import ai_comparisons, revised, teach_labeler
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.reward import RewardConfig
from rlhf_course.trainers.rlaif import SoftLabelRewardTrainer


def run(kitchen: Kitchen) -> None:
    """SFT → SL-CAI → AI labels → RL-CAI."""
    seed, quiet, tokenizer = kitchen.seed, kitchen.quiet, world_tokenizer()
    sft = pipeline.sft(kitchen.base, seed, demonstrations(kitchen.part(8_000), seed), **quiet).model
    kitchen.done("SFT on demonstrations", sft, _said(sft, seed))
    sl = supervised_half(sft, kitchen)
    kitchen.done("SL-CAI: imitate own revisions", sl, _said(sl, seed))

    teaching = pipeline.sample_groups(sft, kitchen.part(1_500), 2, seed, name="teaching the labeler")
    labeler = teach_labeler(sft, tokenizer, teaching, seed, use_cpu=quiet["use_cpu"])
    pairs = pipeline.sample_groups(sl, kitchen.part(2_000), 2, seed, name="pairs for the labeler")
    labels = ai_comparisons(pairs, labeler)
    judge = RewardModel.from_policy(sl, seed)
    args = RewardConfig(**pipeline.settings("reward", seed=seed, **quiet))
    SoftLabelRewardTrainer(judge, args=args, train_dataset=labels, processing_class=tokenizer).train()
    right = np.mean([row["gold_chosen"] >= row["gold_rejected"] for row in labels])
    kitchen.say(f"AI labels: {len(labels)} pairs, asked in both orders; {right:.0%} in gold order")

    policy = pipeline.ppo(sl, judge, seed, max_steps=kitchen.part(40), **quiet).model
    kitchen.done("RL-CAI: PPO on the AI's verdicts", policy, _said(policy, seed))


def supervised_half(policy: nn.Module, kitchen: Kitchen) -> nn.Module:
    """The policy after it has imitated its own answers as it revised them by the constitution."""
    stream = derive_seed(kitchen.seed, "to revise")
    answers = sample_answers(policy, world_tokenizer(), draw_prompts(kitchen.part(1_500), stream), stream)
    mended = [{"prompt": a.prompt, "completion": revised(a.prompt, a.text)} for a in answers]
    return pipeline.sft(policy, kitchen.seed, mended, learning_rate=1e-3, **kitchen.quiet).model


def broken(policy: nn.Module, seed: int, n: int = 256) -> float:
    """Sentences an answer that break a principle, of fresh answers."""
    stream = derive_seed(seed, "principles")
    answers = sample_answers(policy, world_tokenizer(), draw_prompts(n, stream), stream)
    return float(np.mean([violations(a.prompt, a.text, CONSTITUTION) for a in answers]))


def _said(policy: nn.Module, seed: int) -> str:
    return f"sentences that break a principle, an answer: {broken(policy, seed):.2f}"
