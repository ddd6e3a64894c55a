"""What lesson 09 claims about feedback from models, measured on the small world.

Every function begins with the SFT model that the pipeline trained for a seed. One seed of all of it takes about five
minutes on one core.
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_course import pipeline
from rlhf_course.data.world import (
    CONSTITUTION,
    WORLD,
    Labeler,
    concept_of,
    critique,
    explain_gold,
    gold_reward,
    label_rankings,
    revise,
    violations,
    world_tokenizer,
)
from rlhf_course.evaluation import Answer, draw_prompts, evaluate_policy, judge_answers, reward_accuracy, sample_answers
from rlhf_course.experiments.models import trained
from rlhf_course.experiments.real_reward import ENTANGLEMENT
from rlhf_course.experiments.reward_model import minimal_pair_accuracies, reward_gaps
from rlhf_course.experiments.table import Table
from rlhf_course.models import load_policy, weights_note
from rlhf_course.models.reward import RewardModel
from rlhf_course.rlaif import (
    AILabeler,
    ModelLabeler,
    RuleLabeler,
    agreement,
    ai_comparisons,
    debiased_preference,
    revised,
    teach_labeler,
)
from rlhf_course.seeding import derive_seed, python_stream
from rlhf_course.trainers.reward import RewardConfig
from rlhf_course.trainers.rlaif import SoftLabelRewardTrainer
from rlhf_course.trainers.sft import SFTConfig, SFTTrainer

SEEDS = (0, 1, 2)
TEACHING_GROUPS, TEST_PAIRS = 3_000, 1_000
REVISED_ANSWERS, SL_STEPS = 2_000, 40
PAIRS = 2_000
RL_STEPS = 40
FRESH_ANSWERS = 512
#: In gold units. A program is steadier than people, who are calibrated to an agreement of 72.6 %.
MACHINE_TEMPERATURE = 0.4
FACT_KINDS = ("wrong", "right")
FACTS = ("right fact", "wrong fact", "right analogy", "wrong analogy")
#: Who labels: people, a program that cannot check what is true, and one that can.
LABELERS = {
    "people": Labeler(),
    "blind AI": Labeler(temperature=MACHINE_TEMPERATURE, blind_to=FACTS),
    "informed AI": Labeler(temperature=MACHINE_TEMPERATURE),
}
#: Log-odds that a rule-based labeler adds to the answer shown first.
POSITION_BIASES = (0.0, 0.5, 1.0, 2.0)
#: Labels by name: hard ones, the model's own probabilities, and those clamped as Constitutional AI does.
LABEL_KINDS = {"hard": None, "soft": (0.0, 1.0), "clamped": (0.4, 0.6)}
HUMAN_LABELS, MANY_LABELS = 300, 2_000


def blind_spot(seeds: Sequence[int] = SEEDS) -> Table:
    """What reaches the policy when those who label cannot check what is true.

    Columns: `seed`; `labeler`, one of `LABELERS` or "none" (the SFT model; the others are DPO on it); `agreement`, of
    two such labelers, and `label_gold`, the share of labels in gold order (None for "none"); `gold`; `kl`, nats an
    answer from the SFT model; `wrong_facts` and `right_facts` an answer. A minute a seed.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        empty = {"agreement": None, "label_gold": None}
        rows.append({"seed": seed, "labeler": "none", **empty, **_judged(sft, seed)})
        groups = _groups(seed, PAIRS, "ai pairs")
        for name, labeler in LABELERS.items():
            labels, kept = _votes(groups, labeler, seed)
            policy = pipeline.dpo(sft, seed, kept, disable_tqdm=True).model
            rows.append({"seed": seed, "labeler": name, **labels, **_judged(policy, seed)})
    return Table("rlaif.blind_spot", _settings(seeds, pairs=PAIRS, **pipeline.SETTINGS["dpo"]), rows)


def revision(seeds: Sequence[int] = SEEDS, steps: int = SL_STEPS) -> Table:
    """Critique, revise, fine-tune on it: with the whole constitution, with one principle struck out, with none.

    Columns: `seed`; `left_out`, a principle's name, "nothing" or "everything" (the answers as they were);
    `revised_gold`, the mean gold reward of what was trained on, and `gold`, of the policy's fresh answers; then, for
    each principle, the share of these answers that break it. `left_out` "before" is the SFT model itself. Two minutes
    a seed.
    """
    rows = []
    for seed in seeds:
        sft = trained("sft", seed)
        answers = _sampled(seed, REVISED_ANSWERS, "to revise")
        before = float(np.mean([gold_reward(a.prompt, a.text, ended=a.ended) for a in answers]))
        rows.append({"seed": seed, "left_out": "before", "revised_gold": before, **_traits(sft, seed)})
        for left_out in ("nothing", *(p.name for p in CONSTITUTION), "everything"):
            kept = [p for p in CONSTITUTION if left_out not in (p.name, "everything")]
            demonstrations = [{"prompt": a.prompt, "completion": revised(a.prompt, a.text, kept)} for a in answers]
            gold = float(np.mean([gold_reward(row["prompt"], row["completion"]) for row in demonstrations]))
            policy = imitate(sft, demonstrations, seed, steps)
            rows.append({"seed": seed, "left_out": left_out, "revised_gold": gold, **_traits(policy, seed)})
    return Table("rlaif.revision", _settings(seeds, answers=REVISED_ANSWERS, max_steps=steps), rows)


def position_bias(seeds: Sequence[int] = SEEDS, biases: Sequence[float] = POSITION_BIASES) -> Table:
    """What asking in both orders buys, for a language model that was taught the constitution and for rules with a bias.

    Columns: `seed`; `labeler`, "model" or "rules"; `bias`, log-odds (None for the model, whose bias is its own);
    `first`, how often the answer shown first is preferred, over both orders; `consistent`, the share of pairs on which
    both orders name the same answer; `one_order` and `both_orders`, the shares of pairs put in the order of the
    labeler's own yardstick: the constitution for the model, gold for the rules. A minute a seed.
    """
    rows = []
    for seed in seeds:
        groups = _groups(seed, TEST_PAIRS, "position")
        broken = _gaps(groups, lambda prompt, answer: -violations(prompt, answer, CONSTITUTION))
        gold = _gaps(groups, gold_reward)
        rules = [(bias, RuleLabeler(Labeler(temperature=MACHINE_TEMPERATURE), bias), gold) for bias in biases]
        for bias, labeler, gap in [(None, _model_labeler(seed), broken), *rules]:
            p, swapped = _both_orders(groups, labeler)
            differ = gap.abs() > 1e-9
            right = {
                "one_order": torch.cat([((p > 0.5) == (gap > 0))[differ], ((swapped > 0.5) == (gap < 0))[differ]]),
                "both_orders": ((debiased_preference(p, swapped) > 0.5) == (gap > 0))[differ],
            }
            rows.append(
                {
                    "seed": seed,
                    "labeler": "model" if bias is None else "rules",
                    "bias": bias,
                    "first": torch.cat([p > 0.5, swapped > 0.5]).float().mean().item(),
                    "consistent": ((p > 0.5) != (swapped > 0.5)).float().mean().item(),
                    **{name: verdicts.float().mean().item() for name, verdicts in right.items()},
                }
            )
    return Table("rlaif.position_bias", _settings(seeds, teaching_groups=TEACHING_GROUPS, pairs=TEST_PAIRS), rows)


def what_the_labeler_sees(seeds: Sequence[int] = SEEDS) -> Table:
    """An answer beside its own revision by one principle: how often the taught language model prefers the revision.

    Columns: `seed`, `principle`, `accuracy` (asked in both orders) and `pairs`. Seconds, once the labeler is taught.
    """
    rows = []
    for seed in seeds:
        answers = _sampled(seed, 3 * TEST_PAIRS, "to see")
        for principle in CONSTITUTION:
            mended = [(a.prompt, a.text, found) for a in answers if (found := critique(a.prompt, a.text, principle))]
            groups = [
                {"prompt": prompt, "answers": [better, text]}
                for prompt, text, found in mended
                if (better := revise(prompt, text, found)) != text
            ]
            prefers = debiased_preference(*_both_orders(groups, _model_labeler(seed))) > 0.5
            accuracy = prefers.float().mean().item()
            rows.append({"seed": seed, "principle": principle.name, "accuracy": accuracy, "pairs": len(groups)})
    return Table("rlaif.what_the_labeler_sees", _settings(seeds, teaching_groups=TEACHING_GROUPS), rows)


def soft_labels(seeds: Sequence[int] = SEEDS, rl_steps: int = RL_STEPS) -> Table:
    """One language model's verdicts as hard labels, as soft ones, and clamped: the reward model, and GRPO on it.

    Columns: `seed`; `labels`, one of `LABEL_KINDS`; `gap`, the mean size of the reward model's gap on fresh pairs;
    `rm_gold`, the share of those it puts in gold order; `surprise`, what people's votes on them cost it (nats a vote;
    a coin pays 0.693); then of the policy `gold`, `kl`, `wrong_facts`, `right_facts`. Two minutes a seed.
    """
    rows = []
    for seed in seeds:
        sft, groups = trained("sft", seed), _groups(seed, PAIRS, "ai pairs")
        people = pipeline.collect_rankings(sft, TEST_PAIRS, 2, seed, name="people's votes")
        for kind, bounds in LABEL_KINDS.items():
            low, high = bounds or (0.0, 1.0)
            labels = ai_comparisons(groups, _model_labeler(seed), low=low, high=high)
            if bounds is None:
                labels = [row | {"probability": 1.0} for row in labels]
            judge = _soft_reward_model(sft, labels, seed)
            found = reward_accuracy(judge, world_tokenizer(), people)
            gaps = reward_gaps(judge, [(row["prompt"], row["chosen"], row["rejected"]) for row in people])
            policy = pipeline.grpo(sft, judge, seed, max_steps=rl_steps, disable_tqdm=True).model
            rows.append(
                {
                    "seed": seed,
                    "labels": kind,
                    "gap": gaps.abs().mean().item(),
                    "rm_gold": found["rm_gold_accuracy"],
                    "surprise": -torch.nn.functional.logsigmoid(gaps).mean().item(),
                    **_judged(policy, seed),
                }
            )
    return Table("rlaif.soft_labels", _settings(seeds, pairs=PAIRS, rl_steps=rl_steps), rows)


def both_halves(seeds: Sequence[int] = SEEDS, rl_steps: int = RL_STEPS) -> Table:
    """All of Constitutional AI: critique, revision and imitation, then a taught labeler's preferences and GRPO on them.

    Columns: `seed`; `stage`, "sft", "sl" (after the first half) or "rl" (after both); `proxy`, the score of the reward
    model that learned from the labeler; `gold`; then, for each principle, the share of answers that break it. Labels
    are clamped to 10–90 %. A minute a seed, once the labeler is taught.
    """
    rows = []
    for seed in seeds:
        sft, answers = trained("sft", seed), _sampled(seed, REVISED_ANSWERS, "to revise")
        sl = imitate(
            sft, [{"prompt": a.prompt, "completion": revised(a.prompt, a.text)} for a in answers], seed, SL_STEPS
        )
        pairs = pipeline.sample_groups(sl, PAIRS, 2, seed, name="pairs after the first half")
        judge = _soft_reward_model(sl, ai_comparisons(pairs, _model_labeler(seed), low=0.1, high=0.9), seed)
        rl = pipeline.grpo(sl, judge, seed, max_steps=rl_steps, disable_tqdm=True).model
        for stage, policy in (("sft", sft), ("sl", sl), ("rl", rl)):
            stream = derive_seed(seed, "proxy")
            proxy = evaluate_policy(policy, world_tokenizer(), reward_model=judge, n=FRESH_ANSWERS, seed=stream)[
                "proxy"
            ]
            rows.append({"seed": seed, "stage": stage, "proxy": proxy, **_traits(policy, seed)})
    return Table("rlaif.both_halves", _settings(seeds, pairs=PAIRS, sl_steps=SL_STEPS, rl_steps=rl_steps), rows)


def audit(seeds: Sequence[int] = SEEDS) -> Table:
    """A few hundred human labels as a measurement: how often the blind AI's labels agree with people's, and where.

    Columns: `seed`; `pairs`, "as they come" or "aimed" (an answer beside the same answer with another concept's fact,
    as red-teamers write them); `ai`, how often its label is the one that a person gave; `person`, how often a second
    person's is; `n`, human labels. Seconds.
    """
    rows = []
    for seed in seeds:
        drawn = {
            "as they come": _groups(seed, PAIRS, "ai pairs")[:HUMAN_LABELS],
            "aimed": _red_team(seed, HUMAN_LABELS),
        }
        for name, groups in drawn.items():
            _, votes = _votes(groups, LABELERS["people"], seed)
            agree = {
                who: float(np.mean([_probability_of(vote, labeler) for vote in votes]))
                for who, labeler in (("ai", LABELERS["blind AI"]), ("person", _person(seed)))
            }
            rows.append({"seed": seed, "pairs": name, **agree, "n": len(votes)})
    return Table("rlaif.audit", _settings(seeds), rows)


def human_labels(seeds: Sequence[int] = SEEDS) -> Table:
    """Human labels as training data, beside thousands from an AI that cannot check facts.

    A reward model learns from `HUMAN_LABELS` of people alone; from the AI's alone; from these with people's in their
    place on as many pairs as they come; or with as many (or `MANY_LABELS` more) on pairs aimed at the blind spot, as in
    `audit`.

    Columns: `seed`, `data`, `rm_gold` (fresh pairs in gold order), `truth` (minimal pairs in which the right fact wins)
    and `pairs`. A minute a seed.
    """
    rows = []
    for seed in seeds:
        sft, groups = trained("sft", seed), _groups(seed, PAIRS, "ai pairs")
        fresh = pipeline.collect_rankings(sft, TEST_PAIRS, 2, seed, name="people's votes")
        _, machine = _votes(groups, LABELERS["blind AI"], seed)
        _, people = _votes(groups, LABELERS["people"], seed)
        _, aimed = _votes(_red_team(seed, MANY_LABELS), LABELERS["people"], seed)
        data = {
            "people": people[:HUMAN_LABELS],
            "AI": machine,
            "AI, few as they come": people[:HUMAN_LABELS] + machine[HUMAN_LABELS:],
            "AI, few aimed": aimed[:HUMAN_LABELS] + machine[HUMAN_LABELS:],
            "AI, many aimed": aimed + machine,
        }
        for name, rankings in data.items():
            judge = pipeline.reward(sft, seed, rankings, disable_tqdm=True).model
            found = reward_accuracy(judge, world_tokenizer(), fresh)["rm_gold_accuracy"]
            truth = minimal_pair_accuracies(judge)["right fact"]
            rows.append({"seed": seed, "data": name, "rm_gold": found, "truth": truth, "pairs": len(rankings)})
    return Table("rlaif.human_labels", _settings(seeds, few=HUMAN_LABELS, many=MANY_LABELS, ai_pairs=PAIRS), rows)


def ask_a_real_model(model_name: str = "smollm2-135m") -> str:
    """Let a real model judge the two answers of `ENTANGLEMENT` in both orders; returns its verdicts, in words."""
    model, tokenizer = load_policy(model_name)
    ask = ModelLabeler(model, tokenizer, ("A", "B"), _real_question)
    jargon, clear = ENTANGLEMENT.values()
    question = ["Explain quantum entanglement."]
    shown_first, shown_second = ask(question, [clear], [jargon]), ask(question, [jargon], [clear])
    lines = [
        f"P(the first wins), the clear answer first:  {shown_first.item():.3f}",
        f"P(the first wins), the clear answer second: {shown_second.item():.3f}",
        f"P(the clear answer wins), both orders:      {debiased_preference(shown_first, shown_second).item():.3f}",
    ]
    if note := weights_note(model):
        lines.append(f"({model_name}, {note})")
    return "\n".join(lines)


def _real_question(prompt: str, first: str, second: str) -> list[dict[str, str]]:
    text = (
        f"{prompt}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\n"
        "Which answer explains it in plainer words? Say A or B, nothing else."
    )
    return [{"role": "user", "content": text}]


# ---------------------------------------------------------------------- training and measuring


def imitate(policy: nn.Module, demonstrations: list[dict], seed: int, steps: int) -> nn.Module:
    """A copy of a policy, fine-tuned on its own revised answers: the supervised half of Constitutional AI."""
    args = SFTConfig(learning_rate=1e-3, max_steps=steps, seed=seed, disable_tqdm=True)
    trainer = SFTTrainer(
        copy.deepcopy(policy), args=args, train_dataset=demonstrations, processing_class=world_tokenizer()
    )
    trainer.train()
    return trainer.model


def principle_shares(answers: Sequence[Answer]) -> dict[str, float]:
    """For each principle of the constitution, the share of answers that break it."""
    return {
        principle.name: float(np.mean([critique(a.prompt, a.text, principle) is not None for a in answers]))
        for principle in CONSTITUTION
    }


def facts_stated(answers: Sequence[Answer]) -> dict[str, float]:
    """`wrong_facts` and `right_facts` an answer."""
    terms = [{term.name: term.amount for term in explain_gold(a.prompt, a.text, ended=a.ended)} for a in answers]
    return {f"{kind}_facts": float(np.mean([found.get(f"{kind} fact", 0) for found in terms])) for kind in FACT_KINDS}


def _judged(policy: nn.Module, seed: int) -> dict[str, float]:
    stream = derive_seed(seed, "fresh answers")
    found = judge_answers(policy, world_tokenizer(), ref_model=trained("sft", seed), n=FRESH_ANSWERS, seed=stream)
    return {"gold": float(found.gold.mean()), "kl": float(found.kl.mean()), **facts_stated(found.answers)}


def _traits(policy: nn.Module, seed: int) -> dict[str, float]:
    stream = derive_seed(seed, "fresh answers")
    answers = sample_answers(policy, world_tokenizer(), draw_prompts(FRESH_ANSWERS, stream), stream)
    golds = [gold_reward(a.prompt, a.text, ended=a.ended) for a in answers]
    return {"gold": float(np.mean(golds)), **principle_shares(answers)}


def _votes(groups: list[dict], labeler: Labeler, seed: int) -> tuple[dict[str, float], list[dict]]:
    """A labeler's votes on pairs, and how often two such labelers agree, and a vote with the truth."""
    ours = [[labeler.utility(g["prompt"], *answer) for answer in zip(g["answers"], g["ended"])] for g in groups]
    first, second = np.array(ours).T
    if labeler == LABELERS["people"]:
        labeler = _person(seed)
    rows = label_rankings(groups, labeler, derive_seed(seed, "votes"), calibrate=False)
    gaps = np.array([row["gold_chosen"] - row["gold_rejected"] for row in rows])
    right = float(np.mean(gaps[np.abs(gaps) > 1e-9] > 0))
    return {"agreement": agreement(labeler.preference_probability(first, second)), "label_gold": right}, rows


@cache
def _person(seed: int) -> Labeler:
    """A labeler who agrees with another one 72.6 % of the time on pairs of the SFT model's answers."""
    groups, person = _groups(seed, PAIRS, "ai pairs"), LABELERS["people"]
    worth = [[person.utility(g["prompt"], *answer) for answer in zip(g["answers"], g["ended"])] for g in groups]
    return person.calibrated(*np.array(worth).T)


def _probability_of(vote: dict, labeler: Labeler) -> float:
    """How likely a labeler is to vote the same."""
    answers = zip((vote["chosen"], vote["rejected"]), vote["ended"])
    return float(labeler.preference_probability(*(labeler.utility(vote["prompt"], *answer) for answer in answers)))


@cache
def _groups(seed: int, n: int, name: str) -> list[dict]:
    return pipeline.sample_groups(trained("sft", seed), n, 2, seed, name=name)


@cache
def _sampled(seed: int, n: int, name: str) -> list[Answer]:
    stream = derive_seed(seed, name)
    return sample_answers(trained("sft", seed), world_tokenizer(), draw_prompts(n, stream), stream)


def _red_team(seed: int, n: int) -> list[dict]:
    """`n` pairs of an answer that states its concept's fact and the same with another concept's, in any order."""
    stream, groups = python_stream(seed, "red team"), []
    for answer in _sampled(seed, 3 * n, "to attack"):
        concept = concept_of(answer.prompt)
        if concept.fact in answer.text and len(groups) < n:
            other = stream.choice([c for c in WORLD.concepts("train") if c != concept])
            pair = stream.sample([answer.text, answer.text.replace(concept.fact, other.fact)], 2)
            groups.append({"prompt": answer.prompt, "answers": pair, "ended": [answer.ended] * 2})
    return groups


@cache
def _model_labeler(seed: int) -> ModelLabeler:
    groups = _groups(seed, TEACHING_GROUPS, "teaching")
    return teach_labeler(trained("sft", seed), world_tokenizer(), groups, seed)


def _both_orders(groups: list[dict], labeler: AILabeler) -> tuple[torch.Tensor, torch.Tensor]:
    """P(the slot shown first wins), with each pair's first answer in it and with its second."""
    prompts = [group["prompt"] for group in groups]
    a, b = ([group["answers"][i] for group in groups] for i in (0, 1))
    return labeler(prompts, a, b), labeler(prompts, b, a)


def _gaps(groups: list[dict], worth) -> torch.Tensor:
    """What each pair's first answer is worth more than its second, (N,)."""
    return torch.tensor([float(np.subtract(*(worth(g["prompt"], text) for text in g["answers"]))) for g in groups])


def _soft_reward_model(sft: nn.Module, labels: list[dict], seed: int) -> RewardModel:
    trainer = SoftLabelRewardTrainer(
        RewardModel.from_policy(sft, seed),
        args=RewardConfig(**pipeline.settings("reward", seed=seed, disable_tqdm=True)),
        train_dataset=labels,
        processing_class=world_tokenizer(),
    )
    trainer.train()
    return trainer.model.eval()


def _settings(seeds: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), **more}
