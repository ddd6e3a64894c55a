"""DeepSeek's recipe in miniature (DeepSeekMath, Shao et al. 2024; R1, Guo et al. 2025): GRPO on rules, no critic.

As the papers: a group of answers to each prompt in the critic's place, advantages divided by the group's standard
deviation, each answer's loss averaged over its own tokens, one update for each batch of samples, and k3 in the loss
as it stands, without the ratio before it, at β = 0.04 (DeepSeekMath, equation 3). As R1: the reward is two rules, one
that checks the answer and one that checks the form; there is no reward model. Not as the papers: 16 answers a prompt,
not 64.
"""

import copy
from collections.abc import Sequence

from torch import Tensor

from rlhf_course import pipeline
from rlhf_course.data.world import demonstrations, parse_sentence, split_sentences, world_tokenizer
from rlhf_course.evaluation import draw_prompts, sample_answers
from rlhf_course.experiments.grpo import states_the_truth
from rlhf_course.losses.grpo import aggregate_token_loss, grpo_loss
from rlhf_course.losses.ppo import masked_k3
from rlhf_course.recipes import Kitchen
from rlhf_course.seeding import derive_seed
from rlhf_course.trainers.grpo import GRPOConfig, GRPOTrainer
from rlhf_course.trainers.rollout import Rollout

BETA = 0.04
GROUP = 16


def well_formed(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The rule of form: ½ for an answer that ends in a closing line and says no sentence twice."""
    found = []
    for answer in completions:
        sentences = split_sentences(answer)
        closes = bool(sentences) and parse_sentence(sentences[-1]).kind == "closing"
        found.append(0.5 * (closes and len(set(sentences)) == len(sentences)))
    return found


class DeepSeekMathTrainer(GRPOTrainer):
    """GRPO with β·k3 in the loss as DeepSeekMath has it. Its gradient is that of KL(π_ref‖π), the other direction."""

    def policy_loss(self, logps: Tensor, part: Rollout, advantages: Tensor) -> Tensor:
        args = self.args
        clipped = grpo_loss(logps, part.logps, advantages, part.mask, args.epsilon, loss_type="grpo")
        k3 = masked_k3(logps, part.ref_logps, part.mask)
        return clipped + args.beta * aggregate_token_loss(k3, part.mask, "grpo")


def run(kitchen: Kitchen) -> None:
    """A cold start by SFT, as R1's → GRPO with rules."""
    seed, quiet = kitchen.seed, kitchen.quiet
    sft = pipeline.sft(kitchen.base, seed, demonstrations(kitchen.part(8_000), seed), **quiet).model
    kitchen.done("SFT, the cold start", sft, _passed(sft, seed))

    args = GRPOConfig(
        num_generations=GROUP,
        num_iterations=1,
        beta=BETA,
        loss_type="grpo",
        max_steps=kitchen.part(80),
        seed=seed,
        **quiet,
    )
    prompts = draw_prompts(args.max_steps * args.per_device_train_batch_size // GROUP, derive_seed(seed, "grpo"))
    trainer = DeepSeekMathTrainer(
        copy.deepcopy(sft),
        ref_model=sft,
        reward_funcs=[states_the_truth, well_formed],
        args=args,
        train_dataset=[{"prompt": prompt} for prompt in prompts],
        processing_class=world_tokenizer(),
    )
    trainer.train()
    kitchen.done("GRPO on two rules", trainer.model, _passed(trainer.model, seed))


def _passed(policy, seed: int, n: int = 256) -> str:
    stream = derive_seed(seed, "rules")
    prompts = draw_prompts(n, stream)
    answers = [answer.text for answer in sample_answers(policy, world_tokenizer(), prompts, stream)]
    true, formed = sum(states_the_truth(prompts, answers)) / n, sum(well_formed(prompts, answers)) / (0.5 * n)
    return f"{true:.0%} true, {formed:.0%} well formed"
