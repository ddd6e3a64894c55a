"""Exercises of lesson 04: estimating the KL, the policy that is best for its price, best-of-n, and who sets β."""

import math

import torch

from rlhf_course import kl
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def kl_estimate(logps, ref_logps, estimator):
    d = logps - ref_logps
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d**2 / 2
    return torch.expm1(-d) + d


def tilted_policy(ref_probs, rewards, beta):
    return torch.softmax(ref_probs.log() + rewards / beta, dim=-1)


def best_of_n_kl(n):
    return math.log(n) - (n - 1) / n


def adaptive_beta(beta, kl, target, batch_size, horizon):
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * batch_size / horizon)


def _estimator_cases(stream):
    logps = torch.randn(2, 5, generator=stream) - 3
    ref_logps = torch.randn(2, 5, generator=stream) - 3
    half = logps.bfloat16()
    one = torch.tensor([-1.0, -0.5, -2.0])
    ref = torch.tensor([-1.2, -0.1, -3.0])
    return [
        Case("k1 of three tokens", (one, ref, "k1")),
        Case("k2 of three tokens", (one, ref, "k2")),
        Case("k3 of three tokens", (one, ref, "k3")),
        *(Case(f"{name} of a batch", (logps, ref_logps, name)) for name in ("k1", "k2", "k3")),
        Case("k3 where the two agree", (logps, logps.clone(), "k3")),
        Case("k3 far below the reference", (torch.tensor([-12.0]), torch.tensor([-2.0]), "k3")),
        Case("k2 in bfloat16", (half, half + 0.5, "k2")),
    ]


def _with(**wrong):
    """The reference with one estimator, or several, replaced by functions of d = log π − log π_ref."""

    def function(logps, ref_logps, estimator):
        if estimator in wrong:
            return wrong[estimator](logps - ref_logps)
        return kl.kl_estimate(logps, ref_logps, estimator)

    return function


_ESTIMATE = Exercise(
    id="kl.kl_estimate",
    reference=kl.kl_estimate,
    answer=kl_estimate,
    cases=_estimator_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "reference minus policy",
            lambda logps, ref_logps, estimator: kl.kl_estimate(ref_logps, logps, estimator),
            "You start from log π_ref − log π. The samples came from π, so the average of that is minus the KL, and "
            "your k3 has its ratio the wrong way up. Which of the two log-probabilities stands first in KL(π‖π_ref)?",
        ),
        Mistake(
            "k1 with its sign flipped",
            _with(k1=lambda d: -d),
            "Your k1 is negative where the policy likes the token more than the reference does. Tokens that π "
            "prefers come up more often when π samples, and they have to bring the average above 0.",
        ),
        Mistake(
            "k3 with its ratio inverted",
            _with(k3=lambda d: d.exp() - 1 - d),
            "Your k3 is never negative, and it is 0 where the two agree, so it looks right. But its ratio is π/π_ref. "
            "Under samples from π, the ratio whose mean is 1 is the other one.",
        ),
        Mistake(
            "k3 with its linear term flipped",
            _with(k3=lambda d: (-d).exp() - 1 - d),
            "Your k3 is negative for a small positive d. The curve e^(−d) − 1 starts downhill with slope −1: which "
            "line makes it lie flat at 0?",
        ),
        Mistake(
            "k3 without its linear term",
            _with(k3=lambda d: (-d).exp() - 1),
            "Yours averages to 0, whatever the KL is: the mean of π_ref/π under π is 1. It is what is added to k1 to "
            "calm it, not the estimate.",
        ),
        Mistake(
            "k2 without the half",
            _with(k2=lambda d: d**2),
            "Your k2 is twice too large. For two distributions that are close, the KL is *half* the mean square of d.",
        ),
        Mistake(
            "k1 made positive",
            _with(k1=torch.abs),
            "A single k1 may be negative, and has to be: its mean is the KL because the negative ones pay back. The "
            "mean of |d| is something else, and much larger.",
        ),
        Mistake(
            "k1 cut off at 0",
            _with(k1=lambda d: d.clamp(min=0)),
            "You set negative k1 to 0. They have to stay: only with them does the average come out as the KL. The "
            "estimators that are never negative are the other two.",
        ),
        Mistake(
            "weighted by the probability",
            lambda logps, ref_logps, estimator: logps.exp() * kl.kl_estimate(logps, ref_logps, estimator),
            "You weigh each sample by its probability. The sum over all words needs that weight; samples have it "
            "already, since likely tokens come up more often.",
        ),
        Mistake(
            "sum",
            lambda logps, ref_logps, estimator: kl.kl_estimate(logps, ref_logps, estimator).sum(),
            "You add everything up. One number for each token is wanted; what is done with them comes later.",
        ),
        Mistake(
            "mean",
            lambda logps, ref_logps, estimator: kl.kl_estimate(logps, ref_logps, estimator).mean(),
            "You average already. One number for each token is wanted: the mask, which you do not see here, says "
            "over which of them to average.",
        ),
    ],
    hints=[
        "All three are functions of one number, d = log π − log π_ref of the sampled token.",
        "k1 is d and k2 is half its square. k3 adds to d something whose mean under π is 0: π_ref/π − 1.",
        "π_ref/π is exp(−d), so k3 = exp(−d) − 1 + d. torch.expm1(x) is exp(x) − 1, exact also near 0.",
    ],
    reason="E[log π − log π_ref] under π is the KL by definition, which makes k1 right on average. π_ref/π has mean "
    "1 under π, so adding π_ref/π − 1 leaves the mean alone; what it takes away is most of the noise, since it falls "
    "where d rises. By log x ≤ x − 1 the sum is never negative. expm1 keeps the digits that exp(x) − 1 loses near 0.",
)


def _tilt_cases(stream):
    ref = torch.rand(8, generator=stream)
    ref = ref / ref.sum()
    rewards = torch.randn(8, generator=stream)
    return [
        Case("the two answers on entanglement", (torch.tensor([0.8, 0.2]), torch.tensor([2.1, 3.7]), 1.0)),
        Case("eight answers", (ref, rewards, 0.5)),
        Case("a large β", (ref, rewards, 20.0)),
        Case("a small β", (ref, rewards, 0.002)),
        Case("an answer that the reference never gives", (torch.tensor([0.5, 0.5, 0.0]), torch.arange(3.0), 1.0)),
        Case("equal rewards", (ref, torch.full((8,), 3.0), 0.1)),
        Case("large rewards", (ref, 200 + 10 * rewards, 1.0)),
    ]


def _overflowing(ref_probs, rewards, beta):
    weights = ref_probs * (rewards / beta).exp()
    return weights / weights.sum()


_TILT = Exercise(
    id="kl.tilted_policy",
    reference=tilted_policy,
    cases=_tilt_cases,
    mistakes=[
        Mistake(
            "times β",
            lambda ref_probs, rewards, beta: torch.softmax(ref_probs.log() + rewards * beta, dim=-1),
            "You multiply the rewards by β. A high price of drifting should leave the reference nearly as it is, and "
            "yours does the opposite: where does β belong?",
        ),
        Mistake(
            "no reference",
            lambda ref_probs, rewards, beta: torch.softmax(rewards / beta, dim=-1),
            "Your answer does not depend on the reference. That would be right if it gave every answer the same "
            "probability; here an answer it never gives can win.",
        ),
        Mistake(
            "not normalised",
            lambda ref_probs, rewards, beta: ref_probs * (rewards / beta).exp(),
            "The weights are right and do not add up to 1. What is left is the Z of the derivation.",
        ),
        Mistake(
            "rewards normalised alone",
            lambda ref_probs, rewards, beta: ref_probs * torch.softmax(rewards / beta, dim=-1),
            "You normalise the rewards first and multiply by the reference afterwards: the product does not add up to "
            "1. Z is the sum of π_ref·exp(r/β), so the reference has to be inside when you divide.",
        ),
        Mistake(
            "overflow",
            _overflowing,
            "Right on paper, but exp(r/β) is infinite for a small β or a large reward, and ∞/∞ is not a number. "
            "Take logarithms first: which function exponentiates and normalises in one, safely?",
        ),
        Mistake(
            "probabilities in place of logarithms",
            lambda ref_probs, rewards, beta: torch.softmax(ref_probs + rewards / beta, dim=-1),
            "You add probabilities inside the softmax. What stands there is an exponent: for the reference to come out "
            "as a factor, its logarithm has to go in.",
        ),
        Mistake(
            "reference divided by β",
            lambda ref_probs, rewards, beta: torch.softmax((ref_probs.log() + rewards) / beta, dim=-1),
            "You divide the reference's logarithm by β, too. Then a small β sharpens the reference itself. β is the "
            "price is what turns a reward into nats: only r is divided by it.",
        ),
        Mistake(
            "β ignored",
            lambda ref_probs, rewards, beta: torch.softmax(ref_probs.log() + rewards, dim=-1),
            "Yours is right at β = 1 and the same at every other price. Where does β stand in π*?",
        ),
        Mistake(
            "logarithms",
            lambda ref_probs, rewards, beta: torch.log_softmax(ref_probs.log() + rewards / beta, dim=-1),
            "Right, but these are the logarithms of the probabilities. Probabilities are asked for.",
        ),
        Mistake(
            "sign of the reward",
            lambda ref_probs, rewards, beta: torch.softmax(ref_probs.log() - rewards / beta, dim=-1),
            "Your mass moves to the answers with the lowest rewards. Which sign lifts a good answer?",
        ),
        Mistake(
            "rewards as probabilities",
            lambda ref_probs, rewards, beta: ref_probs * rewards / beta / (ref_probs * rewards / beta).sum(),
            "You weigh the reference by r/β itself. β cancels then, and a negative reward makes a negative "
            "probability. The derivation gives an exponential.",
        ),
        Mistake(
            "best answer only",
            lambda ref_probs, rewards, beta: (rewards == rewards[ref_probs > 0].max()).float(),
            "You put everything on the best answer. That is the limit of a β of 0; at any real price some mass stays "
            "on the others.",
        ),
    ],
    hints=[
        "Each answer's new weight is its old probability times exp(reward/β). Then all are made to add up to 1.",
        "exp(r/β) overflows. Write the weight as exp(log π_ref + r/β): a softmax of the exponents never does.",
        "return torch.softmax(ref_probs.log() + rewards / beta, dim=-1)",
    ],
    reason="π* ∝ π_ref·exp(r/β), and a softmax divides exponentials by their sum, after taking the largest exponent "
    "off all of them, so nothing overflows. log 0 is −∞ and its exponential 0 again: an answer that the reference "
    "never gives stays at 0 at any reward. Adding a constant to all rewards changes nothing, as with Bradley–Terry.",
)


def _best_of_n_cases(stream):
    return [Case(f"n = {n}", (n,)) for n in (4, 1, 2, 16, 128, 10_000)]


_BEST_OF_N = Exercise(
    id="kl.best_of_n_kl",
    reference=best_of_n_kl,
    cases=_best_of_n_cases,
    mistakes=[
        Mistake(
            "logarithm alone",
            lambda n: math.log(n),
            "ln n is the most that choosing among n can say. The best of n says it only if it is always the top n-th "
            "part of all answers that wins; the average over where the winner stands takes something off.",
        ),
        Mistake(
            "bits",
            lambda n: math.log2(n) - (n - 1) / n,
            "Your logarithm is to base 2. The course counts in nats, as PyTorch's log does.",
        ),
        Mistake(
            "added",
            lambda n: math.log(n) + (n - 1) / n,
            "For n = 1 there is no choice, and yours is 0 as it should be; but beyond that it is above ln n, the most "
            "there can be. Look at the sign of the second term.",
        ),
        Mistake(
            "n − 1 without its n",
            lambda n: math.log(n) - (n - 1),
            "At n = 2 yours is negative, and a divergence never is. The second term is a share, from 0 to 1: what is "
            "n − 1 divided by? (Mind the brackets, too.)",
        ),
        Mistake(
            "sign of the whole",
            lambda n: (n - 1) / n - math.log(n),
            "Yours is negative for every n above 1, and a divergence never is. Which of the two terms is the larger?",
        ),
        Mistake(
            "fraction upside down",
            lambda n: math.log(n) - n / (n - 1) if n > 1 else 0.0,
            "At n = 2 yours is negative, and a divergence never is. Which way up does the fraction go?",
        ),
        Mistake(
            "one over n",
            lambda n: math.log(n) - 1 / n,
            "At n = 1, where nothing is chosen, yours is −1. What is taken off is 0 there and nears 1 for large n.",
        ),
        Mistake(
            "square root",
            lambda n: math.sqrt(max(math.log(n) - (n - 1) / n, 0.0)),
            "You return the distance √KL, which lesson 10 will plot. Here the KL itself is wanted.",
        ),
        Mistake(
            "price of the sampling",
            lambda n: float(n - 1),
            "That is how many answers are thrown away. It costs computing time, but the policy is moved far less: the "
            "KL grows with the logarithm of n.",
        ),
    ],
    hints=[
        "Rank answers by u, the share of answers they beat. A single sample's u is uniform on 0 to 1; the best of n "
        "has density n·u^(n−1) there.",
        "The KL is the mean of log(n·u^(n−1)) under that density: log n + (n−1)·E[log u], and E[log u] = −1/n.",
        "return math.log(n) - (n - 1) / n",
    ],
    reason="If no two answers score alike, the winner's rank u has density n·u^(n−1) against the reference's 1. The KL "
    "is E[log n + (n−1)·log u] = log n − (n−1)/n. Where answers repeat or tie, best-of-n moves the policy by less: the "
    "formula is an upper bound (Beirami et al. 2024).",
)


def _controller_cases(stream):
    return [
        Case("far above the target", (0.1, 9.0, 6.0, 64, 640)),
        Case("on the target", (0.1, 6.0, 6.0, 64, 640)),
        Case("a little above", (0.1, 6.6, 6.0, 64, 640)),
        Case("far below", (0.05, 0.5, 4.0, 128, 1_000)),
        Case("a little below", (0.2, 5.7, 6.0, 64, 10_000)),
        Case("a sampled KL below 0", (0.2, -0.3, 6.0, 64, 640)),
        Case("the whole horizon in one batch", (0.2, 60.0, 6.0, 512, 512)),
    ]


def _clip(x):
    return min(max(x, -0.2), 0.2)


_CONTROLLER = Exercise(
    id="kl.adaptive_beta",
    reference=kl.adaptive_beta,
    answer=adaptive_beta,
    cases=_controller_cases,
    mistakes=[
        Mistake(
            "no clip",
            lambda beta, kl, target, n, horizon: beta * (1 + (kl / target - 1) * n / horizon),
            "You trust the batch without limit: a single one with ten times the KL would move β by as much as "
            "forty-five ordinary ones. Ziegler et al. never let the error count for more than 0.2.",
        ),
        Mistake(
            "wrong way",
            lambda beta, kl, target, n, horizon: beta * (1 - _clip(kl / target - 1) * n / horizon),
            "Your β falls when the policy is too far away: it drifts on and β falls further. Which way should the "
            "price go?",
        ),
        Mistake(
            "ratio upside down",
            lambda beta, kl, target, n, horizon: beta * (1 + _clip(target / kl - 1) * n / horizon),
            "You take target/KL. Then a policy that is too far away gets a *lower* price.",
        ),
        Mistake(
            "no horizon",
            lambda beta, kl, target, n, horizon: beta * (1 + _clip(kl / target - 1)),
            "Your β moves by up to 20 % after every batch, however small the batch is. A batch of n answers is a "
            "share n/horizon of the evidence.",
        ),
        Mistake(
            "batch size left out",
            lambda beta, kl, target, n, horizon: beta * (1 + _clip(kl / target - 1) / horizon),
            "You count the batch as a single answer. The horizon is in answers: a batch of n is n of them.",
        ),
        Mistake(
            "no 1 in the factor",
            lambda beta, kl, target, n, horizon: beta * _clip(kl / target - 1) * n / horizon,
            "On the target your new β is 0, and below it negative. There β should stay as it is: the error is the "
            "*change*, as a share of β.",
        ),
        Mistake(
            "min and max exchanged",
            lambda beta, kl, target, n, horizon: beta * (1 + min(-0.2, max(0.2, kl / target - 1)) * n / horizon),
            "Your error is −0.2 whatever the KL is: min(−0.2, …) cannot be more. Which of min and max goes with the "
            "upper limit?",
        ),
        Mistake(
            "horizon over batch",
            lambda beta, kl, target, n, horizon: beta * (1 + _clip(kl / target - 1) * horizon / n),
            "You multiply by horizon/n: the longer the horizon, the wilder your β. It should be slower.",
        ),
        Mistake(
            "difference in nats",
            lambda beta, kl, target, n, horizon: beta * (1 + _clip(kl - target) * n / horizon),
            "You clip KL − target, in nats: at a target of 0.1 that hardly ever reaches the clip, at 60 always. The "
            "error is relative to the target.",
        ),
        Mistake(
            "added to β",
            lambda beta, kl, target, n, horizon: beta + _clip(kl / target - 1) * n / horizon,
            "You add the error to β. Then β can fall below 0, which would pay the policy for leaving. Multiply: the "
            "price changes by a share of itself.",
        ),
        Mistake(
            "clip around the ratio",
            lambda beta, kl, target, n, horizon: beta * (1 + (_clip(kl / target) - 1) * n / horizon),
            "You clip KL/target to ±0.2 and take 1 off afterwards: your error is always negative. What should be "
            "clipped is the error, which is 0 on the target.",
        ),
    ],
    hints=[
        "Three steps: the relative error, its clip to ±0.2, and a factor on β that is 1 when the error is 0.",
        "The error is KL/target − 1. One batch may move β by the clipped error times its share n/horizon.",
        "error = min(max(kl / target - 1, -0.2), 0.2), and then β times 1 + error · batch_size / horizon.",
    ],
    reason="A controller in the log of β, as in Ziegler et al. 2019: β grows by a share of itself while the KL is "
    "above the target, and shrinks while it is below. The clip makes one wild batch count no more than any other "
    "batch that is off by 20 %, and n/horizon makes the pace independent of the batch size.",
)

EXERCISES = [_ESTIMATE, _TILT, _BEST_OF_N, _CONTROLLER]
