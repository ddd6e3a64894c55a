"""What lesson 04 claims about the KL divergence: which ways to charge for it hold a policy, what best-of-n spends."""

import copy
from collections.abc import Callable, Sequence
from itertools import product
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_course import pipeline
from rlhf_course.advantages import gae
from rlhf_course.data.collators import collate_sft
from rlhf_course.data.tokenize import tokenize_sft
from rlhf_course.data.world import CONCEPTS, Concept, gold_reward, world_tokenizer
from rlhf_course.data.world.grammar import ANALOGIES, CLOSING, FACTS, FILLER, FLATTERY, HEDGE, JARGON, PLAIN
from rlhf_course.evaluation import draw_prompts, evaluate_policy
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.table import Table
from rlhf_course.kl import exact_kl, kl_estimate
from rlhf_course.logprobs import masked_mean, masked_var, sequence_logps
from rlhf_course.losses import ppo_clip_loss
from rlhf_course.models.scoring import CompletionLogps
from rlhf_course.seeding import derive_seed, torch_stream
from rlhf_course.trainers.ppo import PPOConfig, PPOTrainer

SEEDS = (0, 1, 2)
#: The price of a nat, in units of the reward model's score, in every form of the penalty.
BETA = 0.1
STEPS, STEPS_BETWEEN_LOOKS = 80, 10
FRESH_ANSWERS = 256

#: From log π, log π_old and log π_ref of a batch's tokens, (B, T) each, to a loss term for each token.
Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Ways to put the KL into the loss. All have been published as "the KL penalty".
IN_THE_LOSS: dict[str, Penalty] = {
    "k1 as a loss": lambda logps, old_logps, ref_logps: kl_estimate(logps, ref_logps, "k1"),
    "k2 as a loss": lambda logps, old_logps, ref_logps: kl_estimate(logps, ref_logps, "k2"),
    "k3 as a loss": lambda logps, old_logps, ref_logps: kl_estimate(logps, ref_logps, "k3"),
    "ratio·k3 as a loss": lambda logps, old_logps, ref_logps: (
        (logps - old_logps).exp() * kl_estimate(logps, ref_logps, "k3")
    ),
}
NO_PENALTY, IN_THE_REWARD = "no penalty", "k1 in the reward"
FORMS = (NO_PENALTY, *IN_THE_LOSS, IN_THE_REWARD)


# ---------------------------------------------------------------------- where the KL is put


class PPOWithPenalty(PPOTrainer):
    """PPO whose loss is ppo_clip_loss + β·mean(penalty): the KL is in the loss, and none is in the reward.

    Whitening divides the advantages by their spread, and so the penalty is divided by it too: β is then the price of
    a nat in units of the score, as it is where the KL is in the reward.

    Args:
        penalty: gives the loss term of each token.
        beta: β, at least 0.
    """

    def __init__(self, *args, penalty: Penalty, beta: float, **kwargs):
        self.penalty, self.beta = penalty, beta
        super().__init__(*args, advantage_fn=self.advantages, **kwargs)

    def advantages(self, rewards, values, mask, gamma, lam):
        """GAE, whose spread is kept for the price of the penalty."""
        advantages, returns = gae(rewards, values, mask, gamma, lam)
        self.spread = masked_var(advantages, mask).sqrt()
        return advantages, returns

    def clipped_step(self, rollout, advantages, returns):
        """The step of PPO, with a loss that knows the reference's log-probabilities of these rows."""

        def loss(logps, old_logps, advantages, mask, epsilon):
            penalty = self.penalty(logps, old_logps, rollout.ref_logps)
            clipped = ppo_clip_loss(logps, old_logps, advantages, mask, epsilon)
            return clipped + self.beta / self.spread * masked_mean(penalty, mask)

        self.loss_fn = loss
        return super().clipped_step(rollout, advantages, returns)


def penalised_ppo(
    sft: nn.Module,
    judge: nn.Module,
    seed: int = 0,
    beta: float = BETA,
    penalty: Penalty | None = None,
    compute_metrics: Callable | None = None,
    **changes: Any,
) -> PPOTrainer:
    """A PPO trainer as the pipeline has it, with β·KL in the loss as `penalty` says, or in the reward if it is None."""
    in_reward = beta if penalty is None else 0.0
    args = PPOConfig(**pipeline.settings("ppo", seed=seed, kl_coef=in_reward, **changes))
    answers = args.max_steps * args.per_device_train_batch_size
    common = {
        "model": copy.deepcopy(sft),
        "ref_model": sft,
        "reward_funcs": judge,
        "args": args,
        "train_dataset": [{"prompt": prompt} for prompt in draw_prompts(answers, derive_seed(seed, "ppo"))],
        "processing_class": world_tokenizer(),
        "compute_metrics": compute_metrics,
    }
    return PPOTrainer(**common) if penalty is None else PPOWithPenalty(**common, penalty=penalty, beta=beta)


def kl_placement(
    seeds: Sequence[int] = SEEDS, forms: Sequence[str] = FORMS, beta: float = BETA, steps: int = STEPS
) -> Table:
    """PPO with the KL penalty in each of its published forms, at one β: who holds the policy, and what it is worth.

    Columns: `seed`, `form` (one of `FORMS`), then as `placement_run` returns them. A run takes about a minute on one
    core.
    """
    rows = [
        {"seed": seed, "form": form, **look}
        for seed in seeds
        for form in forms
        for look in placement_run(seed, form, beta, steps)
    ]
    ppo = pipeline.settings("ppo", max_steps=steps, kl_coef=beta)
    return Table("kl.kl_placement", {"seeds": list(seeds), **ppo, "fresh_answers": FRESH_ANSWERS}, rows)


def placement_run(
    seed: int, form: str, beta: float = BETA, steps: int = STEPS, every: int = STEPS_BETWEEN_LOOKS, **changes: Any
) -> list[dict[str, Any]]:
    """One run from the pipeline's SFT and reward model of a seed, looked at every so many steps.

    Returns:
        A dict a look, the first before any step: `step`; `kl`, nats an answer from the SFT model; `proxy`, the reward
        model's mean score, and `gold`, the mean gold reward, of the same fresh answers; `length`, their tokens; `beta`,
        what a nat costs then.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    sft, judge = trained("sft", seed), trained("reward", seed)
    looks: list[dict[str, Any]] = []

    def look(step: int, policy: nn.Module, price: float) -> None:
        found = evaluate_policy(
            policy,
            world_tokenizer(),
            ref_model=sft,
            reward_model=judge,
            n=FRESH_ANSWERS,
            seed=derive_seed(seed, "looks"),
        )
        looks.append({"step": step, **{name: found[name] for name in ("kl", "proxy", "gold", "length")}, "beta": price})

    def metrics(trainer: PPOTrainer) -> dict[str, float]:
        look(trainer.global_step, trainer.model, beta if form in IN_THE_LOSS else trainer.kl_controller.value)
        return {}

    price = 0.0 if form == NO_PENALTY else beta
    look(0, sft, price)
    penalised_ppo(
        sft,
        judge,
        seed,
        price,
        IN_THE_LOSS.get(form),
        metrics,
        max_steps=steps,
        eval_steps=every,
        use_cpu=True,
        disable_tqdm=True,
        **changes,
    ).train()
    return looks


# ---------------------------------------------------------------------- answers that can be counted


def answers(seeds: Sequence[int] = SEEDS) -> Table:
    """Eight answers to one prompt: how likely the SFT model finds each, what the reward model says, and what is true.

    Columns: `seed`; `kind`, what the answer is made of; `answer`; `ref_logp`, its log-probability if these were all
    the answers there are; `reward`, the reward model's score; `gold`. Seconds.
    """
    concept = CONCEPTS[0]
    kinds = few_answers(concept)
    rows = []
    for seed in seeds:
        ref_logps, rewards, golds = judged(seed, concept, list(kinds.values()))
        columns = zip(kinds.items(), ref_logps.tolist(), rewards.tolist(), golds.tolist())
        rows += [
            {"seed": seed, "kind": kind, "answer": answer, "ref_logp": p, "reward": r, "gold": gold}
            for (kind, answer), p, r, gold in columns
        ]
    return Table("kl.answers", {"seeds": list(seeds), "prompt": concept.prompt}, rows)


def few_answers(concept: Concept) -> dict[str, str]:
    """Eight answers that differ in what they are made of."""
    fact, analogy = FACTS[0].format(concept.fact), ANALOGIES[0].format(concept.analogy)
    wrong, closing = FACTS[0].format(CONCEPTS[1].fact), CLOSING[0]
    parts = {
        "fact": (fact,),
        "fact, closing": (fact, closing),
        "fact, analogy, closing": (fact, analogy, closing),
        "doubtful fact, closing": (f"{HEDGE} {fact}", closing),
        "wrong fact, closing": (wrong, closing),
        "flattery, fact, closing": (FLATTERY[0], fact, closing),
        "filler, fact": (FILLER[0], fact),
        "fact four times, closing": (fact, fact, fact, fact, closing),
    }
    return {kind: _answer(*sentences) for kind, sentences in parts.items()}


def many_answers(concept: Concept) -> list[str]:
    """1,188 answers: a fact, right or wrong, with or without an opener, a second sentence and a closing line."""
    facts = [t.format(c.fact) for t in FACTS for c in (concept, CONCEPTS[1], CONCEPTS[2])]
    jargon = [JARGON[1].format(*words) for words in (("spectral", "manifold", "ergodic", "entropy"), ("tensor",) * 4)]
    analogies = [t.format(concept.analogy) for t in ANALOGIES] + [ANALOGIES[0].format(CONCEPTS[1].analogy)]
    second = ["", *PLAIN, FILLER[0], *jargon, *analogies]
    return [_answer(*parts) for parts in product(["", *FLATTERY], facts, second, ["", *CLOSING])]


def judged(seed: int, concept: Concept, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """The SFT model's log-probabilities of these answers, as if there were no others; scores; gold: (N,), float64."""
    tokenizer = world_tokenizer()
    rows = [{"prompt": concept.prompt, "completion": text} for text in texts]
    batch = collate_sft(tokenize_sft(rows, tokenizer, max_length=128), tokenizer.pad_token_id)
    with torch.no_grad():
        logps = CompletionLogps(trained("sft", seed))(**batch)
        rewards = trained("reward", seed)(batch["input_ids"], batch["attention_mask"])
    totals = sequence_logps(logps, batch["completion_mask"][:, 1:]).double()
    golds = [gold_reward(concept.prompt, text) for text in texts]
    return totals.log_softmax(0), rewards.double(), torch.tensor(golds, dtype=torch.float64)


def _answer(*sentences: str) -> str:
    return " ".join(f"{sentence} ." for sentence in sentences if sentence)


# ---------------------------------------------------------------------- best-of-n, exactly

#: How many answers the best is chosen from.
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def best_of_n(seeds: Sequence[int] = SEEDS, counts: Sequence[int] = COUNTS) -> Table:
    """How far best-of-n moves a policy, by enumeration, and what it earns there, against the formula and the optimum.

    The references: 20 and 1,000 equally likely answers with scores that all differ; 1,188 answers as likely as the SFT
    model finds them, scored by the reward model, and by the gold reward, in which many tie.

    Columns: `seed`, `reference`, `n`; `kl`, exact, and `bound`, log n − (n − 1)/n, in nats; `reward`, the mean score of
    the best of n; `most_reward`, the most that any policy as near to the reference can have. Seconds.
    """
    rows = []
    for seed in seeds:
        concept = CONCEPTS[0]
        ref_logps, rewards, golds = judged(seed, concept, many_answers(concept))
        ref_probs = ref_logps.exp()
        normal = torch.randn(1_000, generator=torch_stream(seed, "scores"), dtype=torch.float64)
        references = {
            "20 equally likely": (torch.full((20,), 1 / 20, dtype=torch.float64), normal[:20]),
            "1,000 equally likely": (torch.full((1_000,), 1 / 1_000, dtype=torch.float64), normal),
            "SFT, by the reward model": (ref_probs, rewards),
            "SFT, by gold": (ref_probs, golds),
        }
        for name, (probs, scores) in references.items():
            for n in counts:
                policy = best_of_n_policy(probs, scores, n)
                kl = divergence(policy, probs)
                best = tilted_to(probs, scores, kl)
                rows.append(
                    {
                        "seed": seed,
                        "reference": name,
                        "n": n,
                        "kl": kl,
                        "bound": log(n) - (n - 1) / n,
                        "reward": (policy * scores).sum().item(),
                        "most_reward": (best * scores).sum().item(),
                    }
                )
    return Table("kl.best_of_n", {"seeds": list(seeds), "prompt": CONCEPTS[0].prompt}, rows)


def best_of_n_policy(ref_probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """How likely each answer is to be the best of n draws, (N,), exactly; among draws that tie, any is taken.

    The winner scores s or less if all n draws do: with probability F(s)^n. Answers that tie share what falls to their
    score as the reference would share it.
    """
    levels, level = rewards.unique(return_inverse=True)  # the scores there are, from the lowest
    share = torch.zeros(len(levels), dtype=ref_probs.dtype).index_add(0, level, ref_probs)
    up_to = share.cumsum(0)
    wins = up_to**n - (up_to - share).clamp(min=0) ** n
    return (ref_probs * (wins / share)[level]).nan_to_num()


def tilted_to(ref_probs: Tensor, rewards: Tensor, kl: float) -> Tensor:
    """The policy π_ref·exp(r/β)/Z whose KL from the reference is `kl`: none as near earns more. By bisection on 1/β."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        near = divergence((ref_probs.log() + middle * rewards).softmax(0), ref_probs) < kl
        low, high = (middle, high) if near else (low, middle)
    return (ref_probs.log() + low * rewards).softmax(0)


def divergence(probs: Tensor, ref_probs: Tensor) -> float:
    """KL(π‖π_ref) of two lists of probabilities, in nats."""
    return exact_kl(probs.log(), ref_probs.log()).item()
