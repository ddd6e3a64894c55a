"""The formulas again, in plain Python on lists of floats: independent of torch and of the package.

Each is written another way than the code it is held against, where there is another way (a double sum for the
recursion of GAE, cases for the minimum of the clip).
"""

import math


def log_softmax(row):
    top = max(row)
    total = math.fsum(math.exp(x - top) for x in row)
    return [x - top - math.log(total) for x in row]


def kl(logits, ref_logits):
    logp, logq = log_softmax(logits), log_softmax(ref_logits)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(logp, logq))


def entropy(logits):
    return -math.fsum(math.exp(a) * a for a in log_softmax(logits))


def k3(logp, ref_logp):
    ratio = math.exp(ref_logp - logp)
    return ratio - math.log(ratio) - 1


def neg_log_sigmoid(x):
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def real(rows, mask):
    """The real entries of nested lists, row after row."""
    return [x for row, keep in zip(rows, mask) for x, m in zip(row, keep) if m]


def mean(xs):
    xs = list(xs)
    return math.fsum(xs) / len(xs) if xs else 0.0


def variance(xs):
    centre = mean(xs)
    return math.fsum((x - centre) ** 2 for x in xs) / (len(xs) - 1)


def gae(rewards, values, mask, gamma, lam):
    """A_t as the sum over later steps k of (γλ)^(k−t)·δ_k, for each row's real steps."""
    advantages = [[0.0] * len(row) for row in rewards]
    returns = [[0.0] * len(row) for row in rewards]
    for b, keep in enumerate(mask):
        steps = [t for t, m in enumerate(keep) if m]
        v = [values[b][t] for t in steps] + [0.0]
        deltas = [rewards[b][t] + gamma * v[k + 1] - v[k] for k, t in enumerate(steps)]
        for k, t in enumerate(steps):
            advantages[b][t] = sum((gamma * lam) ** (j - k) * deltas[j] for j in range(k, len(steps)))
            returns[b][t] = advantages[b][t] + v[k]
    return advantages, returns


def kl_shaped_rewards(scores, logps, ref_logps, mask, beta):
    out = [[0.0] * len(row) for row in logps]
    for b, keep in enumerate(mask):
        steps = [t for t, m in enumerate(keep) if m]
        for t in steps:
            out[b][t] = beta * (ref_logps[b][t] - logps[b][t])
        if steps:
            out[b][steps[-1]] += scores[b]
    return out


def group_advantages(rewards, size, scale):
    out = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        divisor = {"group": group, "batch": rewards, "none": None}[scale]
        divisor = 1.0 if divisor is None else math.sqrt(variance(divisor)) + 1e-4
        out += [(r - mean(group)) / divisor for r in group]
    return out


def rloo_advantages(rewards, size):
    out = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        for i, r in enumerate(group):
            out.append(r - mean(group[:i] + group[i + 1 :]))
    return out


def dpo(h, beta, loss_type="sigmoid", eps=0.0):
    if loss_type == "hinge":
        return max(0.0, 1 - beta * h)
    right, flipped = neg_log_sigmoid(beta * h), neg_log_sigmoid(-beta * h)
    if loss_type == "robust":
        return ((1 - eps) * right - eps * flipped) / (1 - 2 * eps)
    return (1 - eps) * right + eps * flipped


def kto(log_ratio, desirable, z, beta, weight):
    z = max(0.0, z)
    return weight * (1 - sigmoid(beta * (log_ratio - z if desirable else z - log_ratio)))


def clip_token(logp, old_logp, advantage, low, high):
    """The clipped loss by cases: gains are capped, harm is not."""
    ratio = math.exp(logp - old_logp)
    capped = min(ratio, 1 + high) if advantage >= 0 else max(ratio, 1 - low)
    return -capped * advantage


def kl_token(logp, old_logp, ref_logp):
    return math.exp(logp - old_logp) * k3(logp, ref_logp)


def value_token(value, old_value, target, c):
    clipped = min(max(value, old_value - c), old_value + c)
    return 0.5 * max((value - target) ** 2, (clipped - target) ** 2)


def aggregate(token_loss, mask, loss_type, max_length=None, items=None):
    total, count = math.fsum(real(token_loss, mask)), len(real(token_loss, mask))
    if loss_type == "grpo":
        return mean(mean(real([row], [keep])) for row, keep in zip(token_loss, mask))
    if loss_type == "dr_grpo":
        return total / (len(token_loss) * max_length)
    return total / (count if items is None or loss_type == "bnpo" else items)
