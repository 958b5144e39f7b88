"""Work in independent pieces on a CPU: a piece for each core, rather than all cores for every step of each piece.

Steps of a millisecond wait for the slower core at each end, and leave what one core needs next in the cache of another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch import Tensor


def in_pieces(function: Callable[..., Any], most: int, *tensors: Tensor) -> None:
    """Call ``function`` with pieces of tensors of the same second dimension, cut there, without gradients.

    On a CPU as many calls run at a time as torch has threads, with one thread each.

    Args:
        function: may change its pieces; what it returns is dropped, what it raises is raised.
        most: of the second dimension, how much is in work at a time, >= 1.
    """
    length, device = tensors[0].shape[1], tensors[0].device
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    count = min(length, -(-length // most) * threads)
    pieces = zip(*(tensor.tensor_split(count, dim=1) for tensor in tensors), strict=True)
    inference = torch.is_inference_mode_enabled()
    mixed, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    def run(piece: tuple[Tensor, ...]) -> None:  # with the modes of the caller, which are a thread's own
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast(device.type, dtype, enabled=mixed):
            function(*piece)

    for _ in map(run, pieces) if threads == 1 else _pool(threads).map(run, pieces):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads that compute with one core each."""
    begun = Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # of this thread, and of those that begin later: hence what follows the barrier
        torch.get_num_threads()  # the first call in a thread takes the number over
        begun.wait()

    pool = ThreadPoolExecutor(threads, "hyperclip")
    for _ in range(threads):
        pool.submit(begin)
    begun.wait()
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
