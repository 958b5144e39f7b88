"""The worst images as small pictures inside a page: input, truth and prediction."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..data import label_maps
from ..data.mapper import read_record_image
from ..labels import NO_CLASS
from ..visualization import map_palette, paint
from .error_inputs import Result

SIDE = 224
"""Longer side of a picture in pixels."""
SHOWN = 6
"""Classes of an image that are named."""


class Pictures(NamedTuple):
    """Of one image."""

    panels: tuple[str, str, str]  # input, truth, prediction: data URLs
    legend: list[tuple[str, str]]  # colours (#rrggbb) and names, the largest first


def pictures_of(result: Result, place: int, names: Sequence[str]) -> Pictures:
    """Pictures of the image at a place of the predictions; pixels whose truth does not count stay
    unpainted. Raises what reading its files does.
    """
    record = result.records[place]
    truth = label_maps.read_record_label(record).astype(np.int64)
    prediction = result.saved.labels(result.saved.images[place])
    image = read_record_image(record)
    ignored = truth == result.saved.about["ignore"]
    truth, prediction = (np.where(ignored, NO_CLASS, x) for x in (truth, prediction))
    scale = SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, size, interpolation=kind)
    maps = [
        cv2.resize(x.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int64)
        for x in (truth, prediction)
    ]
    together = np.concatenate(maps)
    colors = map_palette(together, len(names))
    panels = [small, *(paint(small, labels, colors, 0.75) for labels in maps)]
    present, areas = np.unique(together[together != NO_CLASS], return_counts=True)
    order = present[np.argsort(-areas, kind="stable")][:SHOWN].tolist()
    legend = [("#" + bytes(colors[k].tolist()).hex(), names[k]) for k in order]
    one, two, three = (data_url(panel) for panel in panels)
    return Pictures((one, two, three), legend)


def data_url(image: np.ndarray) -> str:
    """An image, uint8 RGB (H, W, 3), as JPEG inside an address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
