"""How much faster `rlhf_course.generation.generate` is than transformers' `model.generate`.

Both sides sample from the same model. Greedy outputs are compared first: a faster loop with other tokens counts for
nothing.

At a fixed length that is an untrained tiny model. Real stop lengths are the small world's: the shipped SFT model
answers prompts of the world. `model.generate` decodes every row until the last one stops.
"""

from functools import partial

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.parity import NotTheSame
from benchmarks.race import OURS, Result, race, seconds_of
from rlhf_course.data.collators import collate_prompts
from rlhf_course.data.tokenize import tokenize_prompts
from rlhf_course.evaluation import draw_prompts
from rlhf_course.generation import generate
from rlhf_course.models import load_policy
from rlhf_course.models.tiny import tiny_config

PAD, VOCABULARY = (getattr(tiny_config(), name) for name in ("pad_token_id", "vocab_size"))
PROMPT, LONGEST = 6, 48
GENERATE = "model.generate"

#: For SmolLM2: answers to some are short, to others longer than `LONGEST` tokens.
QUESTIONS = (
    "What is the capital of France?",
    "Is the sun a star? Answer yes or no.",
    "Name three colours.",
    "How many days has a week?",
    "Why is the sky blue?",
    "Say hello in Spanish.",
    "What do bees make?",
    "Write a sentence about the sea.",
)


def config() -> LlamaConfig:
    """The tiny model's, but that nothing ends a completion."""
    course = tiny_config()
    course.eos_token_id = None
    return course


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
    """Race the samplers on tiny models: at a fixed length, with padded prompts, and to real stop lengths.

    Raises:
        NotTheSame: greedy outputs differ.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(config()).eval()
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
                GENERATE: lambda: theirs(model, ids, mask, tokens),
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
                GENERATE: lambda: theirs(model, ids, padded, tokens),
                OURS: lambda: ours(model, ids, padded, tokens),
            },
        ),
        *_to_real_stop_lengths("tiny", "tiny-sft", draw_prompts(rows, 0), rounds),
    ]


def run_smollm2(rounds: int) -> list[Result]:
    """Race the samplers on SmolLM2-135M: questions as a chat, to real stop lengths."""
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return _to_real_stop_lengths("smollm2", "smollm2-135m", chats, rounds)


def _to_real_stop_lengths(label: str, name: str, prompts: list, rounds: int) -> list[Result]:
    model, tokenizer = load_policy(name, "cpu")
    rows = tokenize_prompts([{"prompt": prompt} for prompt in prompts], tokenizer, max_length=100)
    batch = collate_prompts(rows, tokenizer.pad_token_id)
    ids, mask, stop = batch["input_ids"], batch["attention_mask"], tokenizer.eos_token_id
    samplers = {
        GENERATE: lambda: theirs(model, ids, mask, LONGEST, stop),
        OURS: lambda: ours(model, ids, mask, LONGEST, stop),
    }
    return _race(f"sampling, {label}, {len(ids)} rows to real stop lengths", rounds, samplers)


def _race(case: str, rounds: int, samplers: dict) -> list[Result]:
    return race(case, {side: partial(seconds_of, sample) for side, sample in samplers.items()}, rounds)
