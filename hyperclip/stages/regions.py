"""Regions: the parts that an image is cut into, each of which gets one class, and their proposers,
chosen by TEST.REGIONS.NAME.

The regions of an image are a partition: int64 (H, W), 0..R-1, and ``NO_REGION`` for pixels of none,
which keep the class that they have. A proposer of masks that overlap gives a pixel to the smallest
mask that covers it (:func:`partition`). To add one, register a function of a config:

    @REGIONS_REGISTRY.register()
    def halves(cfg):
        return lambda images: [left_and_right(image) for image in images]

Shapes: T classes, t classes of a chunk, R regions, H W image, h w grid of the regions as given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from ..score_maps import ScoreMaps, Size

NO_REGION = -1

Proposer = Callable[[Sequence[Tensor]], list[Tensor]]
"""Images (3, H, W), RGB 0..255, of any sizes, to the regions of each, int64 of the same size."""

REGIONS_REGISTRY = Registry("REGIONS")
"""Functions of a config that build a proposer, or None for none."""


@REGIONS_REGISTRY.register()
def none(cfg: CfgNode) -> None:
    """No regions."""


def partition(masks: Tensor) -> Tensor:
    """Regions int64 (H, W) of masks, bool (R, H, W): a pixel belongs to the smallest mask that
    covers it, of equals to the first, and to ``NO_REGION`` if none does.
    """
    regions = torch.full(masks.shape[1:], NO_REGION, dtype=torch.int64, device=masks.device)
    areas = masks.flatten(1).sum(dim=1)
    for index in areas.argsort(stable=True).flip(0).tolist():  # the smallest first mask comes last
        regions[masks[index]] = index
    return regions


def in_size(regions: Tensor, size: Size) -> Tensor:
    """Regions (h, w) in another size (H, W): each pixel has the region of the nearest one."""
    if tuple(regions.shape) == tuple(size):
        return regions
    rows, columns = (
        ((torch.arange(n, device=regions.device) + 0.5) * m / n).long()
        for n, m in zip(size, regions.shape, strict=True)
    )
    return regions[rows[:, None], columns]


def sums(maps: Tensor, regions: Tensor, count: int) -> Tensor:
    """Sums (t, R) of maps (t, H, W) over R regions (H, W); pixels of no region are left out."""
    inside = regions != NO_REGION
    total = maps.new_zeros(len(maps), count)
    return total.index_add_(1, regions[inside], maps[:, inside])


@dataclass(frozen=True)
class RegionMaps(ScoreMaps):
    """Scores of an image of which every region has one class; pixels of no region keep theirs.

    Args:
        maps: the scores of the pixels. regions: (h, w), of any size, see :func:`in_size`.
    """

    maps: ScoreMaps
    regions: Tensor

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.maps.classes

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`: those of the pixels."""
        return self.maps.coarse()

    def at(self, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`: those of the pixels."""
        return self.maps.at(size)

    def replaced(self, coarse: Tensor) -> RegionMaps:
        """See :class:`ScoreMaps`."""
        return replace(self, maps=self.maps.replaced(coarse))

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.decide(labels, confidence)


class MeanMaps(RegionMaps):
    """The score of a region is the mean of its pixels' scores."""

    def at(self, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`."""
        regions = in_size(self.regions, size)
        count, inside = max(int(regions.max()) + 1, 1), regions != NO_REGION
        area = sums(regions.new_ones(1, *size, dtype=torch.float32), regions, count)[0]
        for classes, maps in self.maps.at(size):
            means = sums(maps, regions, count) / area.clamp_min(1)
            yield classes, torch.where(inside, means[:, regions.clamp_min(0)], maps)


class MajorityMaps(RegionMaps):
    """A region has the class that is the best one of most of its pixels, of equals the first; its
    confidence is the mean of theirs.
    """

    def best(self, size: Size) -> tuple[Tensor, Tensor]:
        """See :class:`ScoreMaps`."""
        labels, confidence = self.maps.best(size)
        regions = in_size(self.regions, size)
        count, inside = int(regions.max()) + 1, regions != NO_REGION
        if not count:
            return labels, confidence
        pairs, votes = (regions * self.classes + labels)[inside].unique(return_counts=True)
        # the last of what is written counts: most votes, then the lower class
        order = (votes * self.classes - pairs % self.classes).argsort()
        chosen = labels.new_zeros(count)
        chosen[pairs[order] // self.classes] = pairs[order] % self.classes
        won = torch.where(inside, chosen[regions.clamp_min(0)], labels)
        voted = torch.where(inside & (labels == won), regions, NO_REGION)
        area = sums(torch.ones_like(confidence)[None], voted, count)[0].clamp_min(1)
        means = sums(confidence[None], voted, count)[0] / area
        return won, torch.where(inside, means[regions.clamp_min(0)], confidence)


RULES: dict[str, type[RegionMaps]] = {"mean": MeanMaps, "majority": MajorityMaps}
"""By the values of TEST.REGIONS.RULE."""
