"""Exercises of lesson 07: a margin to reach and not to exceed, and labels that may be slips; thumbs are in `_kto`."""

import torch
from torch.nn.functional import logsigmoid

from rlhf_course import losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake
from rlhf_course.learn.exercises._kto import KTO_LOSS


def ipo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    return ((margin - 1 / (2 * beta)) ** 2).mean()


def cdpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, label_smoothing=0.1
):
    margin = (policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps)
    right, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return ((1 - label_smoothing) * right + label_smoothing * flipped).mean()


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
            "not averaged",
            lambda c, r, rc, rr, beta=0.1: (_margin(c, r, rc, rr) - 1 / (2 * beta)).square(),
            "A distance for each pair is right so far. Training needs one number for the batch: their mean.",
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


def _flipped_loss(flip):
    """cDPO with another idea of what a flipped label costs: `flip` takes the margin in units of reward."""

    def loss(c, r, rc, rr, beta=0.1, label_smoothing=0.1):
        h = beta * _margin(c, r, rc, rr)
        return (-(1 - label_smoothing) * logsigmoid(h) + label_smoothing * flip(h)).mean()

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
            "robust, not divided",
            _mixed(lambda e: 1 - e, lambda e: -e),
            "You subtract the flipped reading, as the “robust” loss does. cDPO averages over the two readings of a "
            "label, so both count with a plus.",
        ),
        Mistake(
            "the loss turned round",
            _flipped_loss(logsigmoid),
            "For a slip you turn the sign of the *loss*, and the two nearly cancel. A slip turns the sign of the "
            "*margin*: the rejected answer is the better one.",
        ),
        Mistake(
            "one minus the logarithm",
            _flipped_loss(lambda h: logsigmoid(h) - 1),
            "The flipped vote has the probability 1 − σ. You take 1 − log σ: the 1 belongs inside the logarithm.",
        ),
        Mistake(
            "half for each answer",
            _mixed(lambda e: 1 - e / 2, lambda e: e / 2),
            "You spread ε over both answers, as label smoothing over classes does. Here ε is the chance that this "
            "label is wrong, all of it.",
        ),
        Mistake(
            "divided by 1 − 2ε",
            _mixed(lambda e: (1 - e) / max(1 - 2 * e, 1e-6), lambda e: e / max(1 - 2 * e, 1e-6)),
            "You divide by 1 − 2ε. The robust loss does, since it subtracts. Your two weights add up to 1 already.",
        ),
        Mistake(
            "no reference",
            lambda c, r, rc, rr, beta=0.1, label_smoothing=0.1: _cdpo(c, r, 0 * c, 0 * r, beta, label_smoothing),
            "The reference changes nothing in yours. The margin is one of log-*ratios*, as in DPO.",
        ),
        Mistake(
            "sum",
            lambda c, r, rc, rr, beta=0.1, label_smoothing=0.1: len(c) * _cdpo(c, r, rc, rr, beta, label_smoothing),
            "You add the pairs up. The loss is a mean over pairs, so that a larger batch takes no longer steps.",
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

EXERCISES = [_IPO, _CDPO, KTO_LOSS]
