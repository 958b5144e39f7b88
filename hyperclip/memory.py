"""How much is handled at a time: what stays in a processor's cache, or what fits into a GPU's free memory."""

from __future__ import annotations

import torch

CACHED = 2**21
"""Entries of a tensor for which a CPU does not wait long."""
ALIVE = 16
"""Tensors of a step's largest size that may be alive together."""


def items_at_a_time(entries: int, device: torch.device) -> int:
    """How many items of a step, each with so many float32 entries in its largest tensor, are to be handled together, >= 1.

    As many as stay in a CPU's cache, or as fit into a GPU's free memory.
    """
    limit = CACHED
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        limit = (torch.cuda.mem_get_info(device)[0] + unused) // (4 * ALIVE)
    return max(1, limit // entries)
