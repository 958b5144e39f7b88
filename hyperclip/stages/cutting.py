"""What a system sees in the regions of an image, which a proposer finds, or which are squares of
cells.

Shapes: C embedding, h w grid, R regions, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from .regions import NO_REGION, Proposer, RecordProposer, build_proposer, in_size, numbered, sums


@dataclass(frozen=True)
class Cutter:
    """Cuts images into regions.

    Attributes:
        proposer: None for squares of ``cells`` x ``cells`` cells. name: of the proposer.
    """

    proposer: Proposer | None
    name: str
    cells: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Cutter:
        """By TEST.REGIONS.NAME and TEST.BANK.CELLS; ValueError for an unknown proposer, or one that
        has to know which file an image is.
        """
        proposer, name = build_proposer(cfg), cfg.TEST.REGIONS.NAME
        if isinstance(proposer, RecordProposer):
            raise ValueError(
                f"TEST.REGIONS.NAME: got {name!r} with a memory bank, which cannot look up images "
                "by their names; expected 'none' or a proposer that finds regions in the pixels, "
                "such as 'superpixels'"
            )
        return cls(proposer, name, cfg.TEST.BANK.CELLS)

    def describe(self) -> dict[str, Any]:
        """What decides the regions, in plain values."""
        squares = {"cells": self.cells} if self.proposer is None else {}
        return {"proposer": self.name, **squares}

    def places(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """The region of each cell, int64 (h, w), of an image (3, H, W); ValueError by
        :func:`numbered`.
        """
        if self.proposer is None:
            return squares(grid, self.cells)
        found = self.proposer([image])[0]
        return in_size(numbered(found.to(torch.int64), self.name), grid)

    def regions(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`pooled`, of an image (3, H, W) with the embeddings (C, h, w) of its cells."""
        places = self.places(image, (features.shape[1], features.shape[2]))
        return pooled(features, places.to(features.device))


EACH_CELL = Cutter(None, "none", 1)
"""Every cell is a region."""


def squares(grid: tuple[int, int], side: int) -> Tensor:
    """Regions (h, w): squares of ``side`` cells, the last ones smaller."""
    rows, columns = (torch.arange(n) // side for n in grid)
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def pooled(embeddings: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """The unit mean (R, C) of the embeddings (C, h, w) of each region that has a cell, and its
    place there for each cell, int64 (h, w), ``NO_REGION`` for cells of none.
    """
    known, places = regions.unique(return_inverse=True)
    if int(known[0]) == NO_REGION:
        known, places = known[1:], places - 1
    return F.normalize(sums(embeddings, places, len(known)).to(embeddings.dtype).T, dim=-1), places
