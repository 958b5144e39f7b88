"""Test-time views of any system: mirrored, and enlarged in overlapping crops; their mean answers.

Every system resizes an image to what its CLIP takes, so a larger copy of it would show the same. A
zoom therefore cuts the image into crops that overlap by a third, each of which is seen as an image
of its own. Shapes: H W image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from .blending import BlendedMaps, Box, Layer, Part, box_of
from .score_maps import Size
from .segmenter import Question, Segmenter
from .wrapper import Wrapper

OVERLAP = 1 / 3
"""Share of a crop that the next one covers again, at least."""


@dataclass(frozen=True)
class ViewOptions:
    """The views besides the image as it is.

    Args:
        flip: each view mirrored, too. zooms: factors above 1, each a set of crops.
    Raises:
        ValueError: no view at all, a zoom that is no number above 1, or one twice.
    """

    flip: bool
    zooms: tuple[float, ...]

    def __post_init__(self) -> None:
        for zoom in self.zooms:
            number = isinstance(zoom, int | float) and not isinstance(zoom, bool)
            if not number or not 1 < zoom < math.inf:
                raise ValueError(
                    f"TEST.AUG.ZOOMS: got {zoom!r}, expected numbers above 1, such as [1.5, 2.0]; "
                    "the image as it is is seen in any case"
                )
        if len(set(self.zooms)) < len(self.zooms):
            raise ValueError(f"TEST.AUG.ZOOMS: got {list(self.zooms)}, expected each number once")
        if not self.flip and not self.zooms:
            raise ValueError(
                "TEST.AUG.ENABLED: got True with FLIP False and no ZOOMS, which adds no view. Set "
                "one of them, or ENABLED False"
            )


@dataclass(frozen=True)
class SeenImage:
    """What a system sees in the views of an image, (H, W), in the order of :func:`views_of`."""

    encoded: list[Any]
    size: Size


@dataclass(frozen=True)
class View:
    """A crop of an image, perhaps mirrored; ``layer`` numbers the zooms, 0 for the whole image."""

    box: Box
    flipped: bool
    layer: int

    def cut(self, image: Tensor) -> Tensor:
        """The view's pixels of an image (3, H, W)."""
        top, bottom, left, right = self.box
        crop = image[:, top:bottom, left:right]
        return crop.flip(-1) if self.flipped else crop


def views_of(size: Size, options: ViewOptions) -> list[View]:
    """The views of an image of this size (H, W), that of the whole image first."""
    boxes = [[(0, size[0], 0, size[1])], *(crops(size, zoom) for zoom in options.zooms)]
    mirrored = (False, True) if options.flip else (False,)
    return [
        View(box, flipped, 2 * layer + flipped)
        for layer, some in enumerate(boxes)
        for flipped in mirrored
        for box in some
    ]


def crops(size: Size, zoom: float) -> list[Box]:
    """Overlapping crops, each of a ``zoom``-th of the sides (H, W), that cover an image."""
    rows, columns = ([*dict.fromkeys(_spans(side, zoom))] for side in size)
    return [(*row, *column) for row, column in itertools.product(rows, columns)]


def _spans(side: int, zoom: float) -> list[tuple[int, int]]:
    length = math.ceil(side / zoom)
    count = math.ceil((zoom - 1) / (1 - OVERLAP) - 1e-6) + 1
    starts = [round(i * (side - length) / (count - 1)) for i in range(count)]
    return [(start, start + length) for start in starts]


class Augmented(Wrapper):
    """A system that sees several views of an image; its scores are their mean.

    The views of a zoom count together as much as the whole image. Where thresholds leave pixels
    without a class, they are applied to the mean, but what a system leaves out within its scores
    (CLIPer so treats classes below its score threshold) is left out of each view.
    """

    def __init__(self, system: Segmenter, options: ViewOptions) -> None:
        super().__init__(system)
        self.options = options

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[SeenImage]:
        """See :class:`Segmenter`; all views of all images go through the system together."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        views = [views_of(size, self.options) for size in sizes]
        cut = [view.cut(image) for image, some in zip(images, views, strict=True) for view in some]
        encoded = iter(self.system.encode(cut))
        return [
            SeenImage([next(encoded) for _ in some], size)
            for some, size in zip(views, sizes, strict=True)
        ]

    @torch.no_grad()
    def score(self, encoded: SeenImage, question: Question, size: Size) -> BlendedMaps:
        """See :class:`Segmenter`: the mean of the views' scores."""
        height, width = encoded.size
        layers: dict[int, list[Part]] = {}
        for view, own in zip(views_of(encoded.size, self.options), encoded.encoded, strict=True):
            top, bottom, left, right = view.box
            place = (top / height, bottom / height, left / width, right / width)
            y, y_end, x, x_end = box_of(place, size)
            maps = self.system.score(own, question, (max(1, y_end - y), max(1, x_end - x)))
            layers.setdefault(view.layer, []).append(Part(maps, place, view.flipped))
        return BlendedMaps(tuple(Layer(tuple(parts)) for parts in layers.values()), encoded.size)

    def inside(self, encoded: SeenImage) -> Any:
        """See :class:`Wrapper`."""
        return encoded.encoded[0]

    def own_settings(self) -> dict[str, Any]:
        """See :class:`Wrapper`."""
        views = {"flip": self.options.flip, "zooms": list(self.options.zooms)}
        return {"test-time views": views}


def with_views(system: Segmenter, cfg: CfgNode) -> Segmenter:
    """The system with the views of TEST.AUG, or itself where it is not enabled; ValueError by
    :class:`ViewOptions`.
    """
    node = cfg.TEST.AUG
    enabled, flip, zooms = node.ENABLED, node.FLIP, tuple(node.ZOOMS)
    if not enabled:
        return system
    return Augmented(system, ViewOptions(flip, zooms)).train(system.training)
