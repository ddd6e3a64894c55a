"""The last two exercises of lesson 08: the clipped loss, and what a long answer weighs."""

import torch

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.losses.grpo import aggregate_token_loss as package_aggregate_token_loss


def grpo_loss(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = (logps - old_logps).exp()
    advantages = advantages[:, None]
    token_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return (token_loss * mask).sum() / mask.sum()


def aggregate_token_loss(token_loss, mask, loss_type, max_completion_length):
    sums, lengths = (token_loss * mask).sum(dim=1), mask.sum(dim=1)
    if loss_type == "grpo":
        return (sums / lengths.clamp(min=1)).mean()
    if loss_type == "dr_grpo":
        return sums.mean() / max_completion_length
    return sums.sum() / lengths.sum()


# ---------------------------------------------------------------------- grpo_loss


def _mask(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def _loss_cases(stream):
    old = -torch.rand(4, 5, generator=stream) * 3
    new = old + 0.4 * torch.randn(4, 5, generator=stream)
    spread = torch.randn(4, generator=stream)
    mask = _mask([5, 1, 3, 4], 5)
    two_short = torch.tensor([[[-1.0, -2.0, -1.0], [-0.5, -1.0, -3.0]], [[-1.0, -2.0, -1.5], [-0.5, -0.5, -0.5]]])
    return [
        Case("two short answers", (*two_short, torch.tensor([0.7, -0.7]), _mask([3, 2], 3), 0.2)),
        Case("four answers of different lengths", (new, old, spread, mask, 0.2)),
        Case("a narrow clip", (new, old, spread, mask, 0.05)),
        Case("before the first update, where the ratio is 1", (old, old.clone(), spread, mask, 0.2)),
        Case("a group of equal rewards", (new, old, torch.zeros(4), mask, 0.2)),
        Case("as many answers as tokens", (new[:, :4], old[:, :4], spread, _mask([4, 2, 4, 1], 4), 0.2)),
        Case("one answer, a mask of booleans", (new[:1], old[:1], torch.tensor([1.5]), mask[2:3].bool(), 0.2)),
    ]


def _variant(ratio=None, objective=None, average=None):
    """A wrong loss that differs from the right one in one part."""

    def loss(logps, old_logps, advantages, mask, epsilon=0.2):
        rho = (ratio or (lambda new, old: (new - old).exp()))(logps, old_logps)
        right = lambda r, a, e: torch.minimum(r * a, r.clamp(1 - e, 1 + e) * a)  # noqa: E731
        token_loss = -(objective or right)(rho, advantages[:, None], epsilon)
        return (average or (lambda x, m: (x * m).sum() / m.sum()))(token_loss, mask)

    return loss


def _along_tokens(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = (logps - old_logps).exp()
    token_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return (token_loss * mask).sum() / mask.sum()


def _whole_answers(logps, old_logps, advantages, mask, epsilon=0.2):
    ratio = ((logps - old_logps) * mask).sum(dim=1).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


def _other_advantages(change):
    return lambda new, old, a, mask, epsilon=0.2: grpo_loss(new, old, change(a, mask), mask, epsilon)


def _standardised(a):
    centred = a - a.mean()
    return centred / ((centred.square().sum() / (len(a) - 1)).sqrt() + 1e-8)  # a.std(), which warns about a single one


def _log_likelihood(logps, old_logps, advantages, mask, epsilon=0.2):
    return -(logps * advantages[:, None] * mask).sum() / mask.sum()


_LOSS = Exercise(
    id="grpo.grpo_loss",
    reference=losses.grpo_loss,
    answer=grpo_loss,
    cases=_loss_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "advantages along the tokens",
            _along_tokens,
            "There is one advantage an answer, (B,), and the ratios are (B, T). Lined up from the right, advantages "
            "meet tokens and not answers, silently so where B happens to equal T.",
        ),
        Mistake(
            "missing minus",
            lambda *args: -grpo_loss(*args),
            "Your number falls as answers with a positive advantage get *less* likely. We minimise: what has to stand "
            "in front of the objective?",
        ),
        Mistake(
            "no clip",
            _variant(objective=lambda r, a, e: r * a),
            "Nothing stops the ratio: with several passes over the same answers it runs away. Where is epsilon?",
        ),
        Mistake(
            "clip without the minimum",
            _variant(objective=lambda r, a, e: r.clamp(1 - e, 1 + e) * a),
            "You always take the clipped ratio. Then a bad answer that has become likelier, past 1 + ε, is not pushed "
            "back: its gradient is 0. Take the worse of the two, clipped and not.",
        ),
        Mistake(
            "maximum",
            _variant(objective=lambda r, a, e: torch.maximum(r * a, r.clamp(1 - e, 1 + e) * a)),
            "You take the better of the two; the pessimist takes the worse. Before the minus sign it is a minimum.",
        ),
        Mistake(
            "ratio upside down",
            _variant(ratio=lambda new, old: (old - new).exp()),
            "Your ratio is old over new. It should grow when the policy makes the token likelier.",
        ),
        Mistake(
            "difference instead of ratio",
            _variant(ratio=lambda new, old: new - old),
            "A difference of log-probabilities is the logarithm of the ratio. The clip is about the ratio itself.",
        ),
        Mistake(
            "logarithms divided",
            _variant(ratio=lambda new, old: new / old),
            "You divide two logarithms. The ratio of two probabilities is exp of the *difference* of their logarithms.",
        ),
        Mistake(
            "no ratio",
            _log_likelihood,
            "You weigh log π by the advantage: the plain policy gradient. It is right once, on fresh answers. For the "
            "second pass over them the loss needs the ratio to the old policy, and its clip.",
        ),
        Mistake(
            "no gradient",
            lambda logps, *rest: grpo_loss(logps.detach(), *rest) + 0 * logps.sum(),
            "The value is right, but no gradient reaches the policy. Only the old log-probabilities are constants.",
        ),
        Mistake(
            "one ratio for a whole answer",
            _whole_answers,
            "You multiply the tokens' ratios into one for the whole answer, and clip that. The formula has a ratio, "
            "and a clip, for each token; what the tokens share is the advantage.",
        ),
        Mistake(
            "the advantage shared out",
            _other_advantages(lambda a, mask: a / mask.sum(dim=1)),
            "You share an answer's advantage out among its tokens. Every token gets all of it.",
        ),
        Mistake(
            "advantages standardised again",
            _other_advantages(lambda a, mask: _standardised(a)),
            "You standardise the advantages over the batch, as PPO does. They are compared within their groups "
            "already: take them as they come.",
        ),
        Mistake(
            "divided by the answers",
            _variant(average=lambda x, m: (x * m).sum() / len(m)),
            "You divide by the number of answers. The mean here is over all real tokens.",
        ),
        Mistake(
            "padding counted",
            _variant(average=lambda x, m: x.mean()),
            "You average over padding too. What stands there was never said.",
        ),
        Mistake(
            "divided by all positions",
            _variant(average=lambda x, m: (x * m).mean()),
            "The padding adds 0 to the sum, but it is still counted in the denominator: a batch with one long answer "
            "would take a shorter step. Divide by the number of real tokens.",
        ),
        Mistake(
            "mean of the answers' means",
            _variant(average=lambda x, m: ((x * m).sum(1) / m.sum(1)).mean()),
            "You average within each answer first, so a token of a long answer counts less. The 2024 paper does it so; "
            "here all tokens count alike, and the next exercise compares the two.",
        ),
        Mistake(
            "sum",
            _variant(average=lambda x, m: (x * m).sum()),
            "You add up tokens, so that a batch with twice as many takes a step twice as long.",
        ),
    ],
    hints=[
        "It is PPO's clipped loss of lesson 05 with one change: every token of an answer has the answer's advantage.",
        "advantages[:, None] is (B, 1) and goes with (B, T). The ratio is (logps - old_logps).exp().",
        "-torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages), then the mean over "
        "real tokens: (… * mask).sum() / mask.sum().",
    ],
    reason="The reward came once for the whole answer, so its tokens share one advantage; from there on it is PPO's "
    "clip. The mean is over all real tokens of the batch, whatever answer they stand in (DAPO's way, and TRL's "
    "default).",
)

# ---------------------------------------------------------------------- aggregate_token_loss


def _aggregate_cases(stream):
    losses = torch.randn(3, 6, generator=stream)
    mask = _mask([6, 1, 3], 6)
    return [
        Case("a long and a short answer", (torch.tensor([[1.0] * 4, [-3.0] * 4]), _mask([4, 1], 4), "grpo", 8)),
        *(Case(f"three answers, {name}", (losses, mask, name, 10)) for name in ("dapo", "grpo", "bnpo", "dr_grpo")),
        Case("another constant", (losses, mask, "dr_grpo", 48)),
        Case("an empty answer, grpo", (losses, _mask([6, 0, 3], 6), "grpo", 10)),
        Case("an empty answer, dr_grpo", (losses, _mask([6, 0, 3], 6), "dr_grpo", 10)),
        Case("a mask of booleans, dapo", (losses, mask.bool(), "dapo", 10)),
    ]


def _with(**ways):
    """Right but for the loss types given here, each a function of losses, mask and constant."""

    def aggregate(token_loss, mask, loss_type, max_completion_length):
        if loss_type in ways:
            return ways[loss_type](token_loss, mask.float(), max_completion_length)
        return aggregate_token_loss(token_loss, mask, loss_type, max_completion_length)

    return aggregate


def _token_mean(x, m, longest):
    return (x * m).sum() / m.sum()


def _no_mask(token_loss, mask, loss_type, max_completion_length):
    return aggregate_token_loss(token_loss, torch.ones_like(mask), loss_type, max_completion_length)


def _of_those_that_speak(x, m, longest):
    spoken = m.sum(1) > 0
    return ((x * m).sum(1)[spoken] / m.sum(1)[spoken]).mean()


_AGGREGATE = Exercise(
    id="grpo.aggregate_token_loss",
    reference=package_aggregate_token_loss,
    answer=aggregate_token_loss,
    cases=_aggregate_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "one way for all",
            _with(grpo=_token_mean, dr_grpo=_token_mean),
            "You average over all tokens, whatever the loss type. That is right for two of the four.",
        ),
        Mistake(
            "an answer's mean over its padding",
            _with(grpo=lambda x, m, longest: (x * m).mean(dim=1).mean()),
            "In 'grpo' you divide each answer by the width of the table. Its own length is the number of its real "
            "tokens.",
        ),
        Mistake(
            "nothing divided by nothing",
            _with(grpo=lambda x, m, longest: ((x * m).sum(1) / m.sum(1)).mean()),
            "An answer without a token has length 0, and 0/0 is not a number. It should add 0.",
        ),
        Mistake(
            "the batch's width as the constant",
            _with(dr_grpo=lambda x, m, longest: (x * m).sum() / m.numel()),
            "In 'dr_grpo' you divide by the longest answer of this batch. Then one long answer shrinks everybody's "
            "step; the constant is the same in every batch.",
        ),
        Mistake(
            "the constant alone",
            _with(dr_grpo=lambda x, m, longest: (x * m).sum() / longest),
            "In 'dr_grpo' more answers give you a longer step. Divide by their number, too.",
        ),
        Mistake(
            "the constant forgotten",
            _with(dr_grpo=lambda x, m, longest: (x * m).sum(1).mean()),
            "In 'dr_grpo' you take the mean of the answers' sums. The constant is missing: it keeps the loss, and the "
            "learning rate that suits it, comparable with the others.",
        ),
        Mistake(
            "no mask at all",
            _no_mask,
            "The mask changes nothing in yours. What stands on padding was never said: make it 0 before you add up.",
        ),
        Mistake(
            "padding in the sum",
            _with(dr_grpo=lambda x, m, longest: x.sum() / (len(x) * longest)),
            "In 'dr_grpo' you add up padding too. The denominator is a constant; the sum is over real tokens.",
        ),
        Mistake(
            "empty answers left out",
            _with(grpo=_of_those_that_speak),
            "You leave an empty answer out of the mean over answers. It adds 0, and still counts as one.",
        ),
        Mistake(
            "sum of the answers' means",
            _with(grpo=lambda x, m, longest: ((x * m).sum(1) / m.sum(1).clamp(min=1)).sum()),
            "In 'grpo' you add up the answers' means. The last step is a mean over answers, too.",
        ),
        Mistake(
            "divided by the answers",
            _with(**dict.fromkeys(("dapo", "bnpo"), lambda x, m, longest: (x * m).sum(1).mean())),
            "In 'dapo' and 'bnpo' you divide by the number of answers. Divide by the number of all real tokens.",
        ),
        Mistake(
            "bnpo left out",
            _with(bnpo=lambda x, m, longest: None),
            "For 'bnpo' you return nothing. With one micro-batch, the whole batch, what is it the same as?",
        ),
        Mistake(
            "padding counted",
            _with(**dict.fromkeys(("dapo", "bnpo"), lambda x, m, longest: (x * m).mean())),
            "In 'dapo' and 'bnpo' you divide by all positions. Only real tokens count.",
        ),
    ],
    hints=[
        "Each way is a sum over real tokens with another denominator. Write down the denominator of each first.",
        "grpo: each answer's own length, then the mean over answers. dapo, bnpo: all real tokens. dr_grpo: answers × "
        "max_completion_length.",
        "sums = (token_loss * mask).sum(dim=1); lengths = mask.sum(dim=1). An empty answer: lengths.clamp(min=1).",
    ],
    reason="Only the denominator differs, and it decides what a token of a long answer weighs: less in 'grpo', as much "
    "as any other in 'dapo', 'bnpo' and 'dr_grpo'. Within one batch 'dapo' is 'bnpo'; the two part ways when a batch "
    "is worked through in pieces.",
)

EXERCISES = [_LOSS, _AGGREGATE]
