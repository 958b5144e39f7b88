"""COCO's panoptic format: one PNG of segment ids and a list of segments.
Source: cocodataset.org/#format-data, panopticapi.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .answer import Answer
from .coco import categories, region_entry


class Panoptic(NamedTuple):
    """The picture to save as ``file_name``, uint8 (H, W, 3), whose pixels are ids, R + 256 G +
    65536 B, 0 for no class; and the document.
    """

    picture: np.ndarray
    document: dict[str, Any]


def panoptic(
    answer: Answer,
    file_name: str = "panoptic.png",
    image_id: int = 1,
    instances: bool = False,
    smallest: int = 1,
) -> Panoptic:
    """One image as COCO's panoptic annotations; arguments as :func:`coco_document`. Segments have
    ids from 1 on.
    """
    height, width = answer.labels.shape
    ids, segments = np.zeros((height, width), dtype=np.uint32), []
    for i, region in enumerate(answer.regions(instances, smallest), 1):
        ids[region.mask] = i
        segments.append({"id": i, **region_entry(region)})
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    entry = {"image_id": image_id, "file_name": file_name, "segments_info": segments}
    things = panoptic_categories(answer.names, instances)
    document = {"images": [image], "annotations": [entry], "categories": things}
    picture = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    return Panoptic(picture, document)


def panoptic_categories(names: Sequence[str], instances: bool) -> list[dict[str, Any]]:
    """COCO's categories, each a thing where instances are told apart, else stuff."""
    return [{**known, "isthing": int(instances)} for known in categories(names)]
