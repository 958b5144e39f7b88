"""Work in independent pieces on a CPU: a piece for each core, rather than all cores for every step
of each piece.

Steps of a millisecond wait for the slower core at each end, and leave what one core needs next in
the cache of another.
"""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier, Lock
from typing import Any

import torch
from torch import Tensor


def in_pieces(function: Callable[..., Any], most: int, *tensors: Tensor) -> None:
    """Call ``function`` with pieces of tensors of the same second dimension, cut there, without
    gradients.

    On a CPU as many calls run at a time as torch has threads, with one thread each, if there is
    enough for all of them; else one call at a time has all threads.

    Args:
        function: may change its pieces. What it returns is dropped; what it raises is raised when
            no call runs any more.
        most: of the second dimension, how much may be in work at a time, >= 1.
    """
    length, device = tensors[0].shape[1], tensors[0].device
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if min(length, most) < threads:
        threads = 1
    rounds = -(-length // (most // threads * threads))
    pieces = zip(
        *(tensor.tensor_split(min(length, rounds * threads), dim=1) for tensor in tensors),
        strict=True,
    )
    inference = torch.is_inference_mode_enabled()
    mixed, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    # with the modes of the caller, which are a thread's own
    def run(piece: tuple[Tensor, ...]) -> None:
        with (
            torch.inference_mode(inference),
            torch.no_grad(),
            # with the cache, one that compiles and one that ends may wait for each other's locks
            torch.autocast(device.type, dtype, enabled=mixed, cache_enabled=False),
        ):
            function(*piece)

    if threads == 1:
        for piece in pieces:
            run(piece)
        return
    with _lock:
        pool = _pool(threads)
    calls = [pool.submit(run, piece) for piece in pieces]
    try:
        wait(calls, return_when=FIRST_EXCEPTION)
    finally:
        for call in calls:
            call.cancel()
        wait(calls)
    for call in calls:
        if not call.cancelled():
            call.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads that compute with one core each."""
    begun = Barrier(threads + 1)

    def begin() -> None:
        # of this thread, and of those that begin later, until the number is set again below
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread takes the number over
        begun.wait()

    pool = ThreadPoolExecutor(threads, "hyperclip")
    try:
        for _ in range(threads):
            pool.submit(begin)
        begun.wait()
    except BaseException:
        begun.abort()
        raise
    finally:
        torch.set_num_threads(threads)
    return pool


def _forget() -> None:
    """In a forked child, which has none of the threads."""
    global _lock
    _lock = Lock()
    _pool.cache_clear()


_lock = Lock()
os.register_at_fork(after_in_child=_forget)
