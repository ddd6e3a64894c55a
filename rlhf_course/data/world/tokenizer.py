"""The world's tokenizer: one token a word, in the format of every other tokenizer of `transformers`."""

from functools import lru_cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from rlhf_course.data.world.grammar import vocabulary


@lru_cache(maxsize=1)
def world_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the world's vocabulary. Pad and end differ; no special token is added by itself."""
    ids = {token: i for i, token in enumerate(vocabulary())}
    backend = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        sep_token="<sep>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
