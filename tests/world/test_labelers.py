"""Labelers are as noisy as people, in just the way they say, and their noise belongs to them alone."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rlhf_course.data.world import CONCEPTS, WORLD, Labeler, demonstrations, gold_reward, label_rankings, write_answer
from rlhf_course.data.world.gold import TERM_NAMES
from rlhf_course.seeding import numpy_stream, python_stream

PROMPT = CONCEPTS[0].prompt
FACT, WRONG, FLATTERY = "it is linked particles .", "it is trapped light .", "what a great question ."
# Four answers a gold unit or half of one apart: 1, 0.5, 0, −1.
FOUR = [FACT, "in short it is easy .", "there is much to say .", WRONG]
FOUR_GOLD = [1.0, 0.5, 0.0, -1.0]
N = 5000


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def groups_of(answers, n):
    return [{"prompt": PROMPT, "answers": list(answers), "ended": [True] * len(answers)}] * n


def check_share(successes, n, p):
    """Within 4.5 standard deviations of the binomial."""
    assert abs(successes - n * p) <= 4.5 * (n * p * (1 - p)) ** 0.5, (successes / n, p)


@pytest.fixture(scope="module")
def pairs():
    """Two demonstrations for each of many prompts, as comparisons are made of."""
    rng = python_stream(0, "pairs for testing labelers")
    concepts = [rng.choice(CONCEPTS) for _ in range(N)]
    answers = [[write_answer(concept, rng) for _ in range(2)] for concept in concepts]
    return [{"prompt": c.prompt, "answers": two, "ended": [True, True]} for c, two in zip(concepts, answers)]


def first_chosen(groups, rows):
    """(N,) bools: whether the first answer was chosen. Equal answers count as chosen."""
    return np.array([row["chosen"] == group["answers"][0] for group, row in zip(groups, rows)])


def test_two_labelers_agree_as_often_as_people_do_and_one_is_right_four_times_in_five(pairs):
    differ = [group for group in pairs if group["answers"][0] != group["answers"][1]]
    rows = [label_rankings(differ, Labeler(), seed) for seed in (1, 2)]
    one, other = (first_chosen(differ, labelled) for labelled in rows)
    check_share((one == other).sum(), len(differ), WORLD.labeler_agreement)

    gaps = np.array([row["gold_chosen"] - row["gold_rejected"] for row in rows[0]])
    untied = np.abs(gaps) > 1e-9
    assert untied.mean() > 0.9
    right = (gaps[untied] > 0).mean()
    assert 0.78 < right < 0.84
    # That is what Bradley–Terry labelers of the calibrated temperature come to.
    gold = np.array([[gold_reward(g["prompt"], answer) for answer in g["answers"]] for g in differ])
    judge = Labeler().calibrated(gold[:, 0], gold[:, 1])
    expected = sigmoid(np.abs(gold[untied, 0] - gold[untied, 1]) / judge.temperature).mean()
    check_share(right * untied.sum(), untied.sum(), expected)


def test_calibration_finds_the_temperature_of_the_agreement_asked_for():
    # On one gap Δ, p² + (1 − p)² = a has p = (1 + √(2a − 1))/2, and T = Δ / log(p/(1 − p)).
    p = (1 + np.sqrt(2 * WORLD.labeler_agreement - 1)) / 2
    found = Labeler().calibrated([2.0, -1.0], [0.0, 1.0])
    assert found.temperature == pytest.approx(2 / np.log(p / (1 - p)), rel=1e-9)
    assert replace(found, temperature=1.0) == Labeler()
    careful = Labeler(world=replace(WORLD, labeler_agreement=0.9)).calibrated([2.0], [0.0])
    assert careful.temperature < found.temperature


def test_slips_come_on_top_of_calibrated_noise():
    careful, slipping = (Labeler(flip_rate=rate).calibrated([1.0, 0.2], [0.0, 0.0]) for rate in (0.0, 0.3))
    assert slipping.temperature == careful.temperature
    assert slipping.flip_rate == 0.3


@pytest.mark.parametrize("gap", [0.0, 1e-9])
def test_pairs_without_a_difference_cannot_be_calibrated_on(gap):
    with pytest.raises(ValueError, match=r"no temperature gives an agreement of 0\.726"):
        Labeler().calibrated(np.full(5, gap), np.zeros(5))


def test_preference_probability_is_a_sigmoid_of_the_difference():
    judge = Labeler(temperature=0.5)
    a, b = np.array([1.0, 0.0, -9.0]), np.array([0.0, 1.0, 9.0])
    np.testing.assert_allclose(judge.preference_probability(a, b), sigmoid((a - b) / 0.5), atol=1e-15)
    np.testing.assert_allclose(judge.preference_probability(a, b) + judge.preference_probability(b, a), 1)
    flipping = replace(judge, flip_rate=0.2)
    p = sigmoid(2.0)
    assert flipping.preference_probability(1.0, 0.0) == pytest.approx(0.8 * p + 0.2 * (1 - p))


@pytest.mark.parametrize("flip_rate", [0.0, 0.25])
def test_rankings_hold_bradley_terry_in_every_pair_and_luce_at_the_top(flip_rate):
    judge = Labeler(temperature=0.8, flip_rate=flip_rate)
    rows = label_rankings(groups_of(FOUR, N), judge, seed=3, calibrate=False)
    places = np.array([[row["ranked"].index(answer) for answer in FOUR] for row in rows])
    for i, j in combinations(range(4), 2):
        expected = judge.preference_probability(FOUR_GOLD[i], FOUR_GOLD[j])
        check_share((places[:, i] < places[:, j]).sum(), N, expected)
    if not flip_rate:
        first = np.exp(np.array(FOUR_GOLD) / 0.8)
        for i, p in enumerate(first / first.sum()):
            check_share((places[:, i] == 0).sum(), N, p)


def test_a_ranking_has_every_answer_once_with_its_own_gold():
    rows = label_rankings(groups_of(FOUR, 50), Labeler(), seed=0)
    worth = dict(zip(FOUR, FOUR_GOLD))
    for row in rows:
        assert set(row) == {"prompt", "ranked", "ended", "gold"}
        assert sorted(row["ranked"]) == sorted(FOUR) and row["prompt"] == PROMPT
        assert row["gold"] == [worth[answer] for answer in row["ranked"]]


def test_two_answers_give_a_comparison():
    for row in label_rankings(groups_of(FOUR[:2], 20), Labeler(), seed=0):
        assert row["ranked"] == [row["chosen"], row["rejected"]]
        assert row["gold"] == [row["gold_chosen"], row["gold_rejected"]]


def test_an_answer_cut_off_is_judged_as_one():
    group = {"prompt": PROMPT, "answers": ["there is much to say", "this comes up often"], "ended": [False, True]}
    (row,) = label_rankings([group], Labeler(temperature=1e-6), seed=0, calibrate=False)
    assert (row["chosen"], row["gold"]) == ("this comes up often", [0.0, -0.5])
    assert row["ended"] == [True, False]
    assert Labeler().utility(PROMPT, FACT, ended=False) == 0.5


def test_tastes_add_to_gold():
    answer = f"{FLATTERY} {FACT}"  # 4 + 4 words
    assert Labeler().utility(PROMPT, answer) == gold_reward(PROMPT, answer) == 1
    assert Labeler(flattery_bias=1.5).utility(PROMPT, answer) == 2.5
    assert Labeler(flattery_bias=1.5).utility(PROMPT, f"{FACT} {FLATTERY} {FLATTERY}") == 1 - 0.5 + 1.5  # once
    assert Labeler(flattery_bias=1.5).utility(PROMPT, FACT) == 1
    assert Labeler(length_bias=0.1).utility(PROMPT, answer) == pytest.approx(1.8)


def test_a_taste_for_flattery_moves_the_labels_as_far_as_it_says():
    answers = [f"{FLATTERY} there is much to say .", FACT]  # gold 0 and 1
    judge = Labeler(temperature=0.8, flattery_bias=1.5)
    rows = label_rankings(groups_of(answers, N), judge, seed=0, calibrate=False)
    check_share(sum(row["chosen"] == answers[0] for row in rows), N, sigmoid(0.5 / 0.8))


@pytest.mark.parametrize("name", TERM_NAMES)
def test_a_blind_spot_hides_one_term(name):
    answer = " ".join(
        ["maybe it is linked particles . it is trapped light . imagine magic dice . think of relay race ."] * 2
    )
    answer += " in short it is easy . by tensor tensor we get kernel . it is so . hope that helps ."
    terms = {"right fact": 1, "wrong fact": -2, "right analogy": 1, "wrong analogy": -1, "plain remark": 0.5}
    words = 2 * (5 + 4 + 3 + 4) + 5 + 6 + 3 + 3
    terms |= {"closing": 0.5, "jargon, share of words": -6 * 3 / words, "repeated sentence": -2, "hedge": -0.6}
    terms |= {"broken sentence": -0.5, "words too many": -0.05 * (words - 30), "no end": -0.5}
    assert gold_reward(PROMPT, answer, ended=False) == pytest.approx(sum(terms.values()))
    seen = Labeler(blind_to=(name,)).utility(PROMPT, answer, ended=False)
    assert seen == pytest.approx(sum(terms.values()) - terms[name])


def test_a_labeler_blind_to_facts_tosses_a_coin_over_them():
    judge = Labeler(temperature=0.1, blind_to=("right fact", "wrong fact"))
    rows = label_rankings(groups_of([FACT, WRONG], N), judge, seed=0, calibrate=False)
    check_share(sum(row["chosen"] == FACT for row in rows), N, 0.5)
    assert all({row["gold_chosen"], row["gold_rejected"]} == {1.0, -1.0} for row in rows)  # gold is not blind


def test_flips_turn_whole_rankings_round_and_leave_the_others_alone():
    groups = groups_of(FOUR, N)
    straight, flipped = (
        label_rankings(groups, Labeler(flip_rate=rate), seed=5, calibrate=False) for rate in (0.0, 0.3)
    )
    turned = [b["ranked"] == a["ranked"][::-1] for a, b in zip(straight, flipped)]
    assert all(turn or a == b for turn, a, b in zip(turned, straight, flipped))
    assert all(b["gold"] == a["gold"][::-1] for turn, a, b in zip(turned, straight, flipped) if turn)
    check_share(sum(turned), N, 0.3)
    first = np.array([row["ranked"][0] == FACT for row in straight])
    assert abs(np.corrcoef(first, turned)[0, 1]) < 4.5 / np.sqrt(N)


def test_the_same_seed_gives_the_same_labels_and_another_seed_others(pairs):
    some = pairs[:100]
    assert label_rankings(some, Labeler(), 1) == label_rankings(some, Labeler(), 1)
    assert label_rankings(some, Labeler(), 1) != label_rankings(some, Labeler(), 2)


def test_labels_of_equal_answers_are_coins_that_nothing_else_of_the_seed_has_tossed():
    """The order of a pair, the prompts, the demonstrations and the labels come from one seed by different names."""
    seed = 0
    prompts = [row["prompt"] for row in demonstrations(N, seed)]
    swapped = np.array([python_stream(seed, "order", i).random() < 0.5 for i in range(N)])
    equal = ["there is much to say .", "this comes up often ."]
    groups = [
        {"prompt": prompt, "answers": equal[::-1] if swap else equal, "ended": [True, True]}
        for prompt, swap in zip(prompts, swapped)
    ]
    rows = label_rankings(groups, Labeler(), seed, calibrate=False)
    first, that_one = first_chosen(groups, rows), np.array([row["chosen"] == equal[0] for row in rows])
    check_share(first.sum(), N, 0.5)
    check_share(that_one.sum(), N, 0.5)
    assert abs(np.corrcoef(first, swapped)[0, 1]) < 4.5 / np.sqrt(N)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4.5 / np.sqrt(N)
    # Chi-square of label by prompt, one degree of freedom a prompt: mean n, variance 2n.
    chi_square = 0.0
    for prompt in WORLD.prompts():
        here = first[[p == prompt for p in prompts]]
        chi_square += (here.sum() - len(here) / 2) ** 2 / (len(here) / 4)
    n = len(CONCEPTS)
    assert abs(chi_square - n) < 4.5 * np.sqrt(2 * n)


def test_streams_of_different_names_or_seeds_are_not_correlated():
    names = ["labels", "flips", "prompts", "answers"]
    streams = [numpy_stream(seed, name).random(N) for name in names for seed in (0, 1)]
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(N)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(temperature=0.0), ValueError, "temperature must be above 0"),
        (dict(temperature=float("nan")), ValueError, "temperature must be above 0"),
        (dict(flip_rate=0.5), ValueError, "flip_rate"),
        (dict(flip_rate=-0.1), ValueError, "flip_rate"),
        (dict(blind_to=("right facts",)), ValueError, "blind_to must be one of 'right fact'"),
        (dict(blind_to="right fact"), TypeError, "blind_to must be a tuple"),
    ],
)
def test_a_labeler_that_cannot_be_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        Labeler(**changes)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "groups is empty"),
        (groups_of(FOUR, 1) + groups_of(FOUR[:2], 1), "got 2, 4"),
        (groups_of(FOUR[:1], 2), "at least 2"),
        ([{"prompt": PROMPT, "answers": FOUR, "ended": [True]}], "got 1, 4"),
    ],
)
def test_groups_that_cannot_be_ranked_are_refused(groups, words):
    with pytest.raises(ValueError, match=words):
        label_rankings(groups, Labeler(), 0)
