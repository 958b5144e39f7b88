"""Attention maps as operators on class scores: normalised, thresholded, chained, and never all in
memory.

The released code forms the chain A_1 A_2 ... A_M of normalised N x N maps and multiplies the scores
with it. Applied from right to left the maps only ever meet an N x K matrix; made row tile by row
tile from queries and keys at most one exists as a whole, and of many tokens none. Both give the
same result. Shapes: M maps, N tokens, d head dimension, K classes. Source: CLIPer (ICCV 2025) and
its released code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FUSIONS = ("SFSA", "mean", "selection")
EPS = 1e-5
KEPT = 2**25
"""Entries of a map that is kept while it is applied, rather than made twice: 128 MiB, one map at a
time.
"""


@dataclass(frozen=True)
class FuseOptions:
    """How several maps become one operator.

    Attributes:
        fusion: "SFSA" (the product of all, the first one outermost), "mean" of all, or "selection"
            of one.
        index: the map of "selection".
        threshold: entries below this share of their column's largest are cut, 0..1.
    Raises:
        ValueError: an unknown fusion, or a threshold outside 0..1.
    """

    fusion: str = "SFSA"
    index: int = 1
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(
                f"MODEL.CLIPER.REFINER.FUSION: got {self.fusion!r}, expected one of {list(FUSIONS)}"
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"MODEL.CLIPER.REFINER.THRESHOLD: got {self.threshold}, expected 0 to 1"
            )


class AttentionMaps(ABC):
    """M maps over the N tokens of a grid (h, w), read in tiles of rows.

    Args:
        count: M. grid: (h, w).
        tile: entries of a tile. In memory are a few tiles, and one map if it has no more than
            ``KEPT`` entries.
    """

    def __init__(
        self, count: int, grid: tuple[int, int], device: torch.device, tile: int | None = None
    ) -> None:
        self.count, self.grid, self.tokens = count, grid, grid[0] * grid[1]
        if tile is None:  # a tile that stays in a processor's cache, or one that fills a GPU
            tile = 2**26 if device.type == "cuda" else 2**20
        self.step = max(1, tile // self.tokens)

    @abstractmethod
    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows of a map: (which, (t, N))."""

    def apply(self, scores: Tensor, options: FuseOptions) -> Tensor:
        """The fused operator times the scores (N, K).

        Raises:
            ValueError: "selection" of a map that does not exist.
        """
        if options.fusion == "SFSA":
            for index in reversed(range(self.count)):
                scores = self.apply_one(index, scores, options.threshold)
            return scores
        if options.fusion == "mean":
            return torch.stack(
                [self.apply_one(i, scores, options.threshold) for i in range(self.count)]
            ).mean(dim=0)
        if not 0 <= options.index < self.count:
            raise ValueError(
                f"MODEL.CLIPER.REFINER.INDEX: got {options.index}, expected 0 to {self.count - 1}"
            )
        return self.apply_one(options.index, scores, options.threshold)

    def apply_one(self, index: int, scores: Tensor, threshold: float) -> Tensor:
        """One normalised map times the scores (N, K).

        Columns are divided by their largest entry, entries below the threshold cut, rows divided by
        their sum. A column of ones behind the scores makes the row sums come out of the same
        product.
        """
        kept = list(self.tiles(index)) if self.tokens**2 <= KEPT else None
        scale = 1 / (_column_maxima(kept or self.tiles(index)) + EPS)
        padded = torch.cat([scores, scores.new_ones(len(scores), 1)], dim=1)
        below = _just_below(threshold)
        result = torch.empty_like(padded)
        buffer = scale.new_empty(min(self.step, self.tokens), self.tokens)
        for rows, tile in kept or self.tiles(index):
            scaled = torch.mul(tile, scale, out=buffer[: len(tile)])
            if below is not None:
                F.threshold(scaled, below, 0.0, inplace=True)
            torch.mm(scaled, padded, out=result[rows])
        return result[:, :-1] / (result[:, -1:] + EPS)


class GivenMaps(AttentionMaps):
    """Maps (M, N, N) that exist: softmax probabilities, rows are queries. They are not changed."""

    def __init__(self, maps: Tensor, grid: tuple[int, int], tile: int | None = None) -> None:
        super().__init__(len(maps), grid, maps.device, tile)
        self.maps = maps

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.tokens, self.step):
            rows = slice(start, min(start + self.step, self.tokens))
            yield rows, self.maps[index, rows]


class StreamedMaps(AttentionMaps):
    """Maps ``softmax(scale q k^T)`` made from queries and keys, a tile of rows at a time, in
    float32.

    Args:
        queries, keys: M tensors (N, d) each.
        scales: M factors.
    """

    def __init__(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        scales: list[float],
        grid: tuple[int, int],
        tile: int | None = None,
    ) -> None:
        super().__init__(len(queries), grid, queries[0].device, tile)
        self.queries, self.keys, self.scales = queries, keys, scales

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        q, k = (
            self.queries[index].float() * self.scales[index],
            self.keys[index].float().T.contiguous(),
        )
        for start in range(0, self.tokens, self.step):
            rows = slice(start, min(start + self.step, self.tokens))
            # float32 under autocast, too
            logits = torch.mm(q[rows], k, out=q.new_empty(rows.stop - start, self.tokens))
            yield rows, logits.softmax(dim=1)


def _column_maxima(tiles: Iterable[tuple[slice, Tensor]]) -> Tensor:
    """Largest entry of each column (N,) over tiles of rows (t, N)."""
    best: Tensor | None = None
    for _, tile in tiles:
        top = tile.amax(dim=0)
        best = top if best is None else torch.maximum(best, top)
    assert best is not None
    return best


def _just_below(threshold: float) -> float | None:
    """The float32 before a threshold, so that "not above it" means "below the threshold"; None for
    a threshold of 0.
    """
    if threshold <= 0:
        return None
    value = torch.tensor(threshold, dtype=torch.float32)
    return torch.nextafter(value, torch.zeros(())).item()
