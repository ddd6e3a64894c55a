"""Exercises of lesson 02: the log-probability of a token, which tokens count, and their loss."""

import torch

from rlhf_course import logprobs, losses
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def selective_log_softmax(logits, ids):
    logits = logits.float()
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def completion_mask(prompt_lengths, total_lengths, width):
    position = torch.arange(width, device=prompt_lengths.device)
    return (position >= prompt_lengths[:, None]) & (position < total_lengths[:, None])


def sft_loss(logps, mask):
    return -logps[mask.bool()].mean()


def _log_softmax_cases(stream):
    def words(*shape):
        return torch.randint(shape[-1], shape[:-1], generator=stream)

    def logits(*shape, scale=2.0):
        return scale * torch.randn(shape, generator=stream)

    return [
        Case(
            "two tokens, three words",
            (torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 4.0]]), torch.tensor([1, 2])),
        ),
        Case("a batch of 3 sequences of 5 tokens, 11 words", (logits(3, 5, 11), words(3, 5, 11))),
        Case("a batch of one", (logits(1, 4, 7), words(1, 4, 7))),
        Case("large logits", (logits(4, 6, scale=300), words(4, 6))),
        Case("bfloat16 logits", (logits(6, 50, scale=5).bfloat16(), words(6, 50)), tolerance=1e-3),
    ]


def _gather(table, ids):
    return table.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


_LOG_SOFTMAX = Exercise(
    id="sft.selective_log_softmax",
    reference=logprobs.selective_log_softmax,
    answer=selective_log_softmax,
    cases=_log_softmax_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "logarithm of a softmax",
            lambda logits, ids: _gather(logits.float().softmax(-1), ids).log(),
            "An unlikely word's probability rounds to 0 and its logarithm to −∞. Two steps that undo "
            "each other are better not taken one by one: which function takes both at once?",
        ),
        Mistake(
            "no normalisation",
            lambda logits, ids: _gather(logits.float(), ids),
            "A logit is not yet a log-probability: add 5 to all logits and yours all rise by 5. What do "
            "the other words have to say?",
        ),
        Mistake(
            "probability",
            lambda logits, ids: _gather(logits.float().softmax(-1), ids),
            "These are probabilities, between 0 and 1. A log-probability is at most 0.",
        ),
        Mistake(
            "sign",
            lambda logits, ids: -_gather(logits.float().log_softmax(-1), ids),
            "You return the loss, −log p. Here we want log p itself: at most 0, and nearer 0 for a likelier word.",
        ),
        Mistake(
            "wrong dimension",
            lambda logits, ids: _gather(logits.float().log_softmax(0), ids),
            "Your probabilities sum to 1 over the batch. Which dimension holds the words that compete?",
        ),
        Mistake(
            "positions compete",
            lambda logits, ids: _gather(logits.float().log_softmax(1), ids),
            "Your probabilities sum to 1 over a sentence's positions. At each position the *words* compete: "
            "which dimension are they in, counted from the end?",
        ),
        Mistake(
            "every word",
            lambda logits, ids: logits.float().log_softmax(-1),
            "You return a log-probability for every word there is. We want the one that was chosen: ids says which.",
        ),
        Mistake(
            "every chosen word at every position",
            lambda logits, ids: logits.float().log_softmax(-1)[..., ids],
            "You look up all the chosen words at every position. Each position has one word of its own: gather "
            "takes them one by one.",
        ),
        Mistake(
            "exponentials summed by hand",
            lambda logits, ids: _gather(logits.float(), ids) - logits.float().exp().sum(-1).log(),
            "Right on paper, but exp(100) is infinite for a float. One function takes log Σ exp without ever "
            "forming the large numbers: which?",
        ),
        Mistake(
            "sum over words instead of logsumexp",
            lambda logits, ids: _gather(logits.float(), ids) - logits.float().sum(-1),
            "You subtract the sum of the logits. Normalising divides by the sum of their exponentials: "
            "what is that, once it is taken as a logarithm?",
        ),
        Mistake(
            "half precision",
            lambda logits, ids: _gather(logits.log_softmax(-1), ids),
            "Right on paper, but bfloat16 keeps three digits: a log-probability near −10 is off by up to "
            "0.03, and a sentence adds up many. In which precision should the logarithm be taken?",
        ),
    ],
    hints=[
        "softmax turns logits into probabilities: exp(z_id) / Σ exp(z). What is its logarithm?",
        "log softmax(z)[id] = z_id − log Σ exp(z). You need one number of each row, minus one other.",
        "logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) picks each row's logit; logits.logsumexp(-1) "
        "is the rest. Use logits.float() for both.",
    ],
    reason="log softmax(z)[id] = z_id − logsumexp(z). It needs no table of all log-probabilities, which "
    "for a real vocabulary of 50,000 words is the largest tensor of the whole step, and logsumexp "
    "never overflows because it subtracts the largest logit first. In bfloat16 it would round to "
    "three digits, hence float().",
)


def _mask_cases(stream):
    prompts = torch.randint(1, 6, (5,), generator=stream)
    totals = prompts + torch.randint(1, 8, (5,), generator=stream)
    return [
        Case("two rows", (torch.tensor([2, 3]), torch.tensor([5, 4]), 6)),
        Case("five rows of other lengths", (prompts, totals, int(totals.max()) + 2)),
        Case("rows without padding", (torch.tensor([1, 4]), torch.tensor([7, 7]), 7)),
        Case("a batch of one", (torch.tensor([3]), torch.tensor([6]), 8)),
        Case("a completion of one token, and one of none", (torch.tensor([3, 4]), torch.tensor([4, 4]), 5)),
        Case("an empty prompt", (torch.tensor([0, 2]), torch.tensor([3, 5]), 5)),
    ]


def _positions(width):
    return torch.arange(width).unsqueeze(0)


_COMPLETION_MASK = Exercise(
    id="sft.completion_mask",
    reference=completion_mask,
    cases=_mask_cases,
    mistakes=[
        Mistake(
            "the prompt instead of the completion",
            lambda prompt, total, width: _positions(width) < prompt[:, None],
            "Your mask is 1 on the prompt. With it the model would learn to write questions.",
        ),
        Mistake(
            "inside out",
            lambda prompt, total, width: (_positions(width) < prompt[:, None]) | (_positions(width) >= total[:, None]),
            "Yours is True on everything but the completion. Which side is the loss to count?",
        ),
        Mistake(
            "or for and",
            lambda prompt, total, width: (_positions(width) >= prompt[:, None]) | (_positions(width) < total[:, None]),
            "Every position is past the prompt *or* before the padding. Which of the two has to hold for a "
            "completion token?",
        ),
        Mistake(
            "padding counted",
            lambda prompt, total, width: _positions(width) >= prompt[:, None],
            "The mask goes on to the right edge. What stands behind a short row's last token, and should "
            "the model learn to write it?",
        ),
        Mistake(
            "the prompt counted",
            lambda prompt, total, width: (_positions(width) < total[:, None]).expand(len(prompt), width),
            "That is the attention mask: all real tokens, the prompt's too. Which of them did the demonstrator write?",
        ),
        Mistake(
            "the end mark dropped",
            lambda prompt, total, width: (
                (_positions(width) >= prompt[:, None]) & (_positions(width) < total[:, None] - 1)
            ),
            "Each row's last completion token is missing. It is the end mark, and a model that never "
            "learns it never stops.",
        ),
        Mistake(
            "the first token dropped",
            lambda prompt, total, width: (_positions(width) > prompt[:, None]) & (_positions(width) < total[:, None]),
            "Each completion's first token is missing. Positions count from 0: where does the token "
            "after a prompt of 2 stand?",
        ),
        Mistake(
            "one position too many",
            lambda prompt, total, width: (_positions(width) >= prompt[:, None]) & (_positions(width) <= total[:, None]),
            "One padding token slips in behind each row. Positions count from 0: where does the last of "
            "5 tokens stand?",
        ),
        Mistake(
            "total taken for the completion's length",
            lambda prompt, total, width: (
                (_positions(width) >= prompt[:, None]) & (_positions(width) < (prompt + total)[:, None])
            ),
            "Your rows end too late, by their prompt's length. total_lengths counts prompt and completion together.",
        ),
        Mistake(
            "the first row's lengths for all",
            lambda prompt, total, width: ((_positions(width) >= prompt[0]) & (_positions(width) < total[0])).expand(
                len(prompt), width
            ),
            "All your rows look like the first one. How can (B,) lengths be compared with (width,) "
            "positions, row by row?",
        ),
    ],
    hints=[
        "A position counts if it is past the prompt and before the padding: two comparisons, joined by `&`.",
        "Positions are torch.arange(width), (width,). Lengths are (B,). Compared as (1, width) and (B, "
        "1) they broadcast to (B, width).",
        "(position >= prompt_lengths[:, None]) & (position < total_lengths[:, None])",
    ],
    reason="Masks are built from lengths, never from `ids != pad`: where pad and end mark are the same "
    "token, as in many tokenizers, the latter also hides the end mark, and the model never learns "
    "to stop.",
)


def _sft_loss_cases(stream):
    def logps(*shape):
        return -3 * torch.rand(shape, generator=stream)

    ragged = torch.tensor([[0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0]])
    padded = logps(2, 5)
    padded[0, 3:] = -torch.inf
    padded[1, 4:] = torch.nan
    return [
        Case(
            "two rows",
            (
                torch.tensor([[-0.5, -1.0, -2.0], [-0.2, -3.0, -9.0]]),
                torch.tensor([[0, 1, 1], [0, 1, 0]]).bool(),
            ),
        ),
        Case("three rows of unlike length", (logps(3, 7), ragged.bool())),
        Case("a mask of whole numbers 0 and 1", (logps(3, 7), ragged)),
        Case("a batch of one", (logps(1, 4), torch.tensor([[False, False, True, True]]))),
        Case("bfloat16", (logps(3, 7).bfloat16(), ragged.bool())),
        Case(
            "padding that holds −∞ and NaN",
            (padded, torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()),
        ),
    ]


_SFT_LOSS = Exercise(
    id="sft.sft_loss",
    reference=losses.sft_loss,
    answer=sft_loss,
    cases=_sft_loss_cases,
    differentiate=(0,),
    mistakes=[
        Mistake(
            "sign",
            lambda logps, mask: logps[mask.bool()].mean(),
            "Your loss falls as the demonstration gets less likely. Which way should training push log p?",
        ),
        Mistake(
            "minus the probability",
            lambda logps, mask: -logps[mask.bool()].exp().mean(),
            "You average probabilities. An answer's probability is a product over its tokens, so it is the "
            "logarithms that add up, and logps holds them already.",
        ),
        Mistake(
            "no mean",
            lambda logps, mask: -logps[mask.bool()],
            "One number for each token is right so far. Training needs one number for the batch.",
        ),
        Mistake(
            "the mask turned round",
            lambda logps, mask: -logps[~mask.bool()].mean(),
            "Yours is the loss of the tokens that do not count, prompt and padding. mask is 1 on those that do.",
        ),
        Mistake(
            "mean over padding",
            lambda logps, mask: -logps.masked_fill(~mask.bool(), 0).mean(),
            "You sum over the right tokens and divide by all positions. Then the same answer costs less "
            "when its neighbour is longer: what should the sum be divided by?",
        ),
        Mistake(
            "mask ignored",
            lambda logps, mask: -logps.mean(),
            "The prompt and the padding are counted too. Multiply nothing by hope: which argument says what counts?",
        ),
        Mistake(
            "mean of rows' means",
            lambda logps, mask: -(logps.masked_fill(~mask.bool(), 0).sum(1) / mask.sum(1).clamp(min=1)).mean(),
            "You average each row first. Then a token of a short answer counts for more than one of a "
            "long answer. The SFT loss gives every token the same weight.",
        ),
        Mistake(
            "sum",
            lambda logps, mask: -logps[mask.bool()].sum(),
            "A sum grows with the batch: twice the rows, twice the step. What makes it nats per token?",
        ),
        Mistake(
            "sum of log-probabilities, mean over rows",
            lambda logps, mask: -logps.masked_fill(~mask.bool(), 0).sum(1).mean(),
            "You sum over tokens and average over rows, so long answers weigh more in every step. The "
            "SFT loss is a mean over tokens.",
        ),
        Mistake(
            "mask multiplied",
            lambda logps, mask: -(logps * mask).sum() / mask.sum(),
            "Right, until padding holds −∞ or NaN: 0 times either is NaN. Choose the tokens, or "
            "overwrite the rest, rather than multiply by 0.",
        ),
        Mistake(
            "mask as indices",
            lambda logps, mask: -logps[mask].mean(),
            'Your mask picks rows by number when it holds whole numbers: 0 and 1 are read as "row 0" and '
            '"row 1". What turns them into yes and no?',
        ),
    ],
    hints=[
        "Make the demonstrated tokens likely: the loss is how unlikely they are, −log p, on average.",
        "On average over the tokens that count: their sum divided by how many there are, over the whole batch.",
        "Indexing with a bool mask, logps[mask.bool()], leaves just those tokens, whatever the padding holds.",
        "return -logps[mask.bool()].mean()",
    ],
    reason="The loss is the mean of −log p over completion tokens, all rows together, so that every "
    "token counts the same. Selecting with a bool mask never looks at padding; multiplying by 0 "
    "does, and 0 × NaN is NaN, in the gradient too.",
)

EXERCISES = [_LOG_SOFTMAX, _COMPLETION_MASK, _SFT_LOSS]
