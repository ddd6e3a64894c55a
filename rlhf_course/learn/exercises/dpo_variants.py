"""Exercises of lesson 07: a margin to reach and not to exceed, labels that may be slips, thumbs in place of pairs."""

import torch
from torch.nn.functional import logsigmoid

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def ipo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    return ((margin - 1 / (2 * beta)) ** 2).mean()


def cdpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.1
):
    margin = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    right, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return ((1 - label_smoothing) * right + label_smoothing * flipped).mean()


def kto_loss(policy_logps, ref_logps, labels, kl, beta=0.1):
    z = kl.detach().clamp(min=0)
    gap = beta * (policy_logps - ref_logps - z)
    return torch.where(labels, torch.sigmoid(-gap), torch.sigmoid(gap)).mean()


def _margin(c, r, rc, rr):
    return (c - rc) - (r - rr)


def _pair(*logps):
    return tuple(torch.tensor([x]) for x in logps)


def _four(stream, n=6):
    return tuple(4 * torch.randn(4, n, generator=stream) - 20)


# ---------------------------------------------------------------------- IPO


def _ipo_cases(stream):
    four = _four(stream)
    same = torch.tensor([-12.0, -30.0])
    return [
        Case("one pair, three nats apart in log-ratio", (*_pair(-10.0, -15.0, -11.0, -13.0), 0.1)),
        Case("six random pairs", (*four, 0.1)),
        Case("a larger β, a smaller target", (*four, 0.5)),
        Case("β left out", four),
        Case("a pair that is at its target", (*_pair(-10.0, -18.0, -11.0, -14.0), 0.1)),
        Case("a pair that is past its target", (*_pair(-10.0, -30.0, -11.0, -14.0), 0.1)),
        Case("a policy that is still its reference", (same, same - 4, same.clone(), same - 4, 0.25)),
        Case("bfloat16", (*(x.bfloat16() for x in four), 0.1)),
    ]


_IPO = Exercise(
    id="dpo_variants.ipo_loss",
    reference=losses.ipo_loss,
    answer=ipo_loss,
    cases=_ipo_cases,
    differentiate=(0, 1),
    mistakes=[
        Mistake(
            "target 1/β",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr) - 1 / beta).square().mean(),
            "You aim twice as far. Look at the target again: what stands beside β in the denominator?",
        ),
        Mistake(
            "target β/2",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr) - beta / 2).square().mean(),
            "Your target grows with β. But β is the price of distance: the dearer it is, the *nearer* the target.",
        ),
        Mistake(
            "β times the margin",
            lambda c, r, rc, rr, beta=0.1: (beta * _margin(c, r, rc, rr) - 1 / (2 * beta)).square().mean(),
            "You multiply the margin by β, as DPO does. In IPO the margin stays in nats; β is in the target alone.",
        ),
        Mistake(
            "halfway to a vote",
            lambda c, r, rc, rr, beta=0.1: (beta * _margin(c, r, rc, rr) - 0.5).square().mean(),
            "The minimum is where it should be, but your loss is β² times IPO's. Adam undoes a scale; a learning rate "
            "that was chosen, and a clipped gradient, do not.",
        ),
        Mistake(
            "reversed",
            lambda c, r, rc, rr, beta=0.1: (-_margin(c, r, rc, rr) - 1 / (2 * beta)).square().mean(),
            "Yours is least where the *rejected* answer is ahead. Is the sign of the margin right?",
        ),
        Mistake(
            "no reference",
            lambda c, r, rc, rr, beta=0.1: (c - r - 1 / (2 * beta)).square().mean(),
            "The reference changes nothing in yours. A pair that the reference already tells apart would count as "
            "learnt: what has to reach the target is the change.",
        ),
        Mistake(
            "stops at the target",
            lambda c, r, rc, rr, beta=0.1: torch.relu(1 / (2 * beta) - _margin(c, r, rc, rr)).square().mean(),
            "Beyond the target yours is 0. That is a (squared) hinge: it stops pushing, but never pulls back. What "
            "does a square do on the other side of its minimum?",
        ),
        Mistake(
            "distance, not its square",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr) - 1 / (2 * beta)).abs().mean(),
            "Every pair pulls equally hard in yours, however far it is from the target. With a square, contradicting "
            "labels settle at a margin in between.",
        ),
        Mistake(
            "half a square",
            lambda c, r, rc, rr, beta=0.1: 0.5 * (_margin(c, r, rc, rr) - 1 / (2 * beta)).square().mean(),
            "Half of it. There is no ½ before this square.",
        ),
        Mistake(
            "square of the mean",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr).mean() - 1 / (2 * beta)).square(),
            "You average the margins before you square, so that a pair that is far past the target pays for one that "
            "is far behind it. Each pair has a target of its own.",
        ),
        Mistake(
            "sum",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr) - 1 / (2 * beta)).square().sum(),
            "You add the pairs up. The loss is a mean over pairs, so that a larger batch takes no longer steps.",
        ),
        Mistake(
            "DPO",
            lambda c, r, rc, rr, beta=0.1: -logsigmoid(beta * _margin(c, r, rc, rr)).mean(),
            "That is DPO's loss: it falls for ever as the margin grows. IPO asks for a margin, and no more.",
        ),
    ],
    hints=[
        "The margin is DPO's, in nats: the chosen answer's log-ratio minus the rejected one's.",
        "It should reach 1/(2β), and be neither below nor above. Which curve has one minimum and rises on both sides?",
        "return ((margin - 1 / (2 * beta)) ** 2).mean()",
    ],
    reason="(margin − 1/(2β))², equation 17 of Azar et al. (2023), who write τ for β. It is the regression of a vote, "
    "1 or 0, on β·margin + ½, scaled. So the push is proportional to what is missing, and turns round beyond the "
    "target. There is no sigmoid for a certain pair to climb for ever.",
)


# ---------------------------------------------------------------------- cDPO


def _cdpo(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    return losses.dpo_loss(c, r, rc, rr, beta, label_smoothing=label_smoothing)


def _cdpo_cases(stream):
    four = _four(stream)
    far = (
        torch.tensor([-900.0, -20.0]),
        torch.tensor([-100.0, -820.0]),
        torch.tensor([-100.0, -120.0]),
        torch.tensor([-100.0, -120.0]),
    )
    return [
        Case("one pair, three nats apart in log-ratio", (*_pair(-10.0, -15.0, -11.0, -13.0), 0.5, 0.2)),
        Case("six random pairs", (*four, 0.1, 0.1)),
        Case("a larger β", (*four, 0.5, 0.3)),
        Case("no slips", (*four, 0.3, 0.0)),
        Case("labels that are coins", (*four, 0.3, 0.5)),
        Case("a pair that is badly wrong, and one that is too sure", (*far, 0.5, 0.1)),
        Case("bfloat16", (*(x.bfloat16() for x in four), 0.1, 0.1)),
    ]


def _two_votes(h):
    return -logsigmoid(h), -logsigmoid(-h)


def _robust(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    right, flipped = _two_votes(beta * _margin(c, r, rc, rr))
    return (((1 - label_smoothing) * right - label_smoothing * flipped) / max(1 - 2 * label_smoothing, 1e-6)).mean()


def _smoothed_probability(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    p = torch.sigmoid(beta * _margin(c, r, rc, rr))
    return -((1 - label_smoothing) * p + label_smoothing * (1 - p)).log().mean()


def _with_logs(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    p = torch.sigmoid(beta * _margin(c, r, rc, rr))
    return -((1 - label_smoothing) * p.log() + label_smoothing * (1 - p).log()).mean()


def _mixed(weigh_right, weigh_flipped):
    def loss(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
        right, flipped = _two_votes(beta * _margin(c, r, rc, rr))
        return (weigh_right(label_smoothing) * right + weigh_flipped(label_smoothing) * flipped).mean()

    return loss


def _no_beta(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    right, flipped = _two_votes(_margin(c, r, rc, rr))
    return ((1 - label_smoothing) * right + label_smoothing * flipped).mean()


def _smoothed_margin(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
    return -logsigmoid((1 - 2 * label_smoothing) * beta * _margin(c, r, rc, rr)).mean()


_CDPO = Exercise(
    id="dpo_variants.cdpo_loss",
    reference=_cdpo,
    answer=cdpo_loss,
    cases=_cdpo_cases,
    differentiate=(0, 1),
    mistakes=[
        Mistake(
            "no smoothing",
            _mixed(lambda e: 1.0, lambda e: 0.0),
            "The share of slips changes nothing in yours: that is DPO. What does the pair cost if its label is one?",
        ),
        Mistake(
            "exchanged",
            _mixed(lambda e: e, lambda e: 1 - e),
            "You give the flipped reading the larger weight (or the margin the wrong sign). ε is the chance that the "
            "label is *wrong*.",
        ),
        Mistake(
            "robust",
            _robust,
            "You subtract the flipped reading. That is the other idea (“robust” DPO, Chowdhury et al.): an unbiased "
            "estimate of the loss on clean labels. cDPO averages over the two readings of a label.",
        ),
        Mistake(
            "only scaled",
            _mixed(lambda e: 1 - e, lambda e: 0.0),
            "You make every pair count less and leave it at that. Adam undoes a scale, and the margin still has no "
            "end. The other reading of the label costs something too.",
        ),
        Mistake(
            "weights that do not add up to 1",
            _mixed(lambda e: 1.0, lambda e: e),
            "The flipped reading is added on top. A label is right or a slip: the two probabilities add up to 1.",
        ),
        Mistake(
            "the probability mixed before the logarithm",
            _smoothed_probability,
            "You mix the probabilities and then take one logarithm. That is the likelihood of a vote that may be a "
            "slip, a sound idea of its own; but it pulls less on a pair the surer the policy is that its label is "
            "wrong. cDPO averages the two *losses*.",
        ),
        Mistake(
            "a smaller margin",
            _smoothed_margin,
            "You shrink the margin by 1 − 2ε, which is DPO with another β. Its loss still falls for ever.",
        ),
        Mistake(
            "no β",
            _no_beta,
            "β changes nothing in yours. It is what turns nats of log-ratio into units of reward.",
        ),
        Mistake(
            "logarithm of a sigmoid",
            _with_logs,
            "Right on paper, but the sigmoid of a sure pair rounds to 0 or 1, and the logarithm of 0 is −∞. Here both "
            "ends are needed: which function takes both steps at once?",
        ),
    ],
    hints=[
        "With probability 1 − ε the label is right, and the pair costs what it costs in DPO. With ε it is a slip: what "
        "does the pair cost then?",
        "Flipping a label exchanges chosen and rejected, which changes the sign of the margin.",
        "Average the two: (1 − ε)·(−log σ(βh)) + ε·(−log σ(−βh)), with logsigmoid for both.",
    ],
    reason="The expected loss over the two readings of a label (Mitchell 2023), which is label smoothing. Its minimum "
    "is where σ(βh) = 1 − ε: a finite margin, log((1 − ε)/ε)/β, also for a pair that is certain. With ε = ½ the labels "
    "say nothing, and the best margin is 0.",
)


# ---------------------------------------------------------------------- KTO


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


def _kto_log(policy, ref, labels, kl, beta=0.1):
    gap = beta * _ratio_gap(policy, ref, kl)
    return -torch.where(labels, logsigmoid(gap), logsigmoid(-gap)).mean()


def _kto_means(policy, ref, labels, kl, beta=0.1):
    gap = beta * _ratio_gap(policy, ref, kl)
    kinds = [torch.sigmoid(-gap)[labels], torch.sigmoid(gap)[~labels]]
    return sum(kind.mean() for kind in kinds if kind.numel())


_KTO = Exercise(
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

EXERCISES = [_IPO, _CDPO, _KTO]
