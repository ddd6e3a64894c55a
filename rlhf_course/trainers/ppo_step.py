"""RLHF with PPO's loss, one update on one screen: what lesson 05 reads before the trainer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rlhf_course.data.collators import collate_prompts
from rlhf_course.data.tokenize import encode_prompt
from rlhf_course.generation import evaluation_mode, generate
from rlhf_course.logprobs import sequence_logps
from rlhf_course.losses.ppo import ppo_rlhf_loss
from rlhf_course.models.scoring import CompletionLogps


def ppo_rlhf_step(
    policy: nn.Module,
    ref_policy: nn.Module,
    reward_model: Callable[[Tensor, Tensor], Tensor],
    prompts: Sequence[str],
    tokenizer,
    optimizer: torch.optim.Optimizer,
    epsilon: float = 0.2,
    beta: float = 0.05,
    *,
    response_length: int = 48,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Answer some prompts, score the answers, and take one step towards the better ones, near the reference.

    This is the whole idea with the least of machinery. The batch's mean score is the baseline, an answer's advantage
    is that of each of its tokens, and the KL stands in the loss in a form whose gradient is right (`ppo_rlhf_loss`).
    One update a batch means that π is π_old: the ratio is 1, and the step is REINFORCE's. `PPOTrainer` adds a critic
    and GAE, several updates on each batch, and the KL in the reward.

    Args:
        policy: a causal language model, whose parameters `optimizer` holds.
        ref_policy: the reference, frozen.
        reward_model: scores (B,) from `input_ids` and `attention_mask`, (B, L) each.
        prompts: at least 2 texts; of a single one, the baseline would be its own score.
        epsilon: ε of the clip.
        beta: β, at least 0, the weight of the KL.
        response_length: longest completion, in tokens.
        generator: a CPU generator for the sampling; torch's global one if left out.

    Returns:
        TRL's metrics of the batch, before the update: `objective/scores`, `objective/kl` (nats an answer),
        `loss/policy_avg` (the KL term included).
    """
    if len(prompts) < 2:
        raise ValueError(f"prompts must be at least 2, so that their mean score is a baseline, got {len(prompts)}")
    rows = [{"prompt_ids": encode_prompt(tokenizer, prompt)} for prompt in prompts]
    batch = {name: x.to(policy.device) for name, x in collate_prompts(rows, tokenizer.pad_token_id).items()}

    with evaluation_mode(policy):  # without dropout: sampled and updated must be the same policy
        # 1. The policy answers.
        answers = generate(
            policy,
            **batch,
            max_new_tokens=response_length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            generator=generator,
        )
        ids, attention_mask, width = answers.sequences, answers.attention_mask, batch["input_ids"].shape[1]
        completion_mask = nn.functional.pad(answers.completion_mask, (width, 0))
        mask = completion_mask[:, 1:]  # log-probabilities begin with token 1, and so does their mask

        # 2. The reward model judges whole answers; the reference says how likely it finds each token.
        with torch.no_grad():
            scores = reward_model(ids, attention_mask)
            ref_logps = CompletionLogps(ref_policy)(ids, attention_mask, completion_mask)

        # 3. Better or worse than the batch's mean?
        logps = CompletionLogps(policy)(ids, attention_mask, completion_mask)
        advantages = (scores - scores.mean())[:, None].expand_as(logps)

        # 4. One step.
        loss = ppo_rlhf_loss(logps, logps.detach(), ref_logps, advantages, mask, epsilon, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    kl = sequence_logps(logps.detach() - ref_logps, mask).mean()
    return {"objective/scores": scores.mean().item(), "objective/kl": kl.item(), "loss/policy_avg": loss.item()}
