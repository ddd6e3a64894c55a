"""How much faster `rlhf_course.generation.generate` is than transformers' `model.generate`.

Both sides sample from the same untrained tiny model. Greedy outputs are compared first: a faster loop with other tokens
counts for nothing.

Real stop lengths come from the model itself: in `StoppingModel` the probability of the stop token depends on
how many tokens came before, so that lengths are like the small world's (mean 21, 99th percentile 43, at most
48). `model.generate` decodes every row until the last one stops.
"""

import statistics
from functools import partial
from itertools import pairwise

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.parity import NotTheSame
from benchmarks.race import OURS, Result, race, seconds_of
from rlhf_course.generation import generate
from rlhf_course.models.tiny import tiny_config

PAD, STOP, VOCABULARY = (getattr(tiny_config(), name) for name in ("pad_token_id", "eos_token_id", "vocab_size"))
PROMPT, LONGEST = 6, 48
MEAN_LENGTH, LENGTH_SD = 21.0, 9.5


def config() -> LlamaConfig:
    """The tiny model's, but that nothing ends a completion unless a case asks for it."""
    course = tiny_config()
    course.eos_token_id = None
    return course


class StoppingModel(LlamaForCausalLM):
    """A tiny model whose completions stop at normally distributed lengths, cut off at `LONGEST`."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        normal = statistics.NormalDist(MEAN_LENGTH, LENGTH_SD)
        longer = [1 - normal.cdf(n) for n in range(LONGEST + 1)]
        hazard = torch.tensor([1 - after / before for before, after in pairwise(longer)])
        # Every other token of the untrained model is about equally likely.
        self.stop_logits = torch.special.logit(hazard) + torch.log(torch.tensor(VOCABULARY - 1.0))
        self.stop_logits[-1] = 100.0

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        cache = kwargs["cache"] if "cache" in kwargs else kwargs["past_key_values"]
        output.logits[..., STOP] = self.stop_logits[cache.get_seq_length() - PROMPT]
        return output


def theirs(model, ids, mask, tokens, stop=None, **options):
    """transformers: plain sampling (no top-k cut) unless `options` say otherwise."""
    settings = dict(max_new_tokens=tokens, eos_token_id=stop, pad_token_id=PAD)
    if options.get("do_sample", True):
        settings |= dict(do_sample=True, top_k=0)
    return model.generate(input_ids=ids, attention_mask=mask, **{**settings, **options})


def theirs_with_logps(model, ids, mask, tokens):
    """transformers, with the log-probability of each token, which `generate` always gives."""
    out = theirs(model, ids, mask, tokens, output_logits=True, return_dict_in_generate=True)
    logps = torch.log_softmax(torch.stack(out.logits, dim=1).float(), dim=-1)
    return logps.gather(2, out.sequences[:, ids.shape[1] :, None])


def ours(model, ids, mask, tokens, stop=None, temperature=1.0):
    settings = dict(max_new_tokens=tokens, eos_token_id=stop, pad_token_id=PAD)
    return generate(model, ids, mask, temperature=temperature, **settings)


def check_same_tokens(model, ids, mask, tokens) -> None:
    """Refuse two samplers that do not even agree where nothing is left to chance."""
    mine = ours(model, ids, mask, tokens, temperature=0).sequences
    if not torch.equal(mine, theirs(model, ids, mask, tokens, do_sample=False)):
        raise NotTheSame("greedy outputs of our sampler and of model.generate differ")


def run(rounds: int, rows: int = 64, tokens: int = 40) -> list[Result]:
    """Race the samplers: at a fixed length, with padded prompts, and to real stop lengths.

    Raises:
        NotTheSame: greedy outputs differ.
    """
    torch.manual_seed(0)
    model, stopping = LlamaForCausalLM(config()).eval(), StoppingModel(config()).eval()
    ids = torch.randint(5, VOCABULARY, (rows, PROMPT))
    mask = torch.ones_like(ids)
    padded = mask.clone()
    padded[::2, :2] = 0
    for prompts in (mask, padded):
        check_same_tokens(model, ids, prompts, tokens)
    static = {"cache_implementation": "static", "disable_compile": True}
    return [
        *_race(
            f"sampling, tiny, {rows} x {tokens}",
            rounds,
            {
                "model.generate": lambda: theirs(model, ids, mask, tokens),
                "model.generate, its default top-k": lambda: theirs(model, ids, mask, tokens, top_k=50),
                "model.generate, static cache": lambda: theirs(model, ids, mask, tokens, **static),
                "model.generate and log-probabilities": lambda: theirs_with_logps(model, ids, mask, tokens),
                OURS: lambda: ours(model, ids, mask, tokens),
            },
        ),
        *_race(
            f"sampling, tiny, {rows} x {tokens}, half the prompts padded",
            rounds,
            {
                "model.generate": lambda: theirs(model, ids, padded, tokens),
                OURS: lambda: ours(model, ids, padded, tokens),
            },
        ),
        *_race(
            f"sampling, tiny, {rows} rows to real stop lengths",
            rounds,
            {
                "model.generate": lambda: theirs(stopping, ids, mask, LONGEST, STOP),
                OURS: lambda: ours(stopping, ids, mask, LONGEST, STOP),
            },
        ),
    ]


def _race(case: str, rounds: int, samplers: dict) -> list[Result]:
    return race(case, {side: partial(seconds_of, sample) for side, sample in samplers.items()}, rounds)
