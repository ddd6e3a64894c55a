"""Exercises of lesson 08: the group as the baseline, leave-one-out, the clipped loss, and what a long answer weighs."""

import torch

from rlhf_course import advantages, losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.losses.grpo import aggregate_token_loss as package_aggregate_token_loss


def group_advantages(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def rloo_advantages(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).flatten()


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


# ---------------------------------------------------------------------- group_advantages


def _group_cases(stream):
    rewards = torch.randn(12, generator=stream)
    return [
        Case("the two answers on entanglement", (torch.tensor([2.1, 3.7]), 2)),
        Case("a rule that two of four answers pass", (torch.tensor([1.0, 0.0, 0.0, 1.0]), 4)),
        Case("three groups of four", (rewards, 4)),
        Case("four groups of three", (rewards, 3)),
        Case("an easy and a hard prompt", (torch.tensor([9.0, 9.5, 10.0, -3.0, -2.0, -1.0]), 3)),
        Case("a group of equal rewards", (torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0, 2.0, 3.0, 4.0]), 4)),
        Case("nearly equal rewards", (torch.tensor([0.0, 1e-4, 0.0, 1e-4]), 2)),
    ]


def _groups(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return groups, groups - groups.mean(dim=1, keepdim=True)


def _whole_batch(rewards, num_generations):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


def _population_std(rewards, num_generations):
    groups, centred = _groups(rewards, num_generations)
    return (centred / (groups.std(dim=1, keepdim=True, correction=0) + 1e-4)).flatten()


def _no_epsilon(rewards, num_generations):
    groups, centred = _groups(rewards, num_generations)
    return (centred / groups.std(dim=1, keepdim=True)).flatten()


def _mean_only(rewards, num_generations):
    return _groups(rewards, num_generations)[1].flatten()


def _interleaved(rewards, num_generations):
    groups = rewards.reshape(num_generations, -1)
    centred = groups - groups.mean(dim=0, keepdim=True)
    return (centred / (groups.std(dim=0, keepdim=True) + 1e-4)).flatten()


def _unflattened(rewards, num_generations):
    return group_advantages(rewards, num_generations).reshape(-1, num_generations)


def _others_mean(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return (rloo_advantages(rewards, num_generations).view_as(groups) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


_GROUP = Exercise(
    id="grpo.group_advantages",
    reference=advantages.group_advantages,
    answer=group_advantages,
    cases=_group_cases,
    mistakes=[
        Mistake(
            "the whole batch as one group",
            _whole_batch,
            "You compare every answer with the whole batch. An answer to a hard prompt then looks bad because the "
            "prompt is hard. Whom should it be compared with?",
        ),
        Mistake(
            "columns as groups",
            _interleaved,
            "Your groups mix answers to different prompts. The G answers to one prompt stand side by side: which axis "
            "of the reshaped table is the group?",
        ),
        Mistake(
            "population standard deviation",
            _population_std,
            "Your standard deviation divides by n, GRPO's by n − 1 (torch's default). For two answers that is ±1 "
            "instead of ±0.707.",
        ),
        Mistake(
            "no small number",
            _no_epsilon,
            "When all answers of a group are equally good the spread is 0, and 0/0 is not a number: one such group "
            "ruins the step. What does the formula add to the standard deviation?",
        ),
        Mistake(
            "mean only",
            _mean_only,
            "You take the group's mean away and leave the scale. That is Dr. GRPO's advantage, later in this lesson; "
            "GRPO's own also divides by the group's spread.",
        ),
        Mistake(
            "not flattened",
            _unflattened,
            "The numbers are right, in a table of groups. The trainer wants one row, in the order the rewards came in.",
        ),
        Mistake(
            "leave one out",
            _others_mean,
            "You compare each answer with the mean of the *others*. That is RLOO, the next exercise. GRPO's mean is of "
            "all G, the answer itself included.",
        ),
        Mistake(
            "reversed",
            lambda rewards, num_generations: -group_advantages(rewards, num_generations),
            "Your best answer gets the lowest advantage. A reward above the mean should give a positive number.",
        ),
    ],
    hints=[
        "Put the rewards into a table with one row a prompt. Everything then happens within a row.",
        "rewards.reshape(-1, num_generations); then mean and std over dim=1, with keepdim=True.",
        "Add 1e-4 to the standard deviation before you divide, and flatten at the end.",
    ],
    reason="An answer is judged against the other answers to the same prompt: the row's mean stands where PPO has a "
    "critic's value. Dividing by the spread puts every prompt on one scale, and 1e-4 keeps a group of equal rewards "
    "at 0 instead of 0/0.",
)

# ---------------------------------------------------------------------- rloo_advantages


def _rloo_cases(stream):
    rewards = torch.randn(12, generator=stream)
    return [
        Case("the two answers on entanglement", (torch.tensor([2.1, 3.7]), 2)),
        Case("a rule that two of four answers pass", (torch.tensor([1.0, 0.0, 0.0, 1.0]), 4)),
        Case("three groups of four", (rewards, 4)),
        Case("two groups of six", (rewards, 6)),
        Case("an easy and a hard prompt", (torch.tensor([9.0, 9.5, 10.0, -3.0, -2.0, -1.0]), 3)),
        Case("a group of equal rewards", (torch.tensor([0.5, 0.5, 0.5, 0.5]), 4)),
    ]


def _sum_without(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return groups, groups.sum(dim=1, keepdim=True) - groups


def _others_over_g(rewards, num_generations):
    groups, others = _sum_without(rewards, num_generations)
    return (groups - others / num_generations).flatten()


def _sum_of_others(rewards, num_generations):
    groups, others = _sum_without(rewards, num_generations)
    return (groups - others).flatten()


def _others_in_batch(rewards, num_generations):
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


_RLOO = Exercise(
    id="grpo.rloo_advantages",
    reference=advantages.rloo_advantages,
    answer=rloo_advantages,
    cases=_rloo_cases,
    mistakes=[
        Mistake(
            "its own reward in the baseline",
            _mean_only,
            "Your baseline is the mean of all G: each answer's own reward is in it. Leave it out.",
        ),
        Mistake(
            "divided by G",
            _others_over_g,
            "You add up the others and divide by G. How many others are there?",
        ),
        Mistake(
            "sum of the others",
            _sum_of_others,
            "You take away the *sum* of the others' rewards. Add 1 to all rewards and the result should not move.",
        ),
        Mistake(
            "divided by the spread",
            group_advantages,
            "You divide by the group's spread, as GRPO does. RLOO leaves the reward's own scale.",
        ),
        Mistake(
            "the whole batch as one group",
            _others_in_batch,
            "You leave one out of the whole batch. The others that count are the other answers to the same prompt.",
        ),
        Mistake(
            "reversed",
            lambda rewards, num_generations: -rloo_advantages(rewards, num_generations),
            "Your best answer gets the lowest advantage. Which of the two should be taken from which?",
        ),
    ],
    hints=[
        "For each answer, ask what the others got on average. There are G − 1 of them.",
        "The others' sum is the group's sum minus the answer's own reward.",
        "others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)",
    ],
    reason="The baseline must not depend on the action it is compared with, or the gradient is off; the mean of the "
    "other answers does not. With the mean of all G every advantage is smaller by the factor (G − 1)/G, and otherwise "
    "the same: RLOO is GRPO without the division by the spread, times G/(G − 1).",
)

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

EXERCISES = [_GROUP, _RLOO, _LOSS, _AGGREGATE]
