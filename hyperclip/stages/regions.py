"""Regions: the parts that an image is cut into, each of which gets one class, and their proposers,
chosen by TEST.REGIONS.NAME.

The regions of an image are a partition: int64 (H, W), 0..R-1, and ``NO_REGION`` for pixels of none,
which keep the class that they have. A proposer may leave numbers out (:func:`numbered`). One of
masks that overlap gives a pixel to the smallest mask that covers it (:func:`partition`). To add
one, register a function of a config:

    @REGIONS_REGISTRY.register()
    def halves(cfg):
        return lambda images: [left_and_right(image) for image in images]

Shapes: T classes, t classes of a chunk, R regions, H W image, h w grid of the regions as given.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from ..score_maps import ScoreMaps, Size, best_of
from .refining import build_entry

NO_REGION = -1

Proposer = Callable[[Sequence[Tensor]], list[Tensor]]
"""Images (3, H, W), RGB 0..255, of any sizes, to the regions of each, int64 of the same size."""

REGIONS_REGISTRY = Registry("REGIONS")
"""Functions of a config that build a proposer, or None for none."""


class RecordProposer(abc.ABC):
    """A proposer that has to know which file an image is, in place of a :data:`Proposer`."""

    @abc.abstractmethod
    def of_records(self, records: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The regions of images, int64 (H, W), each in the size of its file: the record's "height"
        and "width", or else those of its "image".

        Raises:
            ValueError: a record without "file_name", or what does not fit its image. OSError: a
                file that is missing.
        """

    @abc.abstractmethod
    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """ValueError or OSError for records, without an "image" yet, that have no regions."""


@REGIONS_REGISTRY.register()
def none(cfg: CfgNode) -> None:
    """No regions."""


def build_proposer(cfg: CfgNode) -> Proposer | RecordProposer | None:
    """The proposer of TEST.REGIONS.NAME, or None for none; ValueError for an unknown name."""
    return build_entry(REGIONS_REGISTRY, "TEST.REGIONS.NAME", cfg.TEST.REGIONS.NAME, cfg)


def partition(masks: Tensor) -> Tensor:
    """Regions int64 (H, W) of masks, bool (R, H, W): a pixel belongs to the smallest mask that
    covers it, of equals to the first, and to ``NO_REGION`` if none does.
    """
    regions = torch.full(masks.shape[1:], NO_REGION, dtype=torch.int64, device=masks.device)
    areas = masks.flatten(1).sum(dim=1)
    for index in areas.argsort(stable=True).flip(0).tolist():  # the smallest first mask comes last
        regions[masks[index]] = index
    return regions


def numbered(regions: Tensor, name: str) -> Tensor:
    """The regions, int64 (H, W), that the proposer of this name gave, with numbers below the count
    of the pixels, so that large ones take no memory; ValueError for one below ``NO_REGION``.
    """
    lowest, highest = (int(value) for value in regions.aminmax())
    if lowest < NO_REGION:
        raise ValueError(
            f"regions: got {lowest} from {name!r}, expected numbers from 0 on, and {NO_REGION} for "
            f"pixels of no region. Give these pixels {NO_REGION}, or number the regions from 0 on"
        )
    if highest < regions.numel():
        return regions
    found, places = regions.unique(return_inverse=True)
    return places - int(found[0] == NO_REGION)


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
    """Sums, float64 (t, R), of maps (t, H, W) over R regions (H, W); pixels of no region are left
    out.
    """
    places = regions.flatten() + 1  # those of no region come first
    total = maps.new_zeros(len(maps), count + 1, dtype=torch.float64)
    for own, pixels in zip(total, maps.flatten(1), strict=True):  # all at once takes more memory
        own.scatter_add_(0, places, pixels.double())
    return total[:, 1:]


def _count(regions: Tensor) -> int:
    return max(int(regions.max()) + 1, 1)


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

    def replaced(self, coarse: Tensor) -> RegionMaps:
        """See :class:`ScoreMaps`."""
        return replace(self, maps=self.maps.replaced(coarse))

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.decide(labels, confidence)

    def cut(self, scores: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.cut(scores)


class MeanMaps(RegionMaps):
    """The score of a region is the mean of its pixels' scores."""

    def at(self, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`."""
        regions = in_size(self.regions, size)
        inside = regions != NO_REGION
        for classes, means, maps in self._means(regions):
            yield classes, torch.where(inside, means[:, regions.clamp_min(0)], maps)

    def best(self, size: Size) -> tuple[Tensor, Tensor]:
        """See :class:`ScoreMaps`: the best class of each region first, then of its pixels."""
        regions = in_size(self.regions, size)
        outside = regions == NO_REGION
        # a region is one entry of a row (1, R + N), which the N pixels of no region go on
        rows = (
            (classes, torch.cat([means, maps[:, outside]], dim=1)[:, None])
            for classes, means, maps in self._means(regions)
        )
        found = best_of(rows)
        places = regions.clone()
        places[outside] = torch.arange(int(outside.sum()), device=regions.device) + _count(regions)
        labels, confidence = (values[0][places] for values in found)
        return labels, confidence

    def _means(self, regions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Classes (t,), means (t, R) and maps (t, H, W) in the size of the regions."""
        count = _count(regions)
        area = (regions.flatten() + 1).bincount(minlength=count + 1)[1:].clamp_min(1)
        for classes, maps in self.maps.at((regions.shape[0], regions.shape[1])):
            yield classes, (sums(maps, regions, count) / area).to(maps.dtype), maps


class MajorityMaps(RegionMaps):
    """A region has the class that is the best one of most of its pixels, of equals the first; its
    score is the mean of theirs, which no other class exceeds in the region. Pixels below a
    threshold vote for their best class, too: thresholds count afterwards, by the region's score.
    """

    def at(self, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`."""
        won, confidence = self.best(size)
        below = confidence.nextafter(confidence.new_tensor(-torch.inf))
        for classes, maps in self.maps.at(size):
            places = classes[:, None, None]
            most = torch.where(places < won, below, confidence)  # of equals the first wins
            yield classes, torch.where(places == won, confidence, torch.minimum(maps, most))

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
        area = (voted.flatten() + 1).bincount(minlength=count + 1)[1:].clamp_min(1)
        means = (sums(confidence[None], voted, count)[0] / area).to(confidence.dtype)
        return won, torch.where(inside, means[regions.clamp_min(0)], confidence)


RULES: dict[str, type[RegionMaps]] = {"mean": MeanMaps, "majority": MajorityMaps}
"""Those of one class for each region, by the values of TEST.REGIONS.RULE."""
