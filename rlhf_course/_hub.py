"""The Hugging Face Hub without long waits: a short look whether it is there, else its cache."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from transformers.utils import logging

_TIMEOUT_SECONDS = 3.0


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Inside the `with`, libraries of Hugging Face use the Hub if it answers, and else only what is cached.

    Left alone, they try for half a minute to reach a Hub that is not there. Yields whether the Hub answers.
    Offline mode (`HF_HUB_OFFLINE=1`) is respected.
    """
    online = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not online
    try:
        yield online
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet_loading(progress_bar: bool = False) -> Iterator[None]:
    """Inside the `with`, transformers shows no bars (unless wanted, for downloads) and no warnings.

    What matters in them, weights that are missing, is checked and raised where models are loaded.
    """
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bar and not progress_bar:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _answers(address: str) -> bool:
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # an answer, if an unkind one
    except (OSError, ValueError):
        return False
