"""InstructGPT in miniature (Ouyang et al. 2022): SFT, a reward model from rankings, PPO with a pre-training mix.

As the paper: K answers to a prompt are ranked and give C(K, 2) pairs that stand in one batch element; β = 0.02, ε =
0.2, one pass over each batch of samples; to every update the gradient of the pre-training data's likelihood is added
(PPO-ptx). Not as the paper: γ, the weight of that, is 1 and not 27.8, since our losses are means over tokens.
"""

import copy
from typing import Any

import torch

from rlhf_course import pipeline
from rlhf_course.data.world import corpus, demonstrations, world_tokenizer
from rlhf_course.evaluation import draw_prompts, reward_accuracy
from rlhf_course.logprobs import token_logps
from rlhf_course.losses.sft import sft_loss
from rlhf_course.recipes import Kitchen
from rlhf_course.seeding import derive_seed, python_stream
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer

PTX_COEF = 1.0
PTX_ROWS = 32


class PPOPtxTrainer(PPOTrainer):
    """PPO-ptx: every update also raises the likelihood of some of the text the model was pre-trained on.

    Args:
        documents: that text. ptx_coef: γ, the weight of its loss (Ouyang et al. 2022, equation 2).
    """

    def __init__(self, *args: Any, documents: list[str], ptx_coef: float = PTX_COEF, **kwargs: Any):
        self.ptx_coef, self.documents = ptx_coef, documents
        super().__init__(*args, **kwargs)
        self._stream = python_stream(self.args.seed, "ptx")

    def clipped_step(self, rollout, advantages, returns):
        if self.global_step >= self.args.value_warmup_steps:  # until then only the critic learns
            self.backward(self.ptx_coef * text_loss(self.model, self._stream.sample(self.documents, PTX_ROWS)), 1.0)
        return super().clipped_step(rollout, advantages, returns)


def text_loss(model, documents: list[str]) -> torch.Tensor:
    """The mean next-token loss of documents, in nats a token."""
    batch = world_tokenizer()(documents, padding=True, padding_side="right", return_tensors="pt").to(model.device)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return sft_loss(token_logps(logits, batch.input_ids), batch.attention_mask[:, 1:])


def run(kitchen: Kitchen) -> None:
    """SFT → reward model → PPO-ptx."""
    seed, quiet = kitchen.seed, kitchen.quiet
    sft = pipeline.sft(kitchen.base, seed, demonstrations(kitchen.part(8_000), seed), **quiet).model
    kitchen.done("SFT on demonstrations", sft)

    rankings = pipeline.collect_rankings(sft, kitchen.part(2_500), 4, seed)
    judge = pipeline.reward(sft, seed, rankings, **quiet).model
    pairs = pipeline.collect_rankings(sft, 500, 2, seed, name="held out")
    right = reward_accuracy(judge, world_tokenizer(), pairs)["rm_gold_accuracy"]
    kitchen.say(f"reward model: {len(rankings)} rankings of 4, {6 * len(rankings)} pairs; {right:.0%} in gold order")

    unseen = corpus(512, derive_seed(seed, "unseen corpus"))
    with torch.no_grad():
        before = text_loss(sft, unseen).item()
    policy = ppo_ptx(sft, judge, seed, kitchen.part(60), **quiet)
    with torch.no_grad():
        after = text_loss(policy, unseen).item()
    kitchen.done("PPO with a pre-training mix", policy, f"corpus loss {before:.2f} → {after:.2f}")


def ppo_ptx(sft, judge, seed: int, steps: int, ptx_coef: float = PTX_COEF, **changes: Any):
    """The policy after PPO with InstructGPT's settings."""
    settings = {"kl_coef": 0.02, "num_ppo_epochs": 1, "cliprange": 0.2, "max_steps": steps, **changes}
    args = PPOConfig(**pipeline.settings("ppo", seed=seed, **settings))
    prompts = draw_prompts(steps * args.per_device_train_batch_size, derive_seed(seed, "ppo"))
    trainer = PPOPtxTrainer(
        copy.deepcopy(sft),
        ref_model=sft,
        reward_funcs=judge,
        args=args,
        train_dataset=[{"prompt": prompt} for prompt in prompts],
        processing_class=world_tokenizer(),
        documents=corpus(4_000, derive_seed(seed, "ptx")),
        ptx_coef=ptx_coef,
    )
    trainer.train()
    return trainer.model
