"""A memory bank, region by region and pixel by pixel. Shapes: M regions of the bank, C embedding,
h w grid, T classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(query: Tensor, bank: Tensor, count: int) -> list[int]:
    """The places in a bank (M, C) of the vectors whose cosine with a query (C,) is largest."""
    cosines = [float(query @ vector) for vector in bank]
    return sorted(range(len(bank)), key=lambda place: -cosines[place])[:count]


def remembered(embeddings: Tensor, regions: Tensor, bank: Tensor, count: int, mix: float) -> Tensor:
    """Unit embeddings (C, h, w) of cells mixed with the mean of the bank's vectors that are nearest
    to the mean of the cell's region, int64 (h, w); cells of region -1 keep theirs.
    """
    result = embeddings.clone()
    for region in regions.unique().tolist():
        if region == -1:
            continue
        places = (regions == region).nonzero().tolist()
        query = F.normalize(sum(embeddings[:, y, x] for y, x in places), dim=0)
        found = [bank[place] for place in nearest(query, bank, count)]
        mean = F.normalize(sum(found) / len(found), dim=0)
        for y, x in places:
            result[:, y, x] = F.normalize((1 - mix) * embeddings[:, y, x] + mix * mean, dim=0)
    return result


def probabilities(embeddings: Tensor, text: Tensor, owners: list[int], scale: float) -> Tensor:
    """Probabilities (T, h, w) of classes whose names' embeddings are text, the class of each in
    ``owners``, for the embeddings (C, h, w) of cells: a class is as near as its best name.
    """
    classes = max(owners) + 1
    result = torch.zeros(classes, *embeddings.shape[1:])
    for y in range(embeddings.shape[1]):
        for x in range(embeddings.shape[2]):
            best = [-math.inf] * classes
            for name, owner in zip(text, owners, strict=True):
                best[owner] = max(best[owner], float(name @ embeddings[:, y, x]))
            powers = [math.exp(scale * cosine) for cosine in best]
            for index, power in enumerate(powers):
                result[index, y, x] = power / sum(powers)
    return result


def reweighted(
    scores: Tensor,
    own: Tensor,
    mixed: Tensor,
    text: Tensor,
    owners: list[int],
    scale: float,
    weight: float,
) -> Tensor:
    """Scores (T, H, W) that go ``weight`` times the change of the probabilities of their way to the
    highest of all scores, or to 0, or to the lowest where that is negative.
    """
    before, after = (probabilities(x, text, owners, scale) for x in (own, mixed))
    change = F.interpolate((after - before)[None], scores.shape[1:], mode="bilinear")[0]
    result, highest, lowest = scores.clone(), float(scores.max()), min(0.0, float(scores.min()))
    for place in torch.cartesian_prod(*map(torch.arange, scores.shape)).tolist():
        score, share = float(scores[tuple(place)]), weight * float(change[tuple(place)])
        goal = highest if share > 0 else lowest
        result[tuple(place)] = score + min(abs(share), 1.0) * (goal - score)
    return result
