"""The guided filter as a refiner without any model: scores follow the edges of the image.

In every box the scores are fitted by a linear function of the image's colours, and a pixel takes
the mean of the functions of all boxes that hold it. Shapes: T classes, t classes of a chunk, H W
image. Source: He, Sun and Tang, Guided Image Filtering (ECCV 2010; TPAMI 2013), eq. 16 to 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from ..config.key_rules import options_of
from ..runtime.memory import items_at_a_time
from ..score_maps import resize
from .refining import REFINER_REGISTRY, Refinement

PLANES = 24
"""Float32 maps of the image's size that one class needs, about, for :func:`items_at_a_time`."""
CORNERS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The entries of a symmetric matrix of 3 x 3."""


@dataclass(frozen=True)
class GuidedOptions:
    """See TEST.REFINER.GUIDED's keys of the same names.

    Raises:
        ValueError: an ``eps`` of 0, which divides by zero where a box has one colour; a ``radius``
            that is not above 0.
    """

    radius: float
    eps: float
    max_size: int

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise ValueError(
                f"TEST.REFINER.GUIDED.RADIUS: got {self.radius}, expected above 0 and at most 1, a "
                "share of the image's longer side"
            )
        if not 1e-8 <= self.eps < float("inf"):
            raise ValueError(f"TEST.REFINER.GUIDED.EPS: got {self.eps}, expected 1e-08 or more")
        if self.max_size < 1:
            raise ValueError(
                f"TEST.REFINER.GUIDED.MAX_SIZE: got {self.max_size}, expected 1 or more"
            )


def box_mean(maps: Tensor, radius: int) -> Tensor:
    """Mean of maps (..., H, W) over the boxes of 2 ``radius`` + 1 pixels, cut at the borders."""
    for dim in (-2, -1):
        maps = _line_mean(maps, radius, dim)
    return maps


def _line_mean(maps: Tensor, radius: int, dim: int) -> Tensor:
    side = maps.shape[dim]
    places = torch.arange(side, device=maps.device)
    first = (places - radius).clamp_min(0)
    behind = (places + radius + 1).clamp_max(side)
    pad = (0, 0, 1, 0) if dim == -2 else (1, 0)
    sums = F.pad(maps.cumsum(dim), pad)
    shape = (-1, 1) if dim == -2 else (-1,)
    total = sums.index_select(dim, behind).sub_(sums.index_select(dim, first))
    return total.div_((behind - first).view(shape))


class Guide:
    """An image's part of the filter, which serves any scores; in float64, for sums of products
    lose digits when means are subtracted from them.

    Args:
        image: (3, H, W), 0..1. radius: of the boxes, in pixels. eps: added to the variances.
    """

    def __init__(self, image: Tensor, radius: int, eps: float) -> None:
        self.radius = radius
        self.image = image.double()
        self.mean = box_mean(self.image, radius)
        entries = {
            (i, j): box_mean(self.image[i] * self.image[j], radius) - self.mean[i] * self.mean[j]
            for i, j in CORNERS
        }
        for i in range(3):
            entries[i, i] = entries[i, i].clamp_min(0) + eps
        self.inverse = _inverse(entries)
        self.inputs = (self.mean, self.inverse)

    def __call__(self, coarse: Tensor) -> Tensor:
        """Scores (T, h, w) on the image's pixels (T, H, W), filtered."""
        size = (self.image.shape[1], self.image.shape[2])
        step = items_at_a_time(PLANES * size[0] * size[1], coarse.device)
        parts = [self._filter(resize(some[None], size)[0]) for some in coarse.split(step)]
        return torch.cat(parts)

    def _filter(self, scores: Tensor) -> Tensor:
        scores64 = scores.double()
        mean = box_mean(scores64, self.radius)
        # covariance of each colour and the scores, (t, 3, H, W)
        products = scores64[:, None] * self.image
        covariance = box_mean(products, self.radius) - mean[:, None] * self.mean
        slope = torch.zeros_like(covariance)
        for j in range(3):  # faster than many products of small matrices
            slope += self.inverse[:, j] * covariance[:, j : j + 1]
        offset = mean - (slope * self.mean).sum(dim=1)
        slope, offset = box_mean(slope, self.radius), box_mean(offset, self.radius)
        return ((slope * self.image).sum(dim=1) + offset).to(scores.dtype)


def _inverse(entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Inverses (3, 3, H, W) of symmetric matrices by their upper entries (H, W): adjugate over
    determinant.
    """
    a, b, c, d, e, f = (entries[corner] for corner in CORNERS)
    first = (d * f - e * e, c * e - b * f, b * e - c * d)
    determinant = a * first[0] + b * first[1] + c * first[2]
    middle, last = (a * f - c * c, b * c - a * e), a * d - b * b
    rows = (*first, first[1], *middle, first[2], middle[1], last)
    return torch.stack(rows).div_(determinant).unflatten(0, (3, 3))


class GuidedRefiner:
    """Filters scores with the image as the guide, on a device."""

    def __init__(self, options: GuidedOptions, device: torch.device) -> None:
        self.options, self.device = options, device

    def __call__(self, images: Sequence[Tensor]) -> list[Refinement]:
        """One refinement for each image."""
        return [self._guide(image) for image in images]

    def _guide(self, image: Tensor) -> Guide:
        image = image.to(self.device).float()[None] / 255
        height, width = image.shape[2:]
        scale = min(1.0, self.options.max_size / max(height, width))
        if scale < 1:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            image = F.interpolate(
                image, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        radius = max(1, round(self.options.radius * max(image.shape[2:])))
        return Guide(image[0], radius, self.options.eps)


@REFINER_REGISTRY.register()
def guided(cfg: CfgNode) -> GuidedRefiner:
    """Build from TEST.REFINER.GUIDED."""
    options = options_of(GuidedOptions, cfg.TEST.REFINER.GUIDED)
    return GuidedRefiner(options, torch.device(cfg.MODEL.DEVICE))
