"""What lesson 10 claims about overoptimization: a policy pushed against its reward model until the truth turns.

Every run begins with the pipeline's SFT model of its seed. Only the reward model, the price of the KL or the labelers
are changed. One seed of all of it takes about fifteen minutes on one core.
"""

import copy
from collections.abc import Sequence
from functools import cache
from math import comb, log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_course import pipeline
from rlhf_course.data.world import WORLD, Labeler, gold_reward, label_rankings, world_tokenizer
from rlhf_course.data.world.grammar import parse_sentence, split_sentences
from rlhf_course.evaluation import Answer, draw_prompts, evaluate_policy, reward_accuracy, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.reward_model import score_answers
from rlhf_course.experiments.table import Table
from rlhf_course.models.ensemble import RewardEnsemble, combine_rewards
from rlhf_course.seeding import derive_seed

SEEDS = (0, 1, 2)
STEPS, STEPS_BETWEEN_LOOKS = 80, 5
FRESH_ANSWERS = 256
#: Best of how many, and from how many answers to each of how many prompts the gold of the best is worked out.
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
POOL_PROMPTS, POOL_ANSWERS = 48, 256
#: Rankings that the reward models learn from, and layers of the body they are built on.
RANKINGS = (300, 1_000, 3_000, 5_000)
LAYERS = (1, 2, 3)
#: The ensembles: 3,000 rankings of which a quarter are turned upside down; four members.
NOISY_RANKINGS, FLIP_RATE, MEMBERS = 3_000, 0.25, 4
ENSEMBLE_BETA = 0.2
UWO_WEIGHT = 1.0
#: Judges that are followed with no price on the KL, too.
WITHOUT_PRICE = ("member 0", "mean", "wco")
ENSEMBLE_STEPS = 60
#: What each of four groups of labelers cannot judge: terms of the gold reward.
BLIND_TO = {
    "facts": ("right fact", "wrong fact"),
    "analogies": ("right analogy", "wrong analogy"),
    "jargon": ("jargon, share of words",),
    "manners": ("plain remark", "closing"),
}
#: Gold units that labelers of three kinds add: for flattery, and for each word.
TASTES = {
    "the truth": {},
    "flattery": {"flattery_bias": 1.0},
    "length": {"length_bias": 0.1},
}
ASKED = WORLD.prompts("train")[0]


def curves(seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Table:
    """Gold and proxy on the way away from the SFT model: PPO and GRPO with no price on the KL, and best-of-n.

    Columns: `seed`; `method`, "ppo", "grpo" or "best of n"; `step`, or n; then as `climb` returns them. The KL of
    best-of-n is the bound log n − (n − 1)/n. Four minutes a seed.
    """
    rows = []
    for seed in seeds:
        judge = trained("reward", seed)
        runs = {"ppo": climb(seed, judge, "ppo", steps), "grpo": _own_run(seed, steps)}
        rows += [{"seed": seed, "method": method, **look} for method, looks in runs.items() for look in looks]
        scores = score_answers(judge, [(a.prompt, a.text) for a in _pool(seed)])
        rows += [{"seed": seed, "method": "best of n", **look} for look in best_of_n(seed, scores)]
    return Table("overoptimization.curves", _settings(seeds, steps=steps), rows)


def reward_models(seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Table:
    """GRPO with no price on the KL against reward models that differ in one thing: their data, or their size.

    Columns: `seed`; `varied`, "rankings" or "layers"; `value`, how many; `accuracy`, the share of fresh pairs that the
    reward model puts in gold order; then as `climb` returns them. The last of each kind is the pipeline's own. Five
    minutes a seed.
    """
    rows = []
    for seed in seeds:
        pairs = pipeline.collect_rankings(trained("sft", seed), 1_000, 2, seed, name="test pairs")
        for varied, values in (("rankings", RANKINGS), ("layers", LAYERS)):
            for value in values:
                judge = _judge(seed, **{varied: value})
                accuracy = reward_accuracy(judge, world_tokenizer(), pairs)["rm_gold_accuracy"]
                about = {"seed": seed, "varied": varied, "value": value, "accuracy": accuracy}
                own = value == values[-1]
                looks = _own_run(seed, steps) if own else climb(seed, judge, "grpo", steps)
                rows += [{**about, **look} for look in looks]
    return Table("overoptimization.reward_models", _settings(seeds, steps=steps), rows)


def ensembles(seeds: Sequence[int] = SEEDS, steps: int = ENSEMBLE_STEPS) -> Table:
    """Four reward models whose labels are a quarter wrong, alone and together, with a price on the KL and without.

    Each member's body comes from pre-training and SFT of another seed; all learn from the same rankings.

    Columns: `seed`; `beta`, GRPO's price of the KL; `judge`, "member 0" to "member 3", "mean", "wco" or "uwo";
    `accuracy`, of the judge on fresh pairs; then as `climb` returns them, at the end. Ten minutes a seed.
    """
    rows = []
    for seed in seeds:
        members = {f"member {i}": member for i, member in enumerate(_members(seed))}
        rows += _follow(seed, members, ENSEMBLE_BETA, steps, WITHOUT_PRICE)
    settings = {"rankings": NOISY_RANKINGS, "flip_rate": FLIP_RATE, "uwo_weight": UWO_WEIGHT, "steps": steps}
    return Table("overoptimization.ensembles", _settings(seeds, **settings), rows)


def blind_spots(seeds: Sequence[int] = SEEDS, steps: int = ENSEMBLE_STEPS) -> Table:
    """Four reward models, alone and together, each of labelers who cannot judge one part of an answer: `BLIND_TO`.

    A quarter of each one's labels is wrong besides. GRPO has the pipeline's price of the KL.

    Columns: as `ensembles`, `judge` being what a single one's labelers are blind to, or "mean", "wco" or "uwo". Eight
    minutes a seed.
    """
    beta, rows = pipeline.SETTINGS["grpo"]["beta"], []
    for seed in seeds:
        rows += _follow(seed, _half_blind(seed), beta, steps)
    settings = {"rankings": NOISY_RANKINGS, "flip_rate": FLIP_RATE, "uwo_weight": UWO_WEIGHT, "steps": steps}
    return Table("overoptimization.blind_spots", _settings(seeds, **settings, blind_to=BLIND_TO), rows)


def ensemble_size(seeds: Sequence[int] = SEEDS, counts: Sequence[int] = COUNTS) -> Table:
    """Best-of-n by one, two, three or four of those reward models together.

    Columns: `seed`; `members`, how many; `method`, "mean", "wco" or "uwo"; then as `best_of_n` returns them, n being
    `step`. Half a minute a seed, once the members are trained.
    """
    rows = []
    for seed in seeds:
        answers = [(a.prompt, a.text) for a in _pool(seed)]
        alone = torch.stack([score_answers(member, answers) for member in _members(seed)])
        for size in range(1, MEMBERS + 1):
            for method in ("mean", "wco", "uwo") if size > 1 else ("mean",):
                scores = combine_rewards(alone[:size], method, UWO_WEIGHT)
                about = {"seed": seed, "members": size, "method": method}
                rows += [{**about, **look} for look in best_of_n(seed, scores, counts)]
    settings = {"rankings": NOISY_RANKINGS, "flip_rate": FLIP_RATE, "uwo_weight": UWO_WEIGHT}
    return Table("overoptimization.ensemble_size", _settings(seeds, **settings), rows)


def tastes(seeds: Sequence[int] = SEEDS) -> Table:
    """What the policy becomes when labelers have a taste: for nothing but the truth, for flattery, for length.

    GRPO and the reward model have the pipeline's settings, the price of the KL included.

    Columns: `seed`; `labelers`, one of `TASTES`; `policy`, "sft" (asked once) or "grpo"; `flattery`, the share of
    answers that flatter; `length` in tokens; `gold`; `answer`, one to the prompt `ASKED`. Three minutes a seed.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        rows.append({"seed": seed, "labelers": "none", "policy": "sft", **_manners(sft, seed)})
        for name, taste in TASTES.items():
            if taste:
                rankings = label_rankings(_groups(seed), Labeler(**taste), derive_seed(seed, "rankings"))
                judge = pipeline.reward(sft, seed, rankings, use_cpu=True, disable_tqdm=True).model
                policy = pipeline.grpo(sft, judge, seed, use_cpu=True, disable_tqdm=True).model
            else:
                policy = trained("grpo", seed)
            rows.append({"seed": seed, "labelers": name, "policy": "grpo", **_manners(policy, seed)})
    return Table("overoptimization.tastes", _settings(seeds, tastes=TASTES), rows)


# ---------------------------------------------------------------------- going uphill, and looking


@cache
def _own_run(seed: int, steps: int) -> list[dict[str, Any]]:
    """GRPO with no price on the KL against the pipeline's own reward model."""
    return climb(seed, trained("reward", seed), "grpo", steps)


def climb(seed: int, judge: nn.Module, method: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """One run of "ppo" or "grpo" from the SFT model of a seed towards higher scores of `judge`, at no price of the KL.

    Returns:
        A dict a look, the first before any step: `step`; of fresh answers, the same prompts every time, `kl` (nats an
        answer from the SFT model), `proxy` (the judge's mean score), `gold` and `length`; and `answer`, one to the
        prompt `ASKED`.
    """
    sft = trained("sft", seed)
    looks = [_look(0, sft, sft, judge, seed)]

    def metrics(trainer) -> dict[str, float]:
        looks.append(_look(trainer.global_step, trainer.model, sft, judge, seed))
        return {}

    changes = {"max_steps": steps, "eval_steps": STEPS_BETWEEN_LOOKS, "use_cpu": True, "disable_tqdm": True}
    if method == "ppo":
        pipeline.ppo(sft, judge, seed, metrics, kl_coef=0.0, **changes)
    else:
        pipeline.grpo(sft, judge, seed, metrics, beta=0.0, **changes)
    return looks


def _follow(
    seed: int, members: dict[str, nn.Module], beta: float, steps: int, without_price: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Where GRPO ends after each of these judges and after their ensembles; for some, with no price on the KL too."""
    sft = trained("sft", seed)
    pairs = pipeline.collect_rankings(sft, 1_000, 2, seed, name="test pairs")
    together = {method: RewardEnsemble(list(members.values()), method, UWO_WEIGHT) for method in ("mean", "wco", "uwo")}
    rows = []
    for name, judge in (members | together).items():
        accuracy = reward_accuracy(judge, world_tokenizer(), pairs)["rm_gold_accuracy"]
        for price in (beta, 0.0) if name in without_price else (beta,):
            policy = pipeline.grpo(sft, judge, seed, beta=price, max_steps=steps, use_cpu=True, disable_tqdm=True).model
            about = {"seed": seed, "beta": price, "judge": name, "accuracy": accuracy}
            rows.append({**about, **_look(steps, policy, sft, judge, seed)})
    return rows


def best_of_n(seed: int, scores: Tensor, counts: Sequence[int] = COUNTS) -> list[dict[str, Any]]:
    """What the best-scored of n answers is worth, on average over all ways to draw n of a prompt's.

    Args:
        scores: one for each answer of `_pool`.

    Returns:
        A dict for each n as `climb`'s, `step` being n and `answer` the best of the first n to `ASKED`.
    """
    answers = _pool(seed)
    proxy = scores.numpy().reshape(POOL_PROMPTS, POOL_ANSWERS)
    gold = np.array([gold_reward(a.prompt, a.text, ended=a.ended) for a in answers]).reshape(proxy.shape)
    length = np.array([len(a.text.split()) + a.ended for a in answers]).reshape(proxy.shape)
    worst_first = proxy.argsort(axis=1)
    looks = []
    for n in counts:
        chance = np.broadcast_to(_chance_of_being_best(POOL_ANSWERS, n), proxy.shape)
        found = {
            name: float((np.take_along_axis(values, worst_first, 1) * chance).sum(1).mean())
            for name, values in (("proxy", proxy), ("gold", gold), ("length", length))
        }
        best = answers[proxy[0, :n].argmax()].text
        looks.append({"step": n, "kl": log(n) - (n - 1) / n, **found, "answer": best})
    return looks


@cache
def _pool(seed: int) -> list[Answer]:
    """The SFT model's answers that best-of-n chooses from, a prompt's side by side, `ASKED` the first."""
    stream = derive_seed(seed, "pool")
    prompts = [prompt for prompt in (ASKED, *draw_prompts(POOL_PROMPTS - 1, stream)) for _ in range(POOL_ANSWERS)]
    return sample_answers(trained("sft", seed), world_tokenizer(), prompts, stream)


def _chance_of_being_best(size: int, n: int) -> np.ndarray:
    """How likely the k-th lowest of `size` answers, k = 1 … size, is the best of n drawn without putting back."""
    return np.array([comb(k - 1, n - 1) / comb(size, n) for k in range(1, size + 1)])


def _look(step: int, policy: nn.Module, sft: nn.Module, judge: nn.Module, seed: int) -> dict[str, Any]:
    stream = derive_seed(seed, "looks")
    found = evaluate_policy(policy, world_tokenizer(), ref_model=sft, reward_model=judge, n=FRESH_ANSWERS, seed=stream)
    (answer,) = sample_answers(policy, world_tokenizer(), [ASKED], stream)
    return {"step": step, **{name: found[name] for name in ("kl", "proxy", "gold", "length")}, "answer": answer.text}


def _manners(policy: nn.Module, seed: int, n: int = 512) -> dict[str, Any]:
    """How a policy's fresh answers read: flattery, length, gold, and one of them."""
    stream = derive_seed(seed, "fresh answers")
    answers = sample_answers(policy, world_tokenizer(), draw_prompts(n, stream), stream)
    (asked,) = sample_answers(policy, world_tokenizer(), [ASKED], stream)
    return {
        "flattery": sum(map(_flatters, (a.text for a in answers))) / n,
        "length": sum(len(a.text.split()) + a.ended for a in answers) / n,
        "gold": sum(gold_reward(a.prompt, a.text, ended=a.ended) for a in answers) / n,
        "answer": asked.text,
    }


def _flatters(answer: str) -> bool:
    return any(parse_sentence(sentence).kind == "flattery" for sentence in split_sentences(answer))


# ---------------------------------------------------------------------- reward models


def _judge(seed: int, *, rankings: int = pipeline.RANKINGS, layers: int | None = None) -> nn.Module:
    """A reward model of less data, or on fewer of the body's layers; the pipeline's own where nothing is less."""
    sft = trained("sft", seed)
    if layers is not None and layers < sft.config.num_hidden_layers:
        sft = _shallow(sft, layers)
    elif rankings == pipeline.RANKINGS:
        return trained("reward", seed)
    rows = label_rankings(_groups(seed), Labeler(), derive_seed(seed, "rankings"))[:rankings]
    return pipeline.reward(sft, seed, rows, use_cpu=True, disable_tqdm=True).model


def _shallow(policy: nn.Module, layers: int) -> nn.Module:
    """The same model with only its first layers."""
    shallow = copy.deepcopy(policy)
    shallow.model.layers = shallow.model.layers[:layers]
    shallow.config.num_hidden_layers = layers
    return shallow


@cache
def _members(seed: int) -> list[nn.Module]:
    """Reward models of one set of noisy rankings, on bodies that share nothing, not even their pre-training."""
    rows = label_rankings(_groups(seed), Labeler(flip_rate=FLIP_RATE), derive_seed(seed, "rankings"))[:NOISY_RANKINGS]
    return [
        pipeline.reward(trained("sft", seed + i), seed + i, rows, use_cpu=True, disable_tqdm=True).model
        for i in range(MEMBERS)
    ]


def _half_blind(seed: int) -> dict[str, nn.Module]:
    """Reward models on the SFT model of a seed, each of the same answers as one group of `BLIND_TO` ranks them."""
    members = {}
    for name, blind_to in BLIND_TO.items():
        labeler = Labeler(flip_rate=FLIP_RATE, blind_to=blind_to)
        rows = label_rankings(_groups(seed), labeler, derive_seed(seed, "rankings", name))[:NOISY_RANKINGS]
        members[name] = pipeline.reward(trained("sft", seed), seed, rows, use_cpu=True, disable_tqdm=True).model
    return members


@cache
def _groups(seed: int) -> list[dict]:
    return pipeline.sample_groups(trained("sft", seed), pipeline.RANKINGS, pipeline.ANSWERS_EACH, seed)


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "fresh_answers": FRESH_ANSWERS, "prompt": ASKED, **more}
