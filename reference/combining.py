"""Views and ensembles, one after the other. Shapes: T classes, H W image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Segment = Callable[[Tensor, tuple[int, int]], Tensor]
"""Scores (T, h, w) of an image (3, H, W) in a size (h, w)."""


def mean_of_views(
    segment: Segment, image: Tensor, size: tuple[int, int], zooms: Sequence[Sequence], flip: bool
) -> Tensor:
    """Mean scores (T, H, W) of an image as it is, and of each zoom's crops, which are boxes (top,
    bottom, left, right) of the image; of each also mirrored.
    """
    height, width = image.shape[1:]
    means = []
    for boxes in [[(0, height, 0, width)], *zooms]:
        for mirrored in (False, True) if flip else (False,):
            total, count = torch.zeros(()), torch.zeros(size)
            for top, bottom, left, right in boxes:
                rows = slice(round(top / height * size[0]), round(bottom / height * size[0]))
                columns = slice(round(left / width * size[1]), round(right / width * size[1]))
                crop = image[:, top:bottom, left:right]
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                if mirrored:
                    scores = segment(torch.flip(crop, [2]), shape)
                    scores = torch.flip(scores, [2])
                else:
                    scores = segment(crop, shape)
                placed = torch.zeros(len(scores), *size)
                placed[:, rows, columns] = scores
                total = total + placed
                count[rows, columns] += 1
            means.append(total / count)
    return torch.stack(means).mean(dim=0)


def weighted_mean(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Scores (T, H, W) of several systems, each on a scale of 0..1, by weights."""
    total = torch.zeros_like(scores[0])
    for one, weight in zip(scores, weights, strict=True):
        total += weight / sum(weights) * one
    return total
