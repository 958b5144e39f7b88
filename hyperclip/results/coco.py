"""COCO's format: what pycocotools, CVAT, FiftyOne and Detectron2 read. Masks are COCO's compressed
run lengths, so that no pixel changes. Source: cocodataset.org/#format-data.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from .answer import Answer, Region


def coco_document(
    answer: Answer,
    file_name: str = "",
    image_id: int = 1,
    instances: bool = False,
    smallest: int = 1,
    first_id: int = 1,
) -> dict[str, Any]:
    """One image as COCO's instance annotations: ``images``, ``annotations`` with a mask, area, box
    (left, top, width, height) and score for each region, and ``categories`` with ids from 1 on.

    Args:
        instances, smallest: as :meth:`Answer.regions`. first_id: of its first annotation.
    """
    height, width = answer.labels.shape
    regions = answer.regions(instances, smallest)
    annotations = [
        {
            "id": i,
            "image_id": image_id,
            "segmentation": _run_lengths(region.mask),
            **region_entry(region),
        }
        for i, region in enumerate(regions, first_id)
    ]
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    return {
        "images": [image],
        "annotations": annotations,
        "categories": categories(answer.names),
    }


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's categories, class k with the id k + 1."""
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, 1)]


def region_entry(region: Region) -> dict[str, Any]:
    """What annotations and panoptic segments both say of a region."""
    return {
        "category_id": region.category + 1,
        "area": region.area,
        "bbox": list(region.box),
        "iscrowd": 0,
        "score": region.score,
    }


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
    size = [int(side) for side in encoded["size"]]
    return {"size": size, "counts": encoded["counts"].decode("ascii")}
