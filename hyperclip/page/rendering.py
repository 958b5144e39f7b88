"""The pictures and files of an answer. Shapes: H W image, h w grid of pixels shown."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from ..labels import NO_CLASS
from ..visualization import label_image, legend, line_width, paint
from .answers import Answer

SHOWN_SIDE = (384, 1280)
"""Smallest and largest longer side, in pixels, of what the page shows; files have every pixel."""
OPACITY = 0.55
"""How much of an overlay is colour, to begin with."""


class Files(NamedTuple):
    """Paths of an answer's files, in Gradio's cache: kept and removed as uploads are."""

    overlay: str
    labels: str
    coco: str


def shown(answer: Answer, opacity: float, hidden: Collection[int]) -> np.ndarray:
    """The image with its classes, but for the hidden ones, painted over it in a size for the page:
    uint8 RGB (h, w, 3).
    """
    image, labels = _resized(answer.image, _visible(answer, hidden), *SHOWN_SIDE)
    return paint(image, labels, answer.colors, opacity) if opacity > 0 else image


def scale_of(answer: Answer) -> float:
    """Pixels on the page for a pixel of the image."""
    height, width = answer.prediction.labels.shape
    return _scale(height, width, *SHOWN_SIDE)


def overlay_file(answer: Answer, opacity: float, hidden: Collection[int]) -> str:
    """Save the same with all pixels and a legend as a PNG file; its path."""
    image, labels = _resized(answer.image, _visible(answer, hidden), SHOWN_SIDE[0], sys.maxsize)
    panel = legend(
        labels, answer.prediction.names, answer.colors, len(image), line_width(image.shape)
    )
    whole = paint(image, labels, answer.colors, opacity) if opacity > 0 else image
    return _saved(answer, "overlay", Image.fromarray(np.concatenate([whole, panel], axis=1)))


def attention(answer: Answer, weights: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The grey image under what a patch takes of every patch (h, w), yellow for the most, in a size
    for the page; its pixel (column, row) is marked: uint8 RGB.
    """
    image, labels = _resized(answer.image, answer.prediction.labels, *SHOWN_SIDE)
    height, width = labels.shape
    shares = np.clip(weights / max(float(weights.max()), 1e-12), 0, 1)
    bytes_of = (255 * shares).astype(np.uint8)
    cells = cv2.resize(bytes_of, (width, height), interpolation=cv2.INTER_NEAREST)
    colors = cv2.applyColorMap(cells, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    drawn = cv2.addWeighted(grey, 0.35, np.ascontiguousarray(colors), 0.65, 0)
    center = tuple(int((place + 0.5) * scale_of(answer)) for place in point)
    thick = line_width(image.shape)
    for color, width_of in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
        cv2.drawMarker(drawn, center, color, cv2.MARKER_CROSS, 12 * thick, width_of)
    return drawn


def _visible(answer: Answer, hidden: Collection[int]) -> np.ndarray:
    """The label map without the hidden classes."""
    labels = answer.prediction.labels
    return np.where(np.isin(labels, list(hidden)), NO_CLASS, labels)


def _scale(height: int, width: int, smallest: int, largest: int) -> float:
    longer = max(height, width)
    return min(max(longer, smallest), largest) / longer


def _resized(
    image: np.ndarray, labels: np.ndarray, smallest: int, largest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels with a longer side within limits."""
    height, width = labels.shape
    scale = _scale(height, width, smallest, largest)
    if scale == 1:
        return image, labels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    nearest = cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, size, interpolation=smooth), nearest


def save_files(answer: Answer, opacity: float) -> Files:
    """Save an answer's overlay, its label map as a PNG file, and its masks in COCO's format."""
    prediction, name = answer.prediction, Path(answer.request.file).name
    labels = label_image(prediction.labels, len(prediction.names))
    coco = json.dumps(prediction.to_coco(name)).encode()
    return Files(
        overlay_file(answer, opacity, ()),
        _saved(answer, "labels", labels),
        save_bytes_to_cache(coco, _name(answer, "coco", "json"), get_upload_folder()),
    )


def _saved(answer: Answer, what: str, image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=3)
    return save_bytes_to_cache(file.getvalue(), _name(answer, what, "png"), get_upload_folder())


def _name(answer: Answer, what: str, suffix: str) -> str:
    return f"{Path(answer.request.file).stem[:80]}_{what}.{suffix}"
