"""LabelMe's JSON, of the version that has masks beside polygons, so that no pixel changes."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from .answer import Answer, Region

VERSION = "5.3.0"
"""The first LabelMe with shapes of the type "mask"."""


def labelme_document(
    answer: Answer, file_name: str = "", instances: bool = False, smallest: int = 1
) -> dict[str, Any]:
    """One image as LabelMe's JSON, to lie beside the image ``file_name``; the other arguments as
    :meth:`Answer.regions`.
    """
    height, width = answer.labels.shape
    shapes = [
        _shape(answer.names[region.category], region)
        for region in answer.regions(instances, smallest)
    ]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shape(name: str, region: Region) -> dict[str, Any]:
    left, top, width, height = region.box
    right, bottom = left + width - 1, top + height - 1  # the last pixels, as LabelMe counts
    inside = region.mask[top : bottom + 1, left : right + 1]
    file = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8)).save(file, format="PNG")
    return {
        "label": name,
        "points": [[left, top], [right, bottom]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(file.getvalue()).decode("ascii"),
    }
