"""Attention limited to regions: a cell takes the scores of its region's cells that look like it, as
CorrCLIP (ICCV 2025) limits the correlation of patches to a region of masks.

Shapes: T classes, h w grid of the scores, C embedding.
"""

import torch.nn.functional as F
from torch import Tensor

from ..score_maps import resize
from .regions import NO_REGION, in_size

ATTENTION = "attention"
"""The value of TEST.REGIONS.RULE."""

MOST_WEIGHTS = 2**24
"""Weights of cells by cells that are in memory at a time: 64 MB."""


def attend(scores: Tensor, features: Tensor, regions: Tensor, temperature: float) -> Tensor:
    """Scores (T, h, w) of which each cell's are the mean over the cells of its region, weighted by
    the softmax of cosine / temperature. Cells of no region keep theirs.

    Args:
        features: embeddings (C, h', w') of the cells, resized bilinearly to the scores' grid.
        regions: int64, of any size; a cell has that of the nearest pixel, see :func:`in_size`, and
            a region in which no cell's centre lies has none.
    """
    grid = (scores.shape[1], scores.shape[2])
    unit = F.normalize(resize(features[None].to(scores), grid)[0].flatten(1), dim=0)
    values, result = scores.flatten(1), scores.flatten(1).clone()
    cells = in_size(regions, grid).flatten()
    order = cells.argsort(stable=True)
    found, sizes = cells[order].unique_consecutive(return_counts=True)
    for region, own in zip(found.tolist(), order.split(sizes.tolist()), strict=True):
        if region == NO_REGION:
            continue
        keys, shared = unit[:, own], values[:, own]
        for rows in own.split(max(1, MOST_WEIGHTS // len(own))):
            weights = (unit[:, rows].T @ keys / temperature).softmax(dim=1)
            result[:, rows] = shared @ weights.T
    return result.view_as(scores)
