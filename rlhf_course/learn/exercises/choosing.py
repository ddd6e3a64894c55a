"""Exercises of lesson 11: who wins, and which policies nobody beats."""

import torch

from rlhf_course.evaluation import pareto_frontier as frontier
from rlhf_course.evaluation import win_rate as rate
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def win_rate(scores_a, scores_b):
    wins = (scores_a > scores_b).float()
    ties = (scores_a == scores_b).float()
    return (wins + 0.5 * ties).mean().item()


def pareto_frontier(kl, gold):
    kept = []
    for i in range(len(kl)):
        no_worse = (kl <= kl[i]) & (gold >= gold[i])
        better = (kl < kl[i]) | (gold > gold[i])
        kept.append(not (no_worse & better).any())
    return torch.tensor(kept)


# ---------------------------------------------------------------------- who wins


def _rate_cases(stream):
    a, b = torch.randn(64, generator=stream), torch.randn(64, generator=stream)
    grades_a, grades_b = (torch.randint(1, 6, (50,), generator=stream) for _ in range(2))
    return [
        Case("two wins, a tie, a loss", (torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]))),
        Case("one crushing win, two narrow losses", (torch.tensor([9.0, 1.0, 1.0]), torch.tensor([0.0, 1.1, 1.1]))),
        Case("grades from 1 to 5, many of them equal", (grades_a, grades_b)),
        Case("a policy against itself", (a, a.clone())),
        Case("scores below 0", (a - 5, b - 5)),
        Case("a hundred times as large", (100 * a, 100 * b)),
        Case("one prompt", (torch.tensor([2.1]), torch.tensor([3.7]))),
        Case("in half precision", (a.bfloat16(), b.bfloat16())),
    ]


_RATE = Exercise(
    id="choosing.win_rate",
    reference=rate,
    answer=win_rate,
    cases=_rate_cases,
    mistakes=[
        Mistake(
            "a tie is a loss",
            lambda a, b: (a > b).double().mean().item(),
            "You count wins and nothing else, so a tie costs A a whole game. Against itself your policy would win 0 %.",
        ),
        Mistake(
            "a tie is a win",
            lambda a, b: (a >= b).double().mean().item(),
            "You give every tie to A. Ask it the other way round: B would get the same ties again, and the two rates "
            "would add up to more than 1.",
        ),
        Mistake(
            "a count",
            lambda a, b: ((a > b).sum() + 0.5 * (a == b).sum()).item(),
            "You return how many games A has won. A rate is their share: divide by the number of games.",
        ),
        Mistake(
            "ties are thrown out",
            lambda a, b: ((a > b).sum() / (a != b).sum()).item(),
            "You leave the ties out and divide by the rest. That makes two policies that are nearly the same look far "
            "apart: one win and 99 ties would be a rate of 1.",
        ),
        Mistake(
            "B's rate",
            lambda a, b: rate(b, a),
            "That is how often B wins. The rate belongs to the policy named first.",
        ),
        Mistake(
            "everyone against everyone",
            lambda a, b: (a[:, None] > b).double().mean().item() + 0.5 * (a[:, None] == b).double().mean().item(),
            "You compare every answer of A with every answer of B. Answers to different prompts are no match: an easy "
            "prompt's answer beats a hard one's, whoever wrote it. Compare within a prompt.",
        ),
        Mistake(
            "the mean of Bradley–Terry",
            lambda a, b: torch.sigmoid((a - b).double()).mean().item(),
            "You turn each gap into a probability. That is what a noisy labeler would be expected to say, and it "
            "changes with the scores' unit. Here the higher score wins the game, by however much.",
        ),
        Mistake(
            "the larger mean",
            lambda a, b: float(a.double().mean() > b.double().mean()),
            "You compare the two means. One crushing win can make a mean, and is still one game.",
        ),
        Mistake(
            "wins minus losses",
            lambda a, b: (a.double() - b.double()).sign().mean().item(),
            "You have wins minus losses, from −1 to 1, with 0 for a draw. It is a fine number, and only a step away: a "
            "rate goes from 0 to 1, with one half for a draw.",
        ),
    ],
    hints=[
        "Play one game for each prompt: the higher score wins it. What should two equal scores count, so that the "
        "rates of A and of B add up to 1?",
        "The mean of 1 for a win, ½ for a tie, 0 for a loss.",
        "((scores_a > scores_b).float() + 0.5 * (scores_a == scores_b).float()).mean()",
    ],
    reason="Only the order within a prompt counts, so a rate does not change with the scores' unit and cannot be won "
    "by one enormous score. Ties at one half make the two rates add up to 1. It also hides by how much one wins: "
    "report the mean beside it.",
)

# ---------------------------------------------------------------------- who is not beaten


def _frontier_cases(stream):
    def points(*pairs):
        return tuple(torch.tensor(values, dtype=torch.float32) for values in zip(*pairs))

    kl = torch.rand(12, generator=stream) * 6
    on_a_curve = kl.sqrt()
    noisy = on_a_curve + 0.6 * torch.randn(12, generator=stream)
    return [
        Case("four policies, one of them beaten", points((2.0, 1.5), (0.0, 0.0), (3.0, 1.2), (4.0, 2.0))),
        Case("the same gold for less KL", points((3.0, 1.5), (1.0, 1.5), (0.0, 0.0))),
        Case("the same KL with more gold", points((2.0, 1.0), (2.0, 1.4), (0.5, 0.2))),
        Case("the same policy twice", points((1.0, 1.0), (2.0, 2.0), (1.0, 1.0), (3.0, 0.5), (3.0, 0.5))),
        Case("a point in a dent", points((0.0, 0.0), (2.0, 0.5), (4.0, 2.0))),
        Case("twelve noisy runs", (kl, noisy)),
        Case("twelve runs on one curve", (kl, on_a_curve)),
        Case("gold falls with every nat", (kl, -kl)),
        Case("one policy", points((1.0, -0.3))),
    ]


def _strictly(kl, gold):
    return ~((kl < kl[:, None]) & (gold > gold[:, None])).any(dim=1)


def _no_one_left(kl, gold):
    return ~((kl <= kl[:, None]) & (gold >= gold[:, None])).any(dim=1)


def _twins_kill_each_other(kl, gold):
    no_worse = (kl <= kl[:, None]) & (gold >= gold[:, None])
    return ~no_worse.fill_diagonal_(False).any(dim=1)


def _swept(kl, gold):
    """In the order of KL: kept where gold is a new best."""
    kept, best = [], -float("inf")
    for i in sorted(range(len(kl)), key=lambda i: (kl[i].item(), -gold[i].item())):
        kept.append(gold[i].item() > best)
        best = max(best, gold[i].item())
    return torch.tensor(kept)


def _swept_as_they_come(kl, gold):
    """In the order of KL, and of two with the same KL whichever comes first: kept where gold is a new best."""
    kept, best = torch.zeros(len(kl), dtype=torch.bool), -float("inf")
    for i in kl.argsort(stable=True).tolist():
        kept[i] = gold[i].item() > best
        best = max(best, gold[i].item())
    return kept


def _best_for_a_price(kl, gold):
    prices = torch.logspace(-4, 3, 400, dtype=torch.float64)[:, None]
    worth = gold.double() - prices * kl.double()
    best = worth >= worth.amax(dim=1, keepdim=True) - 1e-9
    return best.any(dim=0) & frontier(kl, gold)


_FRONTIER = Exercise(
    id="choosing.pareto_frontier",
    reference=frontier,
    answer=pareto_frontier,
    cases=_frontier_cases,
    mistakes=[
        Mistake(
            "only where both are better",
            _strictly,
            "You ask the rival to be better in both. One that has the same gold for less KL beats a policy as well: "
            "nobody would choose the dearer of the two.",
        ),
        Mistake(
            "beaten by itself",
            _no_one_left,
            "Nobody is left on your frontier: every point is no worse than itself, and so it knocks itself out. What "
            "else must a rival be to beat somebody?",
        ),
        Mistake(
            "twins",
            _twins_kill_each_other,
            "Two policies with the same KL and the same gold throw each other out, and then nobody stands for them. A "
            "rival has to be better in at least one of the two.",
        ),
        Mistake(
            "who is beaten",
            lambda kl, gold: ~frontier(kl, gold),
            "True stands where a policy is beaten. The frontier is made of the others.",
        ),
        Mistake(
            "more KL is better",
            lambda kl, gold: frontier(-kl, gold),
            "You look for the largest KL. KL is what is paid here: of two policies with the same gold, which would "
            "you ship?",
        ),
        Mistake(
            "the best gold",
            lambda kl, gold: gold == gold.max(),
            "You keep the highest gold alone. A policy with a little less of it for half the KL is not beaten: what "
            "to take of such a pair is a choice, and the frontier is what there is to choose from.",
        ),
        Mistake(
            "the best ratio",
            lambda kl, gold: gold / kl.clamp(min=1e-6) == (gold / kl.clamp(min=1e-6)).max(),
            "You keep the best ratio of gold to KL. Who has hardly moved nearly always wins that. A frontier is about "
            "being beaten, one by one.",
        ),
        Mistake(
            "best for some price",
            _best_for_a_price,
            "You keep what is best for some price β of a nat. A policy that lies in a dent of the frontier is best for "
            "no price, and still nobody beats it.",
        ),
        Mistake(
            "ties in the order of KL",
            _swept_as_they_come,
            "You walk in the order of KL and keep each new best. Where two have the same KL, the one with less gold "
            "may come first and stays; and of two that are the same in both you keep one.",
        ),
        Mistake(
            "in the order of KL",
            _swept,
            "You sorted by KL, and the answer comes out in that order. Which policy does your third True belong to? "
            "Return it in the order the policies came in. (And see what becomes of a policy that is there twice.)",
        ),
    ],
    hints=[
        "Take one policy and look for a rival that beats it. It stays if there is none.",
        "A rival beats it with KL ≤ and gold ≥, and with < or > in at least one of the two. That last condition is "
        "what saves a policy from itself and from its twin.",
        "For policy i: no_worse = (kl <= kl[i]) & (gold >= gold[i]), better = (kl < kl[i]) | (gold > gold[i]); it is "
        "kept where not (no_worse & better).any().",
    ],
    reason="Whether a policy is worth looking at needs no price: it is out if another is at least as good in both and "
    "better in one. Which of those that are left to take does need a price, and that is yours. With noisy "
    "measurements the frontier is noisy too: a point just below it may be on it with the next seed.",
)

EXERCISES = [_RATE, _FRONTIER]
