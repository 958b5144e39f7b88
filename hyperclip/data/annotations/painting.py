"""Regions painted into a label: COCO's run lengths and polygons, one over the other."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

FARTHEST = 10
"""Longer sides of the image that a coordinate may be from its corner. What draws polygons takes any
amount of memory and time for points that are far away, or takes them for others.
"""


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths of polygons, plain run lengths or compressed ones; ValueError
    for anything else, and for what belongs to an image of another size.
    """
    try:
        if isinstance(segmentation, list):
            if not all(is_near(polygon, height, width) for polygon in segmentation):
                raise ValueError("a point is far outside of the image")
            lengths = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            lengths = coco_masks.frPyObjects(segmentation, *segmentation["size"])
        elif isinstance(segmentation["counts"], str | bytes):
            lengths = segmentation
        else:
            raise TypeError("counts that are no run lengths")
        size = list(lengths["size"])
    # pycocotools raises bare exceptions, and whatever indexing into broken input gives
    except Exception as error:
        message = f"a segmentation is neither polygons nor run lengths of this image ({error!r})"
        raise ValueError(message) from error
    if size != [height, width]:
        expected = f"expected {height} x {width}"
        raise ValueError(f"a segmentation is for {size[0]} x {size[1]} pixels, {expected}")
    return lengths


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A segmentation as a mask, bool (H, W); ValueError as :func:`run_lengths`, or if damaged."""
    lengths = run_lengths(segmentation, height, width)
    try:
        mask = coco_masks.decode(lengths)
        # pycocotools leaves what is behind the last run uninitialised
        if mask.sum() != coco_masks.area(lengths):
            raise ValueError("they end before the image does")
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the run lengths of a segmentation are damaged: {error}") from error
    return mask.astype(bool)


def is_near(coordinates: Iterable[float], height: int, width: int) -> bool:
    """Whether all coordinates are at most ``FARTHEST`` longer sides of the image from its corner;
    NaN is not.
    """
    most = FARTHEST * max(height, width)
    return all(-most <= number <= most for number in coordinates)


def polygon_fault(polygon: Any, height: int, width: int) -> str:
    """What is wrong with a list [x, y, x, y, …] that should be a polygon; "" if nothing is.

    pycocotools takes a list of four numbers for a box, and says nothing.
    """
    if not isinstance(polygon, list) or not all(type(n) in (int, float) for n in polygon):
        return "is no list of numbers x, y, x, y, …"
    if not all(-math.inf < number < math.inf for number in polygon):
        return "has coordinates that are not finite"
    if not is_near(polygon, height, width):
        return f"has a point far outside of the image of {width} x {height} pixels"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"has {len(polygon)} numbers, expected x and y of at least three points"
    return ""


def paint(
    regions: Sequence[tuple[int, bool, Any]], height: int, width: int, unlabelled: int
) -> np.ndarray:
    """A label, int32 (H, W), of regions (value, whether it is a crowd, COCO's segmentation).

    Crowds come first, then the other regions by falling area, so that the smaller one wins where
    two overlap, and of two that are equally large the later one. Raises as :func:`decode_mask`.
    """
    lengths = [run_lengths(segmentation, height, width) for _, _, segmentation in regions]
    areas = [int(coco_masks.area(one)) for one in lengths]
    order = sorted(range(len(regions)), key=lambda k: (not regions[k][1], -areas[k]))
    label = np.full((height, width), unlabelled, np.int32)
    for k in order:
        label[decode_mask(lengths[k], height, width)] = regions[k][0]
    return label


def shortened(keys: Iterable[Any]) -> str:
    """The first ten of some keys, for messages."""
    listed = list(keys)
    more = " …" if len(listed) > 10 else ""
    return f"{', '.join(map(repr, listed[:10]))}{more}"
