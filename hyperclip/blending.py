"""Means of the scores of several views of an image, or of several systems, some classes at a time.

Shapes: T classes, t classes of a chunk, h w grid of the scores, H W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .runtime.memory import items_at_a_time
from .score_maps import Chunk, GridMaps, ScoreMaps, Size, leave_out, resize

Box = tuple[int, int, int, int]
"""Rows and columns: the first, that behind the last, the first, that behind the last."""
Place = tuple[float, float, float, float]
"""Top, bottom, left and right edge of a part of an image, as shares of the image."""
WHOLE: Place = (0.0, 1.0, 0.0, 1.0)


def box_of(place: Place, size: Size) -> Box:
    """The pixels of a place in an image of this size (H, W)."""
    (top, bottom, left, right), (height, width) = place, size
    return round(top * height), round(bottom * height), round(left * width), round(right * width)


@dataclass(frozen=True)
class Part:
    """Scores of a part of the image, perhaps a mirrored one: left and right are exchanged."""

    maps: ScoreMaps
    place: Place = WHOLE
    flipped: bool = False

    def box(self, size: Size) -> Box:
        """Its place in an image of this size (H, W)."""
        return box_of(self.place, size)

    def at(self, size: Size) -> Iterator[Chunk]:
        """Its scores in its part of a size, the right way round; none for one without pixels."""
        top, bottom, left, right = self.box(size)
        if bottom > top and right > left:
            for classes, maps in self.maps.at((bottom - top, right - left)):
                yield classes, maps.flip(-1) if self.flipped else maps

    def coarse(self, size: Size) -> Tensor:
        """Its scores (T, h, w) as :meth:`ScoreMaps.coarse` has them, likewise."""
        top, bottom, left, right = self.box(size)
        maps = self.maps.coarse()
        maps = maps.flip(-1) if self.flipped else maps
        return resize(maps[None], (bottom - top, right - left))[0]


@dataclass(frozen=True)
class Layer:
    """Parts that cover the image together, their mean where they overlap, and a weight."""

    parts: tuple[Part, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class BlendedMaps(ScoreMaps):
    """The mean of layers' scores by their weights. What the thresholds leave out, and what becomes
    of refined scores, is as the first part of the first layer has it, which is the whole image.

    Args:
        largest: size of the largest grid of :meth:`coarse`.
    """

    layers: tuple[Layer, ...]
    largest: Size

    @property
    def first(self) -> ScoreMaps:
        """Scores of the whole image."""
        return self.layers[0].parts[0].maps

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.first.classes

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`: on a grid as fine as those of the parts, unless it would be
        larger than ``largest`` and than that of the whole image.
        """
        grid = self._grid()
        total: Tensor | None = None
        for part, share in self._shares(grid, self.first.coarse().device):
            if share.numel():
                maps = part.coarse(grid)
                total = maps.new_zeros(len(maps), *grid) if total is None else total
                top, bottom, left, right = part.box(grid)
                total[:, top:bottom, left:right] += maps * share
        assert total is not None
        return total

    def at(self, size: Size) -> Iterator[Chunk]:
        """See :class:`ScoreMaps`."""
        streams = [part.at(size) for layer in self.layers for part in layer.parts]
        shares: list[tuple[Part, Tensor]] = []
        for classes, found in aligned(streams):
            shares = shares or self._shares(size, classes.device)
            for some in classes.split(items_at_a_time(size[0] * size[1], classes.device)):
                yield some, _mean(some, found, shares, size)

    def replaced(self, coarse: Tensor) -> ScoreMaps:
        """See :class:`ScoreMaps`."""
        return self.first.replaced(coarse)

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.first.decide(labels, confidence)

    def cut(self, scores: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.first.cut(scores)

    def _grid(self) -> Size:
        """The grid of :meth:`coarse`; the parts of a layer are taken to have grids of one size."""
        grids = []
        for layer in self.layers:
            part = layer.parts[0]
            top, bottom, left, right = part.place
            h, w = part.maps.coarse().shape[1:]
            grids.append((round(h / (bottom - top)), round(w / (right - left))))
        h, w = (
            min(max(sides), most)
            for sides, most in zip(zip(*grids, strict=True), self.largest, strict=True)
        )
        return max(h, grids[0][0]), max(w, grids[0][1])

    def _shares(self, size: Size, device: torch.device) -> list[tuple[Part, Tensor]]:
        """Each part, with its weights (h, w) in its box; those of a pixel add up to 1."""
        total = sum(layer.weight for layer in self.layers)
        shares = []
        for layer in self.layers:
            count = torch.zeros(size, device=device)
            boxes = [part.box(size) for part in layer.parts]
            for top, bottom, left, right in boxes:
                count[top:bottom, left:right] += 1
            for part, (top, bottom, left, right) in zip(layer.parts, boxes, strict=True):
                weights = layer.weight / total / count[top:bottom, left:right]
                shares.append((part, weights))
        return shares


def _mean(
    classes: Tensor,
    found: Sequence[Chunk | None],
    shares: Sequence[tuple[Part, Tensor]],
    size: Size,
) -> Tensor:
    """Scores (t, H, W) of some classes from chunks of all parts; a class that a part does not have
    scores 0 there.
    """
    total: Tensor | None = None
    for chunk, (part, share) in zip(found, shares, strict=True):
        if chunk is None:
            continue
        own, maps = chunk
        total = maps.new_zeros(len(classes), *size) if total is None else total
        wanted = torch.isin(own, classes)
        top, bottom, left, right = part.box(size)
        places = torch.searchsorted(classes, own[wanted])
        total[:, top:bottom, left:right].index_add_(0, places, maps[wanted] * share)
    assert total is not None
    return total


def aligned(streams: Sequence[Iterator[Chunk]]) -> Iterator[tuple[Tensor, list[Chunk | None]]]:
    """Classes (t,), ascending, and what each stream has of them, None for nothing; no more than a
    chunk of each stream is in memory.
    """
    waiting = [next(stream, None) for stream in streams]
    while any(chunk is not None for chunk in waiting):
        last = min(int(chunk[0][-1]) for chunk in waiting if chunk is not None)
        found: list[Chunk | None] = []
        for i, chunk in enumerate(waiting):
            if chunk is None:
                found.append(None)
                continue
            count = int((chunk[0] <= last).sum())
            found.append((chunk[0][:count], chunk[1][:count]) if count else None)
            rest = (chunk[0][count:], chunk[1][count:])
            waiting[i] = rest if len(rest[0]) else next(streams[i], None)
        yield torch.cat([chunk[0] for chunk in found if chunk is not None]).unique(), found


@dataclass(frozen=True)
class ScaledMaps(ScoreMaps):
    """Scores times a factor, with thresholds on their new scale, see :class:`GridMaps`."""

    maps: ScoreMaps
    factor: float
    class_threshold: float = 0.0
    pixel_threshold: float = 0.0

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.maps.classes

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`: what :meth:`at` gives on the grid of the system's own scores."""
        h, w = self.maps.coarse().shape[1:]
        return self.whole((h, w))

    def at(self, size: Size) -> Iterator[Chunk]:
        """See :class:`ScoreMaps`."""
        for classes, maps in self.maps.at(size):
            yield classes, maps * self.factor

    def replaced(self, coarse: Tensor) -> GridMaps:
        """See :class:`ScoreMaps`."""
        return GridMaps(coarse, self.class_threshold, self.pixel_threshold)

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return leave_out(labels, confidence, self.class_threshold, self.pixel_threshold)
