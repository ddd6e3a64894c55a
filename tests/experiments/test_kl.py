"""Lesson 04's experiments: their instruments by hand, and what the shipped tables must show in every seed."""

from math import log

import pytest
import torch

from rlhf_course.data.world import CONCEPTS, parse_sentence, split_sentences
from rlhf_course.experiments import kl, load_result
from rlhf_course.experiments.kl import best_of_n_policy, divergence, tilted_to

SEEDS = (0, 1, 2)


def probabilities(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------------- instruments


def test_best_of_two_by_counting_all_pairs_of_draws():
    ref, rewards = probabilities(0.5, 0.3, 0.2), probabilities(1.0, 3.0, 2.0)
    wins = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            wins[i if rewards[i] >= rewards[j] else j] += ref[i] * ref[j]
    torch.testing.assert_close(best_of_n_policy(ref, rewards, 2), wins)


def test_best_of_one_is_the_reference_and_ties_are_shared_as_the_reference_shares_them():
    ref = probabilities(0.1, 0.2, 0.3, 0.4)
    torch.testing.assert_close(best_of_n_policy(ref, probabilities(5, 1, 1, 0), 1), ref)
    policy = best_of_n_policy(ref, probabilities(2.0, 1.0, 1.0, 0.0), 3)
    assert policy.sum().item() == pytest.approx(1)
    assert (policy[1] / policy[2]).item() == pytest.approx(2 / 3)
    assert policy[3].item() == pytest.approx(0.4**3)
    torch.testing.assert_close(best_of_n_policy(ref, torch.ones(4).double(), 100), ref)


def test_the_tilted_policy_of_a_given_divergence():
    ref, rewards = probabilities(0.5, 0.3, 0.2), probabilities(1.0, 3.0, 2.0)
    policy = tilted_to(ref, rewards, 0.4)
    assert divergence(policy, ref) == pytest.approx(0.4, abs=1e-9)
    gain = (policy / ref).log()  # r/β − log Z
    assert ((gain[1] - gain[0]) / 2).item() == pytest.approx((gain[1] - gain[2]).item())


def test_the_answers_are_what_their_names_say():
    for kind, answer in kl.few_answers(CONCEPTS[0]).items():
        kinds = [parse_sentence(sentence).kind for sentence in split_sentences(answer)]
        assert "broken" not in kinds
        assert kinds.count("fact") == (4 if "four" in kind else 1)
        assert ("closing" in kinds) == ("closing" in kind)
        assert ("analogy" in kinds) == ("analogy" in kind)
    many = kl.many_answers(CONCEPTS[0])
    assert len(many) == len(set(many)) == 1_188
    assert all(parse_sentence(s).kind != "broken" for answer in many for s in split_sentences(answer))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of no penalty, k1 as a loss"):
        kl.placement_run(0, "k1 as loss")


@pytest.fixture
def untrained(monkeypatch):
    """New models in place of trained ones, and few fresh answers."""
    from rlhf_course.models import RewardModel
    from rlhf_course.models.tiny import new_tiny_model

    models = {"sft": new_tiny_model(0), "reward": RewardModel.from_policy(new_tiny_model(0), 0)}
    monkeypatch.setattr(kl, "trained", lambda stage, seed: models[stage])
    monkeypatch.setattr(kl, "FRESH_ANSWERS", 4)


@pytest.mark.parametrize("form", kl.FORMS)
def test_every_form_trains(untrained, form):
    looks = kl.placement_run(
        0, form, steps=2, every=1, per_device_train_batch_size=4, response_length=8, value_warmup_steps=0
    )
    assert [look["step"] for look in looks] == [0, 1, 2]
    assert looks[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert all(look["beta"] == (0.0 if form == kl.NO_PENALTY else kl.BETA) for look in looks)


def test_a_penalty_that_is_zero_changes_nothing(untrained):
    """With a penalty of 0, PPO with the KL in the loss is PPO without a penalty, bit for bit."""
    sft, judge = kl.trained("sft", 0), kl.trained("reward", 0)
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "response_length": 8, "value_warmup_steps": 0}
    settings |= {"use_cpu": True, "disable_tqdm": True}
    plain = kl.penalised_ppo(sft, judge, beta=0.0, **settings)
    none = kl.penalised_ppo(sft, judge, beta=0.7, penalty=lambda new, old, ref: torch.zeros_like(new), **settings)
    plain.train()
    none.train()
    for a, b in zip(plain.model.parameters(), none.model.parameters()):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------- what the tables must show, in every seed


def test_best_of_n_is_never_further_than_the_formula_and_never_better_than_the_optimum():
    table = load_result("kl.best_of_n")
    for row in table.rows:
        assert row["bound"] == pytest.approx(log(row["n"]) - (row["n"] - 1) / row["n"], abs=1e-4)
        assert row["kl"] <= row["bound"] + 1e-4
        assert row["reward"] <= row["most_reward"] + 1e-4
    for seed in SEEDS:
        (twenty,) = table.values("kl", seed=seed, reference="20 equally likely", n=256)
        assert twenty == pytest.approx(log(20), abs=1e-3)
        (many,) = table.values("kl", seed=seed, reference="1,000 equally likely", n=256)
        assert many > 0.99 * (log(256) - 255 / 256)
        (tied,) = table.values("kl", seed=seed, reference="SFT, by gold", n=256)
        assert tied < 0.75 * (log(256) - 255 / 256)


def test_one_seed_of_three_has_a_hack_among_its_eight_answers():
    table = load_result("kl.answers")
    best = {}
    for seed in SEEDS:
        rows = table.where(seed=seed)
        total = torch.tensor([row["ref_logp"] for row in rows], dtype=torch.float64).exp().sum().item()
        assert total == pytest.approx(1, abs=1e-3)
        best[seed] = max(rows, key=lambda row: row["reward"])["kind"]
    assert best[1] == "fact four times, closing"
    assert "fact four times, closing" not in (best[0], best[2])


def ends(form):
    """KL and gold at the end of a form's runs, by seed."""
    table = load_result("kl.kl_placement")
    last = max(table.values("step"))
    rows = table.where(form=form, step=last)
    return {row["seed"]: row["kl"] for row in rows}, {row["seed"]: row["gold"] for row in rows}


def test_k1_as_a_loss_does_not_hold_the_policy_and_the_other_forms_do():
    sft_gold = {row["seed"]: row["gold"] for row in load_result("kl.kl_placement").where(form="no penalty", step=0)}
    drift, worth = ends("k1 as a loss")
    free, _ = ends("no penalty")
    assert sum(drift[seed] > free[seed] for seed in SEEDS) == 2, "the lesson says so"
    for form in ("k2 as a loss", "k3 as a loss", "ratio·k3 as a loss", "k1 in the reward"):
        kl_of, gold_of = ends(form)
        for seed in SEEDS:
            assert kl_of[seed] < 8, form
            assert drift[seed] > 5 * kl_of[seed], form
            assert gold_of[seed] > sft_gold[seed] + 1, form
            assert gold_of[seed] > worth[seed] + 1, form
            assert gold_of[seed] >= ends("k3 as a loss")[1][seed], form


def test_without_a_penalty_the_score_is_highest_and_the_truth_below_every_form_that_holds():
    table = load_result("kl.kl_placement")
    last = max(table.values("step"))
    for seed in SEEDS:
        proxy = {form: table.values("proxy", seed=seed, form=form, step=last)[0] for form in kl.FORMS}
        gold = {form: table.values("gold", seed=seed, form=form, step=last)[0] for form in kl.FORMS}
        held = [form for form in kl.FORMS if form not in ("no penalty", "k1 as a loss")]
        assert proxy["no penalty"] > max(proxy[form] for form in held)
        assert gold["no penalty"] < min(gold[form] for form in held)
