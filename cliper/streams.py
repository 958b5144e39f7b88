"""Two pieces of work on one GPU at a time, each of which alone leaves some of it idle."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(
    device: torch.device, first: Callable[[], A], second: Callable[[], B]
) -> tuple[A, B]:
    """``(first(), second())``, which on a GPU do not wait for each other; elsewhere one after the
    other.

    ``first`` is launched first, so it should be the longer one. What it gives may be used and freed
    as any tensor of the current stream: the memory is not given away before a later call, which
    waits for all that was launched until then.

    Args:
        first, second: neither uses what the other makes, and neither asks for results on the CPU if
            they are to overlap.
    """
    if device.type != "cuda":
        return first(), second()
    side, current = _side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        one = first()
    other = second()
    current.wait_stream(side)
    return one, other


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Always the same: the allocator keeps freed memory for the stream that asked for it."""
    return torch.cuda.Stream(device)
