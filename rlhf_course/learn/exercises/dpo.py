"""Exercises of lesson 06: a completion's log-probability, DPO's loss, and the reward that a policy implies."""

import torch
from torch.nn.functional import logsigmoid

from rlhf_course import logprobs, losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def sequence_logps(logps, mask):
    return logps.masked_fill(mask == 0, 0.0).sum(dim=1)


def dpo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    chosen = policy_chosen_logps - ref_chosen_logps
    rejected = policy_rejected_logps - ref_rejected_logps
    return -logsigmoid(beta * (chosen - rejected)).mean()


def implicit_rewards(policy_logps, ref_logps, beta):
    return beta * (policy_logps - ref_logps)


def _sequence_cases(stream):
    logps = -3 * torch.rand(4, 7, generator=stream)
    starts = torch.tensor([[2], [1], [3], [2]])
    lengths = torch.tensor([[4], [2], [4], [1]])
    positions = torch.arange(7)
    mask = ((positions >= starts) & (positions < starts + lengths)).long()
    padded = logps.clone()
    padded[1, 4:] = -torch.inf
    padded[3, 4:] = torch.nan
    three_tokens = torch.tensor([[-2.0, -0.5, -0.3, -0.1]])
    return [
        Case("a prompt token and a completion of three", (three_tokens, torch.tensor([[0, 1, 1, 1]]))),
        Case("prompts and completions of four lengths", (logps, mask)),
        Case("the same with a bool mask", (logps, mask.bool())),
        Case("padding that holds −∞ and NaN", (padded, mask)),
        Case("a row without a completion", (logps, mask * torch.tensor([[1], [1], [0], [1]]))),
        Case("a float mask, one column", (logps[:, :1], torch.tensor([[1.0], [0.0], [1.0], [1.0]]))),
    ]


def _summed(logps, mask):
    return logps.masked_fill(mask == 0, 0.0).sum(1)


def _without_the_last(logps, mask):
    places = torch.arange(mask.shape[1])
    last = (places * (mask != 0)).argmax(1)
    return _summed(logps, (mask != 0) & (places != last[:, None]))


_SEQUENCE = Exercise(
    id="dpo.sequence_logps",
    reference=logprobs.sequence_logps,
    answer=sequence_logps,
    cases=_sequence_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "mean",
            lambda logps, mask: _summed(logps, mask) / (mask != 0).sum(1).clamp(min=1),
            "You divide by the number of tokens. Probabilities of tokens multiply to the completion's, so their "
            "logarithms add up. A mean is the logarithm of something else, and β would mean something else too.",
        ),
        Mistake(
            "prompt and padding too",
            lambda logps, mask: logps.sum(1),
            "Your sum runs over everything. The prompt was given, not written, and padding was written by nobody: "
            "what does the mask say?",
        ),
        Mistake(
            "times the mask",
            lambda logps, mask: (logps * mask).sum(1),
            "Right, until padding holds −∞ or NaN: 0 times either is NaN. Replace what stands on padding before you "
            "add, or choose the tokens and leave the others out.",
        ),
        Mistake(
            "mask shifted again",
            lambda logps, mask: (
                logps[:, :-1].masked_fill(mask[:, 1:] == 0, 0.0).nan_to_num(0.0, 0.0, 0.0).sum(1)
                if logps.shape[1] > 1
                else logps.sum(1) * 0
            ),
            "You move the mask by one. Column t of both is the same token already: whoever calls this has moved it.",
        ),
        Mistake(
            "the prompt only",
            lambda logps, mask: logps.masked_fill(mask != 0, 0.0).nan_to_num(0.0, 0.0, 0.0).sum(1),
            "You keep the tokens where the mask is 0. It is 1 on the completion.",
        ),
        Mistake(
            "without the end mark",
            _without_the_last,
            "One token short: the last one of each completion is its end mark. Deciding to stop is part of the answer, "
            "and a policy that never hears of it does not learn when to.",
        ),
        Mistake(
            "probability",
            lambda logps, mask: _summed(logps, mask).exp(),
            "You return the probability. Of a few hundred tokens it is 0 in floating point; every formula here wants "
            "its logarithm.",
        ),
        Mistake(
            "one number for the batch",
            lambda logps, mask: _summed(logps, mask).sum(),
            "One number for all rows. Each completion has a log-probability of its own: along which dimension do the "
            "tokens lie?",
        ),
        Mistake(
            "over the rows",
            lambda logps, mask: logps.masked_fill(mask == 0, 0.0).sum(0),
            "You add up the rows of a column: a different completion's token from each. Tokens lie along dimension 1.",
        ),
    ],
    hints=[
        "p(y | x) is a product over the completion's tokens. What is the logarithm of a product?",
        "Padding may hold anything, so it has to be 0 *before* you add: masked_fill, or torch.where.",
        "return logps.masked_fill(mask == 0, 0.0).sum(dim=1)",
    ],
    reason="log p(y | x) = Σ_t log p(y_t | x, y_<t), over the completion's own tokens and its end mark. Prompt and "
    "padding are set to 0 first, because 0 × NaN is NaN, and so is its gradient. No division by the length: β is a "
    "price per nat of the whole answer, in DPO's derivation as in PPO's KL.",
)


def _dpo_cases(stream):
    chosen, rejected, ref_chosen, ref_rejected = 4 * torch.randn(4, 6, generator=stream) - 20
    pair = [torch.tensor([x]) for x in (-8.0, -9.0, -9.0, -8.5)]
    same = torch.tensor([-12.0, -30.0])
    return [
        Case(
            "one pair, three nats apart in log-ratio", (*(torch.tensor([x]) for x in (-10.0, -15.0, -11.0, -13.0)), 0.5)
        ),
        Case("six random pairs", (chosen, rejected, ref_chosen, ref_rejected, 0.1)),
        Case("a larger β", (chosen, rejected, ref_chosen, ref_rejected, 0.5)),
        Case("β left out", (chosen, rejected, ref_chosen, ref_rejected)),
        Case("a policy that is still its reference", (same, same - 4, same.clone(), same - 4, 0.1)),
        Case("a batch of one", (*pair, 0.3)),
        Case(
            "a pair that is badly wrong, and one that is sure",
            (
                torch.tensor([-900.0, -20.0]),
                torch.tensor([-100.0, -820.0]),
                torch.tensor([-100.0, -120.0]),
                torch.tensor([-100.0, -120.0]),
                0.5,
            ),
        ),
        Case("bfloat16", (*(x.bfloat16() for x in (chosen, rejected, ref_chosen, ref_rejected)), 0.1)),
    ]


def _margin(pi_c, pi_r, ref_c, ref_r):
    return (pi_c - pi_r) - (ref_c - ref_r)


_LOSS = Exercise(
    id="dpo.dpo_loss",
    reference=losses.dpo_loss,
    answer=dpo_loss,
    cases=_dpo_cases,
    differentiate=(0, 1),
    mistakes=[
        Mistake(
            "reversed",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(-beta * _margin(c, r, rc, rr)).mean(),
            "Your loss falls when the *rejected* answer gets likelier. Is the sign of the margin right?",
        ),
        Mistake(
            "missing minus",
            lambda c, r, rc, rr, beta=0.1: logsigmoid(beta * _margin(c, r, rc, rr)).mean(),
            "Yours is at most 0 and falls as the votes get less likely. It is the log-likelihood; a loss is to be "
            "minimised.",
        ),
        Mistake(
            "no reference",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * (c - r)).mean(),
            "The reference changes nothing in yours. Then nothing ties the policy to where it started: the implicit "
            "reward is a log-*ratio*.",
        ),
        Mistake(
            "reference with the wrong sign",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * ((c - r) + (rc - rr))).mean(),
            "You add the reference's difference. A pair that the reference already gets right would count as learnt "
            "before the first step: what counts is the change against the reference.",
        ),
        Mistake(
            "β outside",
            lambda c, r, rc, rr, beta=0.1: -beta * logsigmoid(_margin(c, r, rc, rr)).mean(),
            "β only scales your loss, and Adam undoes a scale. It belongs to the implicit reward, inside the sigmoid: "
            "there it says how many nats make a clear vote.",
        ),
        Mistake(
            "divided by β",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(_margin(c, r, rc, rr) / beta).mean(),
            "You divide by β. The closed form has r/β in an exponent; solved for r, β stands on the other side.",
        ),
        Mistake(
            "no β",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(_margin(c, r, rc, rr)).mean(),
            "β changes nothing in yours. It is what turns nats of log-ratio into units of reward.",
        ),
        Mistake(
            "logarithm of a sigmoid",
            lambda c, r, rc, rr, beta=0.1: -torch.sigmoid(beta * _margin(c, r, rc, rr)).log().mean(),
            "Right on paper, but the sigmoid of a pair that is badly wrong rounds to 0 and its logarithm is −∞. You "
            "met the function that takes both steps at once in lesson 03.",
        ),
        Mistake(
            "chosen answer alone",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * (c - rc)).mean(),
            "The rejected answer changes nothing in yours. Z cancels only in the difference of two answers to one "
            "prompt.",
        ),
        Mistake(
            "two separate answers",
            lambda c, r, rc, rr, beta=0.1: (-logsigmoid(beta * (c - rc)) - logsigmoid(-beta * (r - rr))).mean(),
            "You judge each answer against 0 and add the two up. That takes log Z for 0, which nobody promised. "
            "The two belong in one sigmoid, where it cancels.",
        ),
        Mistake(
            "sum",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * _margin(c, r, rc, rr)).sum(),
            "You add the pairs up. The loss is a mean over pairs, so that a larger batch takes no longer steps.",
        ),
        Mistake(
            "no mean",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * _margin(c, r, rc, rr)),
            "One number for each pair is right so far. Training needs one for the batch.",
        ),
        Mistake(
            "probability for its logarithm",
            lambda c, r, rc, rr, beta=0.1: -torch.sigmoid(beta * _margin(c, r, rc, rr)).mean(),
            "You have the probability of each vote, and its logarithm is missing. Probabilities of votes multiply: it "
            "is the logarithms that add up to a loss.",
        ),
        Mistake(
            "one minus the probability",
            lambda c, r, rc, rr, beta=0.1: (1 - torch.sigmoid(beta * _margin(c, r, rc, rr))).mean(),
            "You count how often the vote would go the other way. The loss is the surprise at the vote, −log of its "
            "probability.",
        ),
        Mistake(
            "added up",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * ((c - rc) + (r - rr))).mean(),
            "Your loss falls when the *rejected* answer gets likelier, too. The vote says which of the two is better: "
            "compare them.",
        ),
        Mistake(
            "β on the chosen answer alone",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * (c - rc) - (r - rr)).mean(),
            "β multiplies the first log-ratio and not the second. A pair of brackets is missing: both are rewards.",
        ),
        Mistake(
            "ratios of probabilities",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * ((c - rc).exp() - (r - rr).exp())).mean(),
            "You subtract ratios of probabilities. The rewards are their logarithms, and those are what you had before "
            "the exponential.",
        ),
        Mistake(
            "quotients of log-probabilities",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * (c / rc - r / rr)).mean(),
            "You divide logarithms. The logarithm of a ratio is a difference of logarithms.",
        ),
        Mistake(
            "mean before the sigmoid",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * _margin(c, r, rc, rr).mean()),
            "You average the margins first, so that a pair that is very right pays for one that is wrong. Each vote "
            "has a likelihood of its own.",
        ),
        Mistake(
            "bare margin",
            lambda c, r, rc, rr, beta=0.1: -(beta * _margin(c, r, rc, rr)).mean(),
            "You push every margin up with the same force, for ever. A pair that is clear should pull less: which "
            "curve is missing?",
        ),
        Mistake(
            "hinge",
            lambda c, r, rc, rr, beta=0.1: torch.relu(1 - beta * _margin(c, r, rc, rr)).mean(),
            "That is the hinge of SLiC: it stops pulling at a margin of 1/β. DPO is the likelihood of the votes.",
        ),
    ],
    hints=[
        "It is lesson 03's loss, −log σ(r_chosen − r_rejected). Only where the rewards come from is new.",
        "The reward of an answer is β·(log π − log π_ref), up to a constant that both answers share.",
        "margin = beta * ((policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)), "
        "and then logsigmoid, as before.",
    ],
    reason="Bradley–Terry with r = β·log(π/π_ref) + β·log Z in the reward's place. Both answers have the same prompt, "
    "so log Z cancels in the difference. It does not matter how you group the four terms. The reference's two are "
    "constants, and gradients reach the policy's two alone, with weight "
    "β·σ(−β·margin), up for chosen and down for rejected.",
)


def _implicit_cases(stream):
    policy, ref = 3 * torch.randn(2, 5, generator=stream) - 15
    return [
        Case(
            "the two answers on entanglement, β = 1",
            (torch.tensor([-0.8057, -0.5920]), torch.tensor([-0.2231, -1.6094]), 1.0),
        ),
        Case("five completions", (policy, ref, 0.1)),
        Case("a larger β", (policy, ref, 0.5)),
        Case("a policy that is still its reference", (policy, policy.clone(), 0.1)),
        Case("one completion", (torch.tensor([-40.0]), torch.tensor([-30.0]), 0.3)),
        Case("very unlikely completions", (torch.tensor([-400.0, -500.0]), torch.tensor([-500.0, -400.0]), 0.1)),
    ]


_IMPLICIT = Exercise(
    id="dpo.implicit_rewards",
    reference=implicit_rewards,
    cases=_implicit_cases,
    mistakes=[
        Mistake(
            "reference minus policy",
            lambda policy, ref, beta: beta * (ref - policy),
            "Yours is high where the policy likes an answer *less* than the reference does. A policy moves towards "
            "what it is paid for.",
        ),
        Mistake(
            "no β",
            lambda policy, ref, beta: policy - ref,
            "That is the log-ratio, in nats. Solve π* ∝ π_ref·exp(r/β) for r: what multiplies the log-ratio?",
        ),
        Mistake(
            "divided by β",
            lambda policy, ref, beta: (policy - ref) / beta,
            "β is on the wrong side. A policy that moved far although moving was dear must have been paid well: at a "
            "larger β the same log-ratio means a *larger* reward.",
        ),
        Mistake(
            "policy alone",
            lambda policy, ref, beta: beta * policy,
            "Without the reference, every long answer has a low reward and every common one a high one. The reward is "
            "in what changed.",
        ),
        Mistake(
            "ratio of log-probabilities",
            lambda policy, ref, beta: beta * policy / ref,
            "You divide two logarithms. The logarithm of a ratio is a difference of logarithms.",
        ),
        Mistake(
            "logarithm of a logarithm",
            lambda policy, ref, beta: beta * (policy / ref).log(),
            "Your arguments are log-probabilities already. The logarithm of a ratio is the difference of the two.",
        ),
        Mistake(
            "β on the policy alone",
            lambda policy, ref, beta: beta * policy - ref,
            "β multiplies the first logarithm and not the second. A pair of brackets is missing.",
        ),
        Mistake(
            "one number for all",
            lambda policy, ref, beta: (beta * (policy - ref)).mean(),
            "You average over the answers. Each has a reward of its own: return as many numbers as you were given.",
        ),
        Mistake(
            "ratio of probabilities",
            lambda policy, ref, beta: beta * (policy - ref).exp(),
            "That is β·π/π_ref, never below 0. The exponential in the closed form is undone by a logarithm.",
        ),
        Mistake(
            "probability of being chosen",
            lambda policy, ref, beta: torch.sigmoid(beta * (policy - ref)),
            "You have gone one step too far: a sigmoid wants the *difference* of two answers' rewards. Here each "
            "answer's own is asked for.",
        ),
    ],
    hints=[
        "Start from π* = π_ref·exp(r/β)/Z. Take logarithms and solve for r.",
        "r = β·(log π − log π_ref) + β·log Z. The last term is the same for every answer to the prompt: leave it out.",
        "return beta * (policy_logps - ref_logps)",
    ],
    reason="β·log(π/π_ref) is the reward for which this policy would be the optimum of lesson 04, up to β·log Z, a "
    "constant of the prompt. So it can be compared between answers to one prompt, never between prompts, and its zero "
    "means nothing but “as likely as before”. It is what TRL logs as rewards/chosen and rewards/rejected.",
)

EXERCISES = [_SEQUENCE, _LOSS, _IMPLICIT]
