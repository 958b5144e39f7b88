"""Pictures of label maps: an overlay with a legend, and the colours of the classes."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

BACKGROUND = -1
"""Label of pixels that are left unpainted."""


def palette(classes: int) -> np.ndarray:
    """Distinct colours, uint8 RGB (T, 3), the same for the same T: hues a golden angle apart, three brightnesses."""
    colors = [colorsys.hsv_to_rgb((0.07 + 0.381966 * i) % 1, (0.85, 0.6, 0.95)[i % 3], (1, 0.8, 0.6)[i % 3])
              for i in range(classes)]  # fmt: skip
    return (np.array(colors) * 255).astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, names: list[str], alpha: float = 0.55) -> np.ndarray:
    """Paint a label map over an image and add a legend of the classes that occur, largest first.

    Args:
        image: uint8 RGB (H, W, 3). labels: (H, W) indices into ``names`` or ``BACKGROUND``. alpha: opacity 0..1.
    Returns:
        uint8 RGB, wider than the image by the legend; small images are enlarged so that the text is readable.
    """
    scale = max(1, round(320 / max(image.shape[:2])))
    if scale > 1:
        image, labels = (np.kron(x, np.ones((scale, scale) + (1,) * (x.ndim - 2), x.dtype)) for x in (image, labels))
    colors, painted = palette(len(names)), labels != BACKGROUND
    picture = image.astype(np.float32)
    picture[painted] = (1 - alpha) * picture[painted] + alpha * colors[labels[painted]]
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    picture[edges] = 255
    return np.concatenate([picture.astype(np.uint8), _legend(labels, names, colors)], axis=1)


def _legend(labels: np.ndarray, names: list[str], colors: np.ndarray, row: int = 22) -> np.ndarray:
    height = labels.shape[0]
    present, areas = np.unique(labels[labels != BACKGROUND], return_counts=True)
    order = present[np.argsort(-areas, kind="stable")][: height // row]
    width = 40 + 9 * max((len(names[i]) for i in order), default=4)
    panel = np.full((height, width, 3), 255, np.uint8)
    for k, i in enumerate(order):
        top = k * row
        cv2.rectangle(panel, (6, top + 5), (22, top + 18), colors[i].tolist(), -1)
        cv2.putText(panel, names[i], (28, top + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return panel
