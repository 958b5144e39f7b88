"""The guided filter as a refiner without any model: scores follow the edges of the image.

In every box the scores are fitted by a linear function of the image's colours, and a pixel takes
the mean of the functions of all boxes that hold it. The functions may be fitted in a smaller image
and used in the whole one. Shapes: T classes, t classes of a chunk, H W image, h w grid of the
smaller one. Sources: He, Sun and Tang, Guided Image Filtering (ECCV 2010; TPAMI 2013), eq. 16 to
18; He and Sun, Fast Guided Filter (arXiv:1505.00996), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from ..config.key_rules import options_of
from ..runtime.memory import items_at_a_time
from ..score_maps import Size, resize
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
            that is not above 0; a ``max_size`` or ``subsample`` below 1.
    """

    radius: float
    eps: float
    max_size: int
    subsample: int

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise ValueError(
                f"TEST.REFINER.GUIDED.RADIUS: got {self.radius}, expected above 0 and at most 1, a "
                "share of the image's longer side"
            )
        if not 1e-8 <= self.eps < float("inf"):
            raise ValueError(f"TEST.REFINER.GUIDED.EPS: got {self.eps}, expected 1e-08 or more")
        for name in ("max_size", "subsample"):
            if getattr(self, name) < 1:
                got = f"got {getattr(self, name)}, expected 1 or more"
                raise ValueError(f"TEST.REFINER.GUIDED.{name.upper()}: {got}")


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
        subsample: how much smaller the image is in which the functions are fitted.
    """

    def __init__(self, image: Tensor, radius: int, eps: float, subsample: int) -> None:
        self.image = image.double()
        height, width = image.shape[1:]
        fitted = ceil(height / subsample), ceil(width / subsample)
        self.small, self.radius = smaller(self.image, fitted), max(1, round(radius / subsample))
        self.mean = box_mean(self.small, self.radius)
        entries = {
            (i, j): box_mean(self.small[i] * self.small[j], self.radius)
            - self.mean[i] * self.mean[j]
            for i, j in CORNERS
        }
        for i in range(3):
            entries[i, i] = entries[i, i].clamp_min(0) + eps
        self.inverse = _inverse(entries)
        self.inputs = (self.mean, self.inverse)

    def __call__(self, coarse: Tensor) -> Tensor:
        """Scores (T, h', w') on the image's pixels (T, H, W), filtered: linear functions overshoot
        at edges, but no class scores beyond its lowest and its highest score of before.
        """
        step = items_at_a_time(PLANES * self.image[0].numel(), coarse.device)
        return torch.cat([self._filter(some) for some in coarse.split(step)])

    def _filter(self, coarse: Tensor) -> Tensor:
        functions = self._fit(resize(coarse[None], self._size_of(self.small))[0].double())
        if self.small is not self.image:
            functions = resize(functions.to(coarse.dtype), self._size_of(self.image))
        image = self.image.to(functions.dtype)
        filtered = ((functions[:, :3] * image).sum(dim=1) + functions[:, 3]).to(coarse.dtype)
        lowest, highest = (f(coarse, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        return torch.minimum(torch.maximum(filtered, lowest), highest)

    def _fit(self, scores: Tensor) -> Tensor:
        """Slopes for the three colours and offset of each pixel's function, (t, 4, h, w)."""
        mean = box_mean(scores, self.radius)
        # covariance of each colour and the scores, (t, 3, h, w)
        products = scores[:, None] * self.small
        covariance = box_mean(products, self.radius) - mean[:, None] * self.mean
        slope = torch.zeros_like(covariance)
        for j in range(3):  # faster than many products of small matrices
            slope += self.inverse[:, j] * covariance[:, j : j + 1]
        offset = mean - (slope * self.mean).sum(dim=1)
        return box_mean(torch.cat([slope, offset[:, None]], dim=1), self.radius)

    @staticmethod
    def _size_of(image: Tensor) -> Size:
        return image.shape[1], image.shape[2]


def smaller(image: Tensor, size: Size) -> Tensor:
    """An image (3, H, W) in a smaller size (h, w), with anti-aliasing; itself in its own."""
    if tuple(image.shape[1:]) == size:
        return image
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    return F.interpolate(image[None], size=size, **options)[0]  # type: ignore[arg-type]


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
        image = image.to(self.device).float() / 255
        height, width = image.shape[1:]
        scale = min(1.0, self.options.max_size / max(height, width))
        image = smaller(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        radius = max(1, round(self.options.radius * max(image.shape[1:])))
        return Guide(image, radius, self.options.eps, self.options.subsample)


@REFINER_REGISTRY.register()
def guided(cfg: CfgNode) -> GuidedRefiner:
    """Build from TEST.REFINER.GUIDED."""
    options = options_of(GuidedOptions, cfg.TEST.REFINER.GUIDED)
    return GuidedRefiner(options, torch.device(cfg.MODEL.DEVICE))
