"""Zephyr in miniature (Tunstall et al. 2023): distilled SFT, AI feedback, direct preference optimisation.

As the paper: no person anywhere. The student learns from a larger model's answers (dSFT); four models answer each
prompt, an AI scores the four, the best is chosen and one of the others, at random, rejected (AIF); then DPO with β =
0.1 on these pairs, with the student of the first stage as the reference (dDPO). No reward model, no sampling in
training.

The teacher here is the shipped "tiny-ppo", and the AI a program that knows the facts.
"""

import numpy as np

from rlhf_course import pipeline
from rlhf_course.data.world import Labeler, gold_reward, world_tokenizer
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.models import load_policy
from rlhf_course.recipes import Kitchen
from rlhf_course.seeding import derive_seed, numpy_stream

TEACHER = "tiny-ppo"
AI = Labeler(temperature=0.4)


def run(kitchen: Kitchen) -> None:
    """Distilled SFT → AI feedback → DPO."""
    seed, quiet = kitchen.seed, kitchen.quiet
    teacher = load_policy(TEACHER)[0]
    student = pipeline.sft(kitchen.base, seed, answers_of(teacher, kitchen.part(6_000), seed), **quiet).model
    kitchen.done("distilled SFT", student)

    models = [student, teacher, load_policy("tiny-sft")[0], load_policy("tiny-dpo")[0]]
    pairs = ranked_by_ai(models, kitchen.part(3_000), seed)
    right = np.mean([row["gold_chosen"] > row["gold_rejected"] for row in pairs])
    kitchen.say(f"AI feedback: {len(pairs)} pairs of four models' answers; {right:.0%} in gold order")

    policy = pipeline.dpo(student, seed, pairs, beta=0.1, **quiet).model
    kitchen.done("DPO, β = 0.1", policy)


def answers_of(teacher, n: int, seed: int) -> list[dict[str, str]]:
    """Demonstrations written by a model; answers that it did not finish are left out."""
    stream = derive_seed(seed, "teacher")
    answers = sample_answers(teacher, world_tokenizer(), draw_prompts(n, stream), stream)
    return [{"prompt": a.prompt, "completion": a.text} for a in answers if a.ended]


def ranked_by_ai(models: list, n: int, seed: int) -> list[dict]:
    """For each of `n` prompts the answer the AI scores highest of the models', and one of the others at random."""
    stream, prompts = derive_seed(seed, "ai feedback"), draw_prompts(n, derive_seed(seed, "ai feedback"))
    written = [sample_answers(model, world_tokenizer(), prompts, stream + i) for i, model in enumerate(models)]
    utilities = np.array([[AI.utility(a.prompt, a.text, a.ended) for a in answers] for answers in written])
    utilities += numpy_stream(seed, "ai scores").gumbel(scale=AI.temperature, size=utilities.shape)
    others = numpy_stream(seed, "rejected").integers(1, len(models), size=n)
    rows = []
    for answers, order, other in zip(zip(*written), np.argsort(-utilities, axis=0).T, others):
        kept = {"chosen": answers[order[0]], "rejected": answers[order[other]]}
        rows.append(
            {
                "prompt": answers[0].prompt,
                **{name: a.text for name, a in kept.items()},
                "ended": tuple(a.ended for a in kept.values()),
                **{f"gold_{name}": gold_reward(a.prompt, a.text, ended=a.ended) for name, a in kept.items()},
            }
        )
    return rows
