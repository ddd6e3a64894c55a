"""Exercise of lesson 07: thumbs in place of pairs."""

import torch
from torch.nn.functional import logsigmoid

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def kto_loss(policy_logps, ref_logps, labels, kl, beta=0.1):
    z = kl.detach().clamp(min=0)
    gap = beta * (policy_logps - ref_logps - z)
    return torch.where(labels, torch.sigmoid(-gap), torch.sigmoid(gap)).mean()


def _kto_cases(stream):
    policy, ref = 3 * torch.randn(2, 6, generator=stream) - 20
    labels = torch.tensor([True, False, True, True, False, False])
    far = torch.tensor([-900.0, -20.0, -900.0, -20.0]), torch.tensor([-20.0, -900.0, -20.0, -900.0])
    return [
        Case(
            "thumbs up two nats above the reference, thumbs down three",
            (
                torch.tensor([-10.0, -12.0]),
                torch.tensor([-12.0, -15.0]),
                torch.tensor([True, False]),
                torch.tensor(1.0),
                0.5,
            ),
        ),
        Case("six random answers", (policy, ref, labels, torch.tensor(1.5), 0.1)),
        Case("a larger β", (policy, ref, labels, torch.tensor(1.5), 0.7)),
        Case("β left out", (policy, ref, labels, torch.tensor(0.5))),
        Case("an estimate below 0", (policy, ref, labels, torch.tensor(-4.0), 0.3)),
        Case("thumbs up alone", (policy, ref, torch.ones(6, dtype=torch.bool), torch.tensor(2.0), 0.3)),
        Case("far from the reference", (*far, torch.tensor([True, True, False, False]), torch.tensor(3.0), 0.5)),
        Case("bfloat16", (policy.bfloat16(), ref.bfloat16(), labels, torch.tensor(1.5), 0.1)),
    ]


def _ratio_gap(policy, ref, kl):
    return policy - ref - kl.detach().clamp(min=0)


def _judge(value, labels):
    return (1 - torch.where(labels, value, 1 - value)).mean()


def _judge_signed(beta, ratios, z, labels):
    return torch.sigmoid(-beta * (torch.where(labels, ratios, -ratios) - z)).mean()


def _kto_log(policy, ref, labels, kl, beta=0.1):
    gap = beta * _ratio_gap(policy, ref, kl)
    return -torch.where(labels, logsigmoid(gap), logsigmoid(-gap)).mean()


def _kto_means(policy, ref, labels, kl, beta=0.1):
    gap = beta * _ratio_gap(policy, ref, kl)
    kinds = [torch.sigmoid(-gap)[labels], torch.sigmoid(gap)[~labels]]
    return sum(kind.mean() for kind in kinds if kind.numel())


KTO_LOSS = Exercise(
    id="dpo_variants.kto_loss",
    reference=losses.kto_loss,
    answer=kto_loss,
    cases=_kto_cases,
    differentiate=(0, 3),
    mistakes=[
        Mistake(
            "no point of reference",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - r)), y),
            "kl changes nothing in yours, so that every answer is judged against 0. A gain is a gain only against what "
            "one has already: z.",
        ),
        Mistake(
            "not clamped",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - r - kl.detach())), y),
            "A KL is never below 0, but its estimate from a batch can be. Yours lets it.",
        ),
        Mistake(
            "not detached",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - r - kl.clamp(min=0))), y),
            "The value is right, but a gradient flows into z. The point of reference is a place to look from: the "
            "policy must not get a lower loss by moving *it*.",
        ),
        Mistake(
            "labels exchanged",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * _ratio_gap(p, r, kl)), ~y),
            "Yours falls when an answer with thumbs *down* gets likelier. Did you exchange the labels, or return the "
            "value, which is to rise, in place of the loss?",
        ),
        Mistake(
            "minus the value",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * _ratio_gap(p, r, kl)), y) - 1,
            "Yours is −v, with the right gradient, and below 0. The loss is λ − v, and λ is 1 here.",
        ),
        Mistake(
            "the batch's own answers",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * _ratio_gap(p, r, (p - r).mean())), y),
            "You take z from the answers that are being judged. `kl` is the estimate to use, from mismatched ones.",
        ),
        Mistake(
            "only the log-ratio turned round",
            lambda p, r, y, kl, beta=0.1: _judge_signed(beta, p - r, kl.detach().clamp(min=0), y),
            "For thumbs down you turn the sign of r and leave z's. The distance below z is z − r.",
        ),
        Mistake(
            "size of the estimate",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - r - kl.detach().abs())), y),
            "You make a negative estimate positive. No KL is below 0, so where the estimate is, 0 is the nearest.",
        ),
        Mistake(
            "thumbs up for all",
            lambda p, r, y, kl, beta=0.1: (1 - torch.sigmoid(beta * _ratio_gap(p, r, kl))).mean(),
            "The labels change nothing in yours. An answer with thumbs down is to end *below* z.",
        ),
        Mistake(
            "logarithm",
            _kto_log,
            "You take the logarithm of the value. That is cross-entropy on single answers, and an answer that is "
            "badly wrong pulls ever harder. KTO minimises 1 − value itself, which levels off at both ends.",
        ),
        Mistake(
            "β outside",
            lambda p, r, y, kl, beta=0.1: beta * _judge(torch.sigmoid(_ratio_gap(p, r, kl)), y),
            "β only scales your loss. It belongs inside the sigmoid: it says over how many nats a gain is felt.",
        ),
        Mistake(
            "β on the log-ratio alone",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - r) - kl.detach().clamp(min=0)), y),
            "You take z, in nats, from β times the log-ratio, which is a reward. Both are in nats: subtract first.",
        ),
        Mistake(
            "no reference model",
            lambda p, r, y, kl, beta=0.1: _judge(torch.sigmoid(beta * (p - kl.detach().clamp(min=0))), y),
            "The reference's log-probability is missing. log π alone is −20 or so, and every answer looks like a loss.",
        ),
        Mistake(
            "a mean for each kind",
            _kto_means,
            "You average thumbs up and thumbs down separately and add the two. The loss is one mean over all answers; "
            "what a kind should count for is λ's business.",
        ),
        Mistake(
            "sum",
            lambda p, r, y, kl, beta=0.1: len(p) * _judge(torch.sigmoid(beta * _ratio_gap(p, r, kl)), y),
            "You add the answers up. The loss is a mean, so that a larger batch takes no longer steps.",
        ),
    ],
    hints=[
        "Each answer has a log-ratio r. Thumbs up: how far is r above z? Thumbs down: how far below?",
        "The estimate `kl` may be negative, and no gradient may flow into it: two calls make z of it.",
        "1 − σ(a) is σ(−a). So it is sigmoid(−gap) for thumbs up and sigmoid(gap) for thumbs down, gap = β·(r − z).",
        "return torch.where(labels, torch.sigmoid(-gap), torch.sigmoid(gap)).mean()",
    ],
    reason="Thumbs up: 1 − σ(β(r − z)); thumbs down: 1 − σ(β(z − r)), equation 8 of Ethayarajh et al. (2024) with both "
    "λ at 1. σ(−gap) is 1 − σ(gap) without the rounding. z is clamped at 0, since a KL is not negative, and detached, "
    "since it says where one looks from. No pair is needed anywhere: z stands where DPO has the other answer.",
)
