"""Attention maps as operators on class scores, without all maps in memory.

The released code multiplies M normalised N x N maps with each other, then with the scores. Here
they are applied from right to left, so that each meets an N x T matrix only, and they are made from
queries and keys a tile of rows at a time. The result is the same. Shapes: M maps, N tokens, d head
dimension, T classes. Source: CLIPer (ICCV 2025) and its released code.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import CLIPER_RULES

EPS = 1e-5
KEPT = 2**25
"""A map of at most so many entries (128 MiB) is kept while it is applied, others are made twice."""


@dataclass(frozen=True)
class FuseOptions:
    """How several maps become one operator; MODEL.CLIPER.REFINER's keys of the same names explain
    it. ValueError for a value that its key may not have, or a threshold that is no share.
    """

    fusion: str
    index: int
    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:  # the key may also be -1
            got = f"got {self.threshold}, expected 0 to 1"
            raise ValueError(f"MODEL.CLIPER.REFINER.THRESHOLD: {got}")
        CLIPER_RULES.require("MODEL.CLIPER.REFINER.", vars(self))

    def check_index(self, count: int) -> None:
        """ValueError for the "selection" of a map that ``count`` maps do not have."""
        if self.fusion == "selection" and not 0 <= self.index < count:
            raise ValueError(
                f"MODEL.CLIPER.REFINER.INDEX: got {self.index}, expected 0 to {count - 1}"
            )


class StreamedMaps:
    """Maps ``softmax(scale q k^T)`` in float32 over the N tokens of a grid (h, w), made from M
    queries and keys (N, d), and scales, in tiles of rows.

    Args:
        tile: entries of a tile; in memory are a few tiles, or one map of up to ``KEPT`` entries.
    """

    def __init__(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        scales: list[float],
        grid: tuple[int, int],
        tile: int | None = None,
    ) -> None:
        self.queries, self.keys, self.scales, self.grid = queries, keys, scales, grid
        self.count, self.tokens = len(queries), grid[0] * grid[1]
        if tile is None:  # a tile that stays in a processor's cache, or one that fills a GPU
            tile = 2**26 if queries[0].device.type == "cuda" else 2**20
        self.step = max(1, tile // self.tokens)
        starts = range(0, self.tokens, self.step)
        self.slices = [slice(i, min(i + self.step, self.tokens)) for i in starts]

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and these rows (t, N) of a map, tile by tile."""
        q = self.queries[index].float() * self.scales[index]
        k = self.keys[index].float().T.contiguous()
        for rows in self.slices:
            out = q.new_empty(rows.stop - rows.start, self.tokens)  # float32 under autocast, too
            yield rows, torch.mm(q[rows], k, out=out).softmax(dim=1)

    def apply(self, scores: Tensor, options: FuseOptions) -> Tensor:
        """The fused operator times the scores (N, T); ValueError without the selected map."""
        if options.fusion == "SFSA":
            for index in reversed(range(self.count)):
                scores = self.apply_one(index, scores, options.threshold)
            return scores
        if options.fusion == "mean":
            results = [self.apply_one(i, scores, options.threshold) for i in range(self.count)]
            return torch.stack(results).mean(dim=0)
        options.check_index(self.count)
        return self.apply_one(options.index, scores, options.threshold)

    def apply_one(self, index: int, scores: Tensor, threshold: float) -> Tensor:
        """One map times the scores (N, T): columns are divided by their largest entry, entries
        below the threshold are cut, rows are divided by their sum.
        """
        kept = list(self.tiles(index)) if self.tokens**2 <= KEPT else None
        maxima = [tile.amax(dim=0) for _, tile in kept or self.tiles(index)]
        scale = 1 / (torch.stack(maxima).amax(dim=0) + EPS)
        # the column of ones becomes the sums of the rows
        padded = torch.cat([scores, scores.new_ones(len(scores), 1)], dim=1)
        # F.threshold keeps what is above its number, but the threshold itself is to stay
        below = torch.tensor(threshold, dtype=torch.float32).nextafter(torch.zeros(())).item()
        result = torch.empty_like(padded)
        buffer = scale.new_empty(min(self.step, self.tokens), self.tokens)
        for rows, tile in kept or self.tiles(index):
            scaled = torch.mul(tile, scale, out=buffer[: len(tile)])
            if threshold > 0:
                F.threshold(scaled, below, 0.0, inplace=True)
            torch.mm(scaled, padded, out=result[rows])
        return result[:, :-1] / (result[:, -1:] + EPS)
