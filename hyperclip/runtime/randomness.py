"""Random numbers of Python, NumPy and torch: seeded for a while, kept, saved and set."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def kept_random_state(gpu: bool = True) -> Iterator[None]:
    """What happens inside changes no random number outside, with ``gpu`` none of the GPU's, too."""
    state = random_state(gpu)
    try:
        yield
    finally:
        set_random_state(state)


@contextlib.contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Like :func:`kept_random_state`, on the CPU, with random numbers of the seed alone inside."""
    words = np.random.SeedSequence(seed).generate_state(3)
    with kept_random_state(gpu=False):
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed GPUs, too
        yield


def random_state(gpu: bool = True) -> dict[str, Any]:
    """State of all random numbers here, in types that ``torch.load(weights_only=True)`` reads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    numbers = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
    state = {"python": random.getstate(), "numpy": numbers, "torch": torch.get_rng_state()}
    gpu = gpu and torch.cuda.is_available()
    return state | ({"cuda": torch.cuda.get_rng_state()} if gpu else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what :func:`random_state` gave."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
