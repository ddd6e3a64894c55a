"""The tiny model: a Llama of the small world, small enough to train on a laptop in seconds."""

from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_course.data.world.tokenizer import world_tokenizer
from rlhf_course.seeding import seed_all

#: The checkpoints that ship with the package, in the order in which the pipeline makes them.
TINY_MODELS = ("tiny-base", "tiny-sft", "tiny-reward", "tiny-ppo", "tiny-dpo")

_CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def tiny_checkpoint(name: str) -> Path:
    """The folder of a shipped checkpoint. Raises ValueError for a name that is not one of `TINY_MODELS`."""
    if name not in TINY_MODELS:
        raise ValueError(f"no tiny model is called {name!r}; there are {', '.join(TINY_MODELS)}")
    return _CHECKPOINTS / name


def tiny_config() -> LlamaConfig:
    """Llama's architecture at the size of the small world, with the world's vocabulary."""
    tokenizer = world_tokenizer()
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def new_tiny_model(seed: int) -> LlamaForCausalLM:
    """An untrained tiny model, its weights drawn from the stream `("weights",)` under `seed`."""
    seed_all(seed, "weights")
    return LlamaForCausalLM(tiny_config())
