"""The obvious way to refine with attention maps: whole maps, a chain of N x N products, then the
scores; and whole maps that CLIPer's operator reads like its own.

Shapes: M maps, N tokens, T classes, d numbers of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from cliper.affinity import StreamedMaps
from torch import Tensor


class GivenMaps(StreamedMaps):
    """Maps (M, N, N) that exist: softmax probabilities, rows are queries. They are not changed."""

    def __init__(self, maps: Tensor, grid: tuple[int, int], tile: int | None = None) -> None:
        super().__init__(list(maps), [], [], grid, tile)

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        return ((rows, self.queries[index][rows]) for rows in self.slices)


def attention_maps(queries: list[Tensor], keys: list[Tensor], scales: list[float]) -> Tensor:
    """Softmax probabilities (M, N, N) of M pairs of queries and keys (N, d)."""
    return torch.stack(
        [(s * q @ k.T).softmax(dim=-1) for q, k, s in zip(queries, keys, scales, strict=True)]
    )


def normalise(maps: Tensor, threshold: float) -> Tensor:
    """Divide columns by their maxima, cut what is below the threshold, divide rows by their
    sums.
    """
    maps = maps / (maps.max(dim=1, keepdim=True).values + 1e-5)
    maps = torch.where(maps < threshold, 0.0, maps)
    return maps / (maps.sum(dim=2, keepdim=True) + 1e-5)


def refine(
    maps: Tensor, scores: Tensor, threshold: float, fusion: str = "SFSA", index: int = 1
) -> Tensor:
    """The fused operator, as one N x N matrix, times the scores (N, T)."""
    maps = normalise(maps, threshold)
    if fusion == "mean":
        return maps.mean(dim=0) @ scores
    if fusion == "selection":
        return maps[index] @ scores
    product = torch.eye(maps.shape[1], dtype=maps.dtype, device=maps.device)
    for one in maps:
        product = product @ one
    return product @ scores
