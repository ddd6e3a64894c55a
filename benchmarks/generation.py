"""How much faster `rlhf_course.generation.generate` is than transformers' `model.generate`.

Run it as `python -m benchmarks.generation`. Both sides sample from the same untrained tiny model, one after
the other in every round, so that whatever else the machine does slows both. Printed are each side's median
time and the median over rounds of its ratio to ours. Greedy outputs are compared first: a faster loop with
other tokens counts for nothing.

Real stop lengths come from the model itself: in `StoppingModel` the probability of the stop token depends on
how many tokens came before, so that lengths are like the small world's (mean 21, 99th percentile 43, at most
48). `model.generate` decodes every row until the last one stops.
"""

import statistics
import time
from itertools import pairwise

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

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


def check_parity(model, ids, mask) -> None:
    mine = ours(model, ids, mask, 40, temperature=0).sequences
    if not torch.equal(mine, theirs(model, ids, mask, 40, do_sample=False)):
        raise click.ClickException("greedy outputs differ, so there is nothing to compare")


def race(title: str, rounds: int, runners: dict) -> None:
    """Run everybody once a round and print medians, and ratios to the last runner, which is ours."""
    times = {name: [] for name in runners}
    for round_number in range(rounds + 1):
        for name, run in runners.items():
            torch.manual_seed(round_number)
            start = time.perf_counter()
            run()
            if round_number > 0:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - start))
    click.echo(title)
    *_, last = runners
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times[last]))
        click.echo(f"  {name:<44}{statistics.median(taken):8.1f} ms   {ratio:5.2f}")


@click.command(help="Time sampling against transformers' model.generate.")
@click.option("--rounds", default=15, show_default=True, help="Alternating rounds.")
@click.option("--threads", default=1, show_default=True, help="CPU threads torch may use.")
def main(rounds: int, threads: int) -> None:
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, stopping = LlamaForCausalLM(config()).eval(), StoppingModel(config()).eval()
    ids = torch.randint(5, VOCABULARY, (64, PROMPT))
    mask = torch.ones_like(ids)
    padded = mask.clone()
    padded[::2, :2] = 0
    for greedy_mask in (mask, padded):
        check_parity(model, ids, greedy_mask)
    click.echo(f"Greedy outputs agree. {threads} thread(s); each line: median time, and its ratio to ours.")

    race(
        "64 rows x 40 tokens",
        rounds,
        {
            "model.generate": lambda: theirs(model, ids, mask, 40),
            "model.generate, its default top-k": lambda: theirs(model, ids, mask, 40, top_k=50),
            "model.generate, static cache": lambda: theirs(
                model, ids, mask, 40, cache_implementation="static", disable_compile=True
            ),
            "model.generate and log-probabilities": lambda: theirs_with_logps(model, ids, mask, 40),
            "ours": lambda: ours(model, ids, mask, 40),
        },
    )
    race(
        "64 rows x 40 tokens, half the prompts padded",
        rounds,
        {
            "model.generate": lambda: theirs(model, ids, padded, 40),
            "ours": lambda: ours(model, ids, padded, 40),
        },
    )
    for rows in (64, 256):
        many, many_mask = ids.repeat(rows // 64, 1), mask.repeat(rows // 64, 1)
        lengths = ours(stopping, many, many_mask, LONGEST, STOP).completion_mask.sum(dim=1)
        race(
            f"{rows} rows to real stop lengths (mean {lengths.float().mean():.1f}, longest {lengths.max()})",
            rounds,
            {
                "model.generate": lambda ids=many, mask=many_mask: theirs(stopping, ids, mask, LONGEST, STOP),
                "ours": lambda ids=many, mask=many_mask: ours(stopping, ids, mask, LONGEST, STOP),
            },
        )


if __name__ == "__main__":
    main()
