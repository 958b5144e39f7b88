"""COCO's format: what pycocotools, CVAT, FiftyOne and Detectron2 read. Masks are COCO's compressed
run lengths, so that no pixel changes. Source: cocodataset.org/#format-data.
"""

from collections.abc import Iterable, Sequence
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
        {"id": i, "image_id": image_id, **_annotation(region)}
        for i, region in enumerate(regions, first_id)
    ]
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    return {
        "images": [image],
        "annotations": annotations,
        "categories": categories(answer.names),
    }


def coco_file(
    answers: Iterable[tuple[str, Answer]], instances: bool = False, smallest: int = 1
) -> dict[str, Any]:
    """Many images, (file name, answer) with the same names, as one document; ValueError for other
    names.
    """
    whole: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, (file_name, answer) in enumerate(answers, 1):
        first = len(whole["annotations"]) + 1
        own = coco_document(answer, file_name, number, instances, smallest, first)
        if whole["images"] and own["categories"] != whole["categories"]:
            raise ValueError(f"{file_name}: was asked other names than the images before it")
        whole["images"] += own["images"]
        whole["annotations"] += own["annotations"]
        whole["categories"] = own["categories"]
    return whole


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's categories, class k with the id k + 1."""
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, 1)]


def _annotation(region: Region) -> dict[str, Any]:
    encoded = run_lengths.encode(np.asfortranarray(region.mask.astype(np.uint8)))
    size = [int(side) for side in encoded["size"]]
    return {
        "category_id": region.category + 1,
        "segmentation": {"size": size, "counts": encoded["counts"].decode("ascii")},
        "area": region.area,
        "bbox": list(region.box),
        "iscrowd": 0,
        "score": region.score,
    }
