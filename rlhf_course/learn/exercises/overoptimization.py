"""Exercises of lesson 10: fitting Gao et al.'s laws, where they peak, and several reward models as one."""

import math

import torch

from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.models.ensemble import combine_rewards
from rlhf_course.overoptimization import fit_overoptimization as fit
from rlhf_course.overoptimization import peak_distance as peak


def fit_overoptimization(distance, gold, method):
    bend = distance**2 if method == "bon" else torch.special.xlogy(distance, distance)
    columns = torch.stack([distance, -bend], dim=1)
    alpha, beta = torch.linalg.lstsq(columns, gold.unsqueeze(1)).solution.squeeze(1)
    return alpha.item(), beta.item()


def peak_distance(alpha, beta, method):
    if beta <= 0:
        return math.inf
    return alpha / (2 * beta) if method == "bon" else math.exp(alpha / beta - 1)


def ensemble_reward(scores, method, weight):
    if method == "mean":
        return scores.mean(dim=0)
    if method == "wco":
        return scores.amin(dim=0)
    return scores.mean(dim=0) - weight * scores.var(dim=0, correction=0)


# ---------------------------------------------------------------------- the law's two numbers


def _law(distance, alpha, beta, method):
    bend = distance if method == "bon" else torch.where(distance > 0, distance, 1.0).log()
    return distance * (alpha - beta * bend)


def _fit_cases(stream):
    d = torch.linspace(0.5, 6.0, 12, dtype=torch.float64)
    noise = 0.1 * torch.randn(12, generator=stream, dtype=torch.float64)
    from_start = torch.tensor([0.0, 0.4, 1.1, 2.0, 3.3, 5.0, 8.0], dtype=torch.float64)
    ragged = torch.randn(7, generator=stream, dtype=torch.float64)
    three = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    return [
        Case("three points of best-of-n", (three, torch.tensor([1.5, 2.0, 1.5], dtype=torch.float64), "bon")),
        Case("three points of RL", (three, _law(three, 2.0, 1.0, "rl"), "rl")),
        Case("a noisy best-of-n curve", (d, _law(d, 1.0, 0.1, "bon") + noise, "bon")),
        Case("a noisy RL curve", (d, _law(d, 1.5, 0.9, "rl") + noise, "rl")),
        Case("a run looked at from the start, where d is 0", (from_start, _law(from_start, 1.2, 0.6, "rl"), "rl")),
        Case("points that follow no law", (from_start, ragged, "rl")),
        Case("a curve that never turns", (d, _law(d, 0.5, -0.05, "bon"), "bon")),
    ]


def _least_squares(columns, gold):
    columns = torch.stack(columns, dim=1)
    if columns.isfinite().all():
        return torch.linalg.lstsq(columns, gold.unsqueeze(1)).solution.squeeze(1).tolist()
    if torch.backends.mkl.is_available():  # it refuses, and says so on the learner's screen
        raise RuntimeError("least squares over numbers that are not finite")
    return [math.nan] * columns.shape[1]


def _with_intercept(distance, gold, method):
    bend = distance**2 if method == "bon" else torch.special.xlogy(distance, distance)
    _, alpha, beta = _least_squares([torch.ones_like(distance), distance, -bend], gold)
    return alpha, beta


def _sign_of_beta(distance, gold, method):
    alpha, beta = fit(distance, gold, method)
    return alpha, -beta


def _log_alone(distance, gold, method):
    bend = distance**2 if method == "bon" else distance.log()
    return tuple(_least_squares([distance, -bend], gold))


def _log_of_0(distance, gold, method):
    bend = distance**2 if method == "bon" else distance * distance.log()
    return tuple(_least_squares([distance, -bend], gold))


def _same_law(distance, gold, method):
    return fit(distance, gold, "bon")


def _bracket_alone(distance, gold, method):
    bend = distance if method == "bon" else torch.where(distance > 0, distance, 1.0).log()
    return tuple(_least_squares([torch.ones_like(distance), -bend], gold))


def _of_kl(distance, gold, method):
    return fit(distance**2, gold, method)


def _of_ratios(distance, gold, method):
    bend = distance if method == "bon" else distance.log()
    alpha, beta = _least_squares([torch.ones_like(distance), -bend], gold / distance)
    return alpha, beta


_FIT = Exercise(
    id="overoptimization.fit_overoptimization",
    reference=fit,
    answer=fit_overoptimization,
    cases=_fit_cases,
    mistakes=[
        Mistake(
            "sign of β",
            _sign_of_beta,
            "Your β has its sign turned round. The law takes β off: where gold turns down, β is positive. Which sign "
            "does the second column of your fit carry?",
        ),
        Mistake(
            "with an intercept",
            _with_intercept,
            "You let the curve start anywhere. The initial policy has come no distance and gained nothing: both laws "
            "go through (0, 0), and a constant of your own takes some of α away.",
        ),
        Mistake(
            "log d without its d",
            _log_alone,
            "In the law of RL the whole bracket is multiplied by d. Write it out: d(α − β log d) has two terms, and "
            "log d alone is neither of them.",
        ),
        Mistake(
            "0 · log 0",
            _log_of_0,
            "At the start d is 0, and there d.log() is −∞ and 0 · −∞ is NaN, with which least squares cannot count. In "
            "truth d·log d goes to 0 with d: that is the number which belongs there.",
        ),
        Mistake(
            "the bracket alone",
            _bracket_alone,
            "You fit the bracket, α − β·…, to the gold. In both laws d stands in front of it: multiply it out, and "
            "both columns hold a d.",
        ),
        Mistake(
            "the laws exchanged",
            lambda distance, gold, method: fit(distance, gold, "rl" if method == "bon" else "bon"),
            'You have each law under the other\'s name. "bon" is the one without a logarithm.',
        ),
        Mistake(
            "β first",
            lambda distance, gold, method: fit(distance, gold, method)[::-1],
            "Both numbers are right, and come the other way round: α first, then β.",
        ),
        Mistake(
            "one law for both",
            _same_law,
            "Best-of-n comes out right, RL does not: you fit a parabola to it. RL travels much further for the same "
            "gain, and its law bends with log d in place of d.",
        ),
        Mistake(
            "KL in place of its root",
            _of_kl,
            "You square the distance. `distance` is √KL already: it is d that both laws are written in, because gold "
            "is nearly straight in d at the start.",
        ),
        Mistake(
            "the root of the root",
            lambda distance, gold, method: fit(distance.sqrt(), gold, method),
            "You take a root once more. `distance` is d = √KL already.",
        ),
        Mistake(
            "divided by d first",
            _of_ratios,
            "Dividing by d makes the law a straight line, and it is the same law where the points lie on it exactly. "
            "Real points do not: the division blows up the noise of those near the start, and at d = 0 there is "
            "nothing to divide by.",
        ),
    ],
    hints=[
        "Both laws are linear in α and β: R = α·(something) − β·(something else). Least squares does the rest.",
        "The columns are d and −d² for best-of-n, d and −d·log d for RL. No column of ones: R(0) = 0.",
        "torch.linalg.lstsq(columns, gold.unsqueeze(1)).solution, with columns = torch.stack([d, −bend], dim=1). "
        "torch.special.xlogy(d, d) is d·log d, and 0 at 0.",
    ],
    reason="α and β enter the laws only as factors, so the best ones come from linear least squares in one line, "
    "without a start value or a step size. d·log d goes to 0 with d, which is what xlogy returns there; d.log() would "
    "put −∞ into the fit.",
)


# ---------------------------------------------------------------------- where gold is highest


def _peak_cases(stream):
    return [
        Case("best-of-n, α 1 and β 0.1", (1.0, 0.1, "bon")),
        Case("RL, α 1.5 and β 0.9", (1.5, 0.9, "rl")),
        Case("best-of-n, steep and soon over", (3.0, 2.0, "bon")),
        Case("RL, a long way", (2.0, 0.5, "rl")),
        Case("best-of-n that never turns", (0.8, -0.1, "bon")),
        Case("RL that never turns", (0.8, 0.0, "rl")),
    ]


_PEAK = Exercise(
    id="overoptimization.peak_distance",
    reference=peak,
    answer=peak_distance,
    cases=_peak_cases,
    mistakes=[
        Mistake(
            "where gold is back at 0",
            lambda alpha, beta, method: (
                math.inf if beta <= 0 else alpha / beta if method == "bon" else math.exp(alpha / beta)
            ),
            "That is where the bracket is 0: there the policy is worth what it was worth at the start. The peak lies "
            "before that, where the slope is 0.",
        ),
        Mistake(
            "the nats instead of their root",
            lambda alpha, beta, method: peak(alpha, beta, method) ** 2,
            "You return the KL at the peak. It is a fine number to report, and the question was d, its root.",
        ),
        Mistake(
            "the gold there",
            lambda alpha, beta, method: (
                math.inf if beta <= 0 else alpha**2 / (4 * beta) if method == "bon" else beta * peak(alpha, beta, "rl")
            ),
            "That is how much gold the peak brings, R(d*). The question is how far away it lies, d* itself.",
        ),
        Mistake(
            "the parabola for both",
            lambda alpha, beta, method: peak(alpha, beta, "bon"),
            "Best-of-n is right. RL's law is no parabola: take the derivative of αd − βd·log d, and mind that "
            "d·log d has two terms in its own.",
        ),
        Mistake(
            "lost the one",
            lambda alpha, beta, method: (
                math.inf if beta <= 0 else alpha / (2 * beta) if method == "bon" else math.exp(alpha / beta + 1)
            ),
            "The derivative of d·log d is log d + 1, and the 1 stands on the side of β. On which side of the "
            "equation does it end up?",
        ),
        Mistake(
            "β on the logarithm alone",
            lambda alpha, beta, method: (
                math.inf if beta <= 0 else alpha / (2 * beta) if method == "bon" else math.exp((alpha - 1) / beta)
            ),
            "The derivative of βd·log d is β(log d + 1): β multiplies the 1 as well as the logarithm.",
        ),
        Mistake(
            "the logarithm of the peak",
            lambda alpha, beta, method: (
                math.inf if beta <= 0 else alpha / (2 * beta) if method == "bon" else alpha / beta - 1
            ),
            "For RL you have found log d at the peak. The question is d itself.",
        ),
        Mistake(
            "a peak where there is none",
            lambda alpha, beta, method: (
                (alpha / (2 * beta) if beta else math.inf)
                if method == "bon"
                else (math.exp(alpha / beta - 1) if beta else math.inf)
            ),
            "For a negative β your formula still returns a number. The curve bends upwards then: what it finds is a "
            "lowest point or nothing at all. Return math.inf where gold never turns.",
        ),
    ],
    hints=[
        "At the peak the slope is 0. Differentiate R(d), and solve for d.",
        "Best-of-n: α − 2βd = 0. RL: α − β(log d + 1) = 0.",
        "α/(2β) for best-of-n, exp(α/β − 1) for RL, and math.inf where β is 0 or less.",
    ],
    reason="The two laws rise from 0 and have one point where the slope is 0. With β ≤ 0 no further step ever costs "
    "anything: there is no peak in the fit, which is what a run looks like that has not gone far enough.",
)


# ---------------------------------------------------------------------- several reward models


def _ensemble_cases(stream):
    scores = torch.randn(4, 6, generator=stream)
    return [
        Case("two members on three answers, mean", (torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 0.0]]), "mean", 0.5)),
        Case("the same, wco", (torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 0.0]]), "wco", 0.5)),
        Case("the same, uwo", (torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 0.0]]), "uwo", 0.5)),
        *(Case(f"four members, {method}", (scores, method, 0.1)) for method in ("mean", "wco", "uwo")),
        Case("uwo with a high price", (scores, "uwo", 4.0)),
        Case("uwo of one member", (scores[:1], "uwo", 1.0)),
        Case("one answer", (scores[:, :1], "wco", 1.0)),
    ]


def _over_everything(scores, method, weight):
    if method == "wco":
        return scores.min()
    return scores.mean() - (weight * scores.var(correction=0) if method == "uwo" else 0)


def _with(**wrong):
    def function(scores, method, weight):
        if method in wrong:
            return wrong[method](scores, weight)
        return combine_rewards(scores, method, weight)

    return function


_ENSEMBLE = Exercise(
    id="overoptimization.ensemble_reward",
    reference=combine_rewards,
    answer=ensemble_reward,
    cases=_ensemble_cases,
    mistakes=[
        Mistake(
            "over answers",
            lambda scores, method, weight: combine_rewards(scores.T, method, weight),
            "You combine along the answers. A row is one member's opinion of all answers; an answer's reward comes "
            "from its column.",
        ),
        Mistake(
            "one reward for all",
            _over_everything,
            "You make one number out of the whole table. Every answer has a reward of its own: work along the members, "
            "dim 0, and leave the batch.",
        ),
        Mistake(
            "divided by K − 1",
            _with(uwo=lambda scores, weight: scores.mean(0) - weight * scores.var(0, correction=1)),
            "Your variance is that of a sample, divided by K − 1. The members are all there are, not a sample of "
            "more; with one member you divide by 0.",
        ),
        Mistake(
            "spread in place of variance",
            _with(uwo=lambda scores, weight: scores.mean(0) - weight * scores.std(0, correction=0)),
            "You take off the standard deviation. UWO takes off the variance, its square: a small quarrel among "
            "members costs next to nothing, a large one much.",
        ),
        Mistake(
            "a sample's spread",
            _with(uwo=lambda scores, weight: scores.mean(0) - weight * scores.std(0)),
            "You take off the standard deviation, and torch's divides by K − 1. UWO takes off the variance, its "
            "square, divided by the number of members: correction=0.",
        ),
        Mistake(
            "rewarded for quarrelling",
            _with(uwo=lambda scores, weight: scores.mean(0) + weight * scores.var(0, correction=0)),
            "You add the variance. The policy would look for answers about which the members disagree most, and "
            "those are the ones nobody has seen.",
        ),
        Mistake(
            "the best case",
            _with(wco=lambda scores, weight: scores.amax(0)),
            "You take the most generous member. One member that can be fooled would be enough to fool all: worst "
            "case means that every one has to be convinced.",
        ),
        Mistake(
            "the worst member",
            _with(wco=lambda scores, weight: scores[scores.mean(1).argmin()]),
            "You look for the member that is strictest on average and follow it alone. The worst case is chosen anew "
            "for every answer.",
        ),
        Mistake(
            "values and indices",
            _with(wco=lambda scores, weight: scores.min(dim=0)),
            "torch.min with a dim returns a pair, the lowest values and the places where they stand. The reward is the "
            "first of the two, .values; or take amin, which returns nothing else.",
        ),
        Mistake(
            "indices",
            _with(wco=lambda scores, weight: scores.min(dim=0).indices),
            "You return which member was strictest. torch.min with a dim returns values and indices: which of them "
            "is the reward?",
        ),
    ],
    hints=[
        "scores is members × batch. Every method turns each column into one number.",
        "The mean, the lowest, or the mean minus weight times the variance over members.",
        "scores.mean(dim=0) · scores.amin(dim=0) · scores.mean(dim=0) − weight · scores.var(dim=0, correction=0)",
    ],
    reason="All three agree where the members do. Where they differ, the mean lets a fooled member's extra score "
    "through by a K-th, UWO charges for the disagreement, and WCO pays only what the strictest would. None of them "
    "notices what all members are wrong about.",
)

EXERCISES = [_FIT, _PEAK, _ENSEMBLE]
