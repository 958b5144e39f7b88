"""The labels of a cell from the scores of the four windows that cover it, some classes at a time.

Shapes: t classes of a chunk, S side of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blending import aligned
from ..labels import NO_CLASS
from ..score_maps import Chunk, ScoreMaps, best_of
from .lattice import weights


@dataclass(frozen=True)
class Quarter:
    """A cell as one of the windows that cover it has it.

    Args:
        maps: the window's scores. lower, right: which of its four cells it is.
    """

    maps: ScoreMaps
    lower: bool
    right: bool

    def part(self, window: int) -> tuple[slice, slice]:
        """Its place in a window of this side."""
        s = window // 2
        return slice(s * self.lower, s * self.lower + s), slice(s * self.right, s * self.right + s)

    def weights(self, window: int, device: torch.device) -> Tensor:
        """The weights (S, S) of its pixels."""
        line = weights(window).to(device)
        rows, columns = self.part(window)
        return line[rows, None] * line[columns]

    def weighted(self, window: int) -> Iterator[Chunk]:
        """Chunks of its scores, times their weights."""
        rows, columns = self.part(window)
        share: Tensor | None = None
        for classes, maps in self.maps.at((window, window)):
            if share is None:
                share = self.weights(window, maps.device)
            yield classes, maps[:, rows, columns].float() * share


def blended(quarters: Sequence[Quarter], window: int) -> Iterator[Chunk]:
    """Sums (t, S, S) of the scores of a cell's windows, by their weights; no more than a chunk of
    each window is in memory.
    """
    for classes, found in aligned([quarter.weighted(window) for quarter in quarters]):
        total: Tensor | None = None
        for chunk in found:
            if chunk is None:
                continue
            own, maps = chunk
            if total is None:
                total = maps.new_zeros(len(classes), *maps.shape[1:])
            total.index_add_(0, torch.searchsorted(classes, own), maps)
        assert total is not None
        yield classes, total


def label_cell(quarters: Sequence[Quarter], window: int) -> tuple[Tensor, Tensor]:
    """The best class of each pixel of a cell, int64 (S, S), and its score. Where the windows do not
    agree on whether a pixel has a class, that counts which has more weight.
    """
    labels, confidence = best_of(blended(quarters, window))
    votes = torch.zeros_like(confidence)
    for quarter in quarters:
        part = quarter.part(window)
        whole = labels.new_zeros(window, window)
        sure = confidence.new_zeros(window, window)
        whole[part], sure[part] = labels, confidence
        nothing = quarter.maps.decide(whole, sure)[part] == NO_CLASS
        votes += nothing * quarter.weights(window, votes.device)
    return labels.masked_fill(votes > 0.5, NO_CLASS), confidence
