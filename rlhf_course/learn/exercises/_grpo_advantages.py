"""The first two exercises of lesson 08: the group as the baseline, and leave-one-out."""

import torch

from rlhf_course import advantages
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def group_advantages(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def rloo_advantages(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).flatten()


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


def _spread_of_batch(rewards, num_generations):
    return (_groups(rewards, num_generations)[1] / (rewards.std() + 1e-4)).flatten()


def _variance(rewards, num_generations):
    groups, centred = _groups(rewards, num_generations)
    return (centred / (groups.var(dim=1, keepdim=True) + 1e-4)).flatten()


def _no_keepdim(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return ((groups - groups.mean(dim=1)) / (groups.std(dim=1) + 1e-4)).flatten()


def _between_rows(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    centred = groups - groups.mean(dim=0)
    spread = (centred.square().sum(dim=0) / (len(groups) - 1)).sqrt()  # std(dim=0), which warns about a single row
    return (centred / (spread + 1e-4)).flatten()


def _mean_divided(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return (groups - groups.mean(dim=1, keepdim=True) / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def _under_the_root(rewards, num_generations):
    groups, centred = _groups(rewards, num_generations)
    return (centred / (groups.var(dim=1, keepdim=True) + 1e-4).sqrt()).flatten()


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
            "Your standard deviation divides by G, GRPO's by G − 1 (torch's default). For two answers that is ±1 "
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
            "the spread of the batch",
            _spread_of_batch,
            "You divide every group by the spread of the whole batch. GRPO divides each group by its own.",
        ),
        Mistake(
            "variance",
            _variance,
            "You divide by the variance, the spread's square. Make all rewards ten times as large, and GRPO's "
            "advantages stay; yours become ten times smaller.",
        ),
        Mistake(
            "a row's mean along the columns",
            _no_keepdim,
            "dim=1 leaves one mean for each row, (prompts,). Lined up from the right, it meets answers and not "
            "prompts. What keeps the axis, so that it is (prompts, 1)?",
        ),
        Mistake(
            "means of the columns",
            _between_rows,
            "The table is right, but you average down its columns, over answers to different prompts. A group is a "
            "row.",
        ),
        Mistake(
            "only the mean divided",
            _mean_divided,
            "A division binds more tightly than a minus, so only the mean is divided. Put brackets round the "
            "difference.",
        ),
        Mistake(
            "the small number under the root",
            _under_the_root,
            "Your small number is added to the variance, under the root, where it counts as 0.01. GRPO adds it to the "
            "standard deviation.",
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


def _itself_in_the_sum(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return (groups - groups.sum(dim=1, keepdim=True) / (num_generations - 1)).flatten()


def _left_out_of_columns(rewards, num_generations):
    groups = rewards.reshape(num_generations, -1)
    return (groups - (groups.sum(dim=0) - groups) / (num_generations - 1)).flatten()


def _baseline(rewards, num_generations):
    return rewards - rloo_advantages(rewards, num_generations)


def _shrunk(rewards, num_generations):
    return _mean_only(rewards, num_generations) * (num_generations - 1) / num_generations


def _only_itself_divided(rewards, num_generations):
    groups = rewards.reshape(-1, num_generations)
    return (groups - (groups.sum(dim=1, keepdim=True) - groups / (num_generations - 1))).flatten()


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
            "itself in the sum",
            _itself_in_the_sum,
            "You divide by the number of the others, but the answer's own reward is still in the sum.",
        ),
        Mistake(
            "columns as groups",
            _left_out_of_columns,
            "Your groups mix answers to different prompts. The G answers to one prompt stand side by side.",
        ),
        Mistake(
            "the baseline alone",
            _baseline,
            "That is the mean of the others. The advantage is how far the answer's own reward is above it.",
        ),
        Mistake(
            "the factor upside down",
            _shrunk,
            "The distance from the mean of all is (G − 1)/G of what is wanted. You make it smaller once more.",
        ),
        Mistake(
            "only itself divided",
            _only_itself_divided,
            "A division binds more tightly than a minus: you divide the answer's own reward alone. Put brackets round "
            "the others' sum.",
        ),
        Mistake(
            "the others, divided by the spread",
            _others_mean,
            "The baseline is right. Then you divide by the group's spread, as GRPO does. RLOO leaves the reward's own "
            "scale.",
        ),
        Mistake(
            "not flattened",
            lambda rewards, num_generations: rloo_advantages(rewards, num_generations).reshape(-1, num_generations),
            "The numbers are right, in a table of groups. The trainer wants one row, in the order the rewards came in.",
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

EXERCISES = [_GROUP, _RLOO]
