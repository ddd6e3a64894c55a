"""Named, independent random streams.

Every source of chance in the course (prompts, sampling, labels, the order of batches, ...) draws from a stream of
its own, named by words. Two streams with different names are independent; the same name and seed give the same
numbers on every machine. One shared stream would tie unlike things together: in a prototype, drawing the order of a
pair and its noisy label from one generator made the labels right 89 % of the time instead of 80 %.
"""

import hashlib

import numpy as np
import torch


def _derive(seed: int, names: tuple) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `names` under `seed`."""
    return np.random.default_rng(_derive(seed, names))


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU torch generator for the stream called `names` under `seed`."""
    return torch.Generator().manual_seed(_derive(seed, names))


def seed_all(seed: int, *names: str | int) -> None:
    """Seed torch's global generators (dropout, new layers) from the stream called `names`."""
    torch.manual_seed(_derive(seed, names))
