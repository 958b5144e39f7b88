"""How much is handled at a time, and what becomes of the memory afterwards."""

import contextlib
import ctypes
import os
import re
from pathlib import Path

import torch

from .compat import peak_resident_bytes

CACHED = 5 * 2**18
"""Entries of a tensor for which a core does not wait long."""
ALIVE = 16
"""Tensors of a step's largest size that may be alive together."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


def items_at_a_time(entries: int, device: torch.device) -> int:
    """How many items of a step, each with so many float32 entries in its largest tensor, are to be
    handled together, >= 1.

    As many as stay in the caches of a CPU's cores, or as fit into a GPU's free memory.
    """
    limit = CACHED * torch.get_num_threads()
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        limit = (torch.cuda.mem_get_info(device)[0] + unused) // (4 * ALIVE)
    return max(1, limit // entries)


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of at most 32 MB for its next tensors, up to 1 GB in each
    of the allocator's arenas.

    Returns False where that cannot be set. By itself glibc gives such memory back to the system
    after many a step, and gets it again page by page, filled with zeros.
    """
    try:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # Windows has no such handle
        return False
    return mallopt is not None and bool(
        mallopt(M_MMAP_THRESHOLD, 2**25) and mallopt(M_TRIM_THRESHOLD, 2**30)
    )


def give_back_freed_memory() -> bool:
    """Return freed memory to the system, that of :func:`keep_freed_memory` too; False where that
    cannot be asked for, or nothing was left to return.
    """
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no such handle
        return False
    return trim is not None and bool(trim(0))


def forget_peak(device: torch.device) -> None:
    """Have :func:`peak_bytes` count from now on, where the system can do so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux lets a process clear its own high-water mark
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    """RAM of this process now; its most so far where the system does not say."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return peak_resident_bytes()
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """Most memory in use so far: torch's on a CUDA device, else the RAM of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    peak = re.search(r"^VmHWM:\s*(\d+)", status.read_text(), re.M) if status.is_file() else None
    return int(peak[1]) * 1024 if peak else peak_resident_bytes()
