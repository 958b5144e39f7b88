"""The nearest of many unit vectors by their cosine, exact: in torch, and by faiss where they are
many.

Shapes: M vectors, Q queries, K neighbours, C embedding.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.extras import how_to_install

EXACT = 100_000
"""So many vectors are searched by torch, more by faiss, which finds the same."""
AT_A_TIME = 2**24
"""Cosines that are in memory together: 64 MB."""
INSTALL = how_to_install("bank")
"""What brings faiss."""


class Neighbours(nn.Module):
    """Searches unit vectors, float32 (M, C), which stay on the module's device; the index of faiss,
    which has a copy of them, is on the CPU.

    Raises:
        ValueError: more vectors than ``EXACT``, and faiss is not installed.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.contiguous(), persistent=False)
        self._index = _faiss_index(vectors) if len(vectors) > EXACT else None

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Tensor, count: int) -> Tensor:
        """Indices (Q, K) of the ``count`` nearest vectors of queries (Q, C), nearest first; of all
        of them if there are fewer.
        """
        count = min(count, len(self))
        if self._index is not None:
            found = self._index.search(queries.detach().cpu().numpy(), count)[1]
            return torch.from_numpy(found).to(queries.device)
        step = max(1, AT_A_TIME // max(len(self), 1))
        parts = [(q @ self.vectors.T).topk(count).indices for q in queries.split(step)]
        return torch.cat(parts) if parts else queries.new_empty(0, count, dtype=torch.int64)

    def means(self, queries: Tensor, count: int) -> Tensor:
        """The unit mean (Q, C) of the nearest vectors of queries (Q, C)."""
        found = self.search(queries, count)
        return F.normalize(self.vectors[found].mean(dim=1), dim=-1)


def _faiss_index(vectors: Tensor) -> Any:
    if importlib.util.find_spec("faiss") is None:
        raise ValueError(
            f"TEST.BANK.FILE: got a bank of {len(vectors)} regions, expected {EXACT} at most, "
            f"since faiss, which searches more, is not installed: {INSTALL}"
        )
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.cpu().numpy())
    return index
