"""Pictures of label maps: an overlay with a legend, and the colours of the classes."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from PIL import Image

BACKGROUND = -1
"""Label of pixels that are left unpainted."""


def palette(classes: int) -> np.ndarray:
    """Distinct colours, uint8 RGB (T, 3), the same for the same T: hues a golden angle apart, three brightnesses."""
    colors = [colorsys.hsv_to_rgb((0.07 + 0.381966 * i) % 1, (0.85, 0.6, 0.95)[i % 3], (1, 0.8, 0.6)[i % 3])
              for i in range(classes)]  # fmt: skip
    return (np.array(colors) * 255).astype(np.uint8)


def paint(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Blend class colours over an image and outline the regions.

    Args:
        image: uint8 RGB (H, W, 3). labels: (H, W) class indices or ``BACKGROUND``. colors: uint8 (T, 3).
        alpha: opacity of the colours, 0..1.
    """
    painted = labels != BACKGROUND
    picture = image.astype(np.float32)
    picture[painted] = (1 - alpha) * picture[painted] + alpha * colors[labels[painted]]
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    picture[edges] = 255
    return picture.astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """The painted image with a legend of the classes that occur, largest first; see :func:`paint`."""
    image, labels = _enlarge(image), _enlarge(labels)
    colors = palette(len(names))
    return np.concatenate([paint(image, labels, colors), legend(labels, names, colors)], axis=1)


def label_image(labels: np.ndarray, classes: int) -> Image.Image:
    """A label map (H, W) as a palette image whose pixel values are the class indices; ``BACKGROUND`` becomes 255.

    From 255 classes on it is a 16-bit grey image, and ``BACKGROUND`` becomes 65535.
    """
    wide = classes >= 255
    index = np.where(labels == BACKGROUND, 65535 if wide else 255, labels).astype(np.uint16 if wide else np.uint8)
    image = Image.fromarray(index)
    if not wide:
        colors = np.zeros((256, 3), np.uint8)  # all of them: with fewer, PNG packs the pixels into fewer bits and 255 is lost
        colors[:classes] = palette(classes)
        image.putpalette(colors.ravel().tolist())
    return image


def comparison(image: np.ndarray, truth: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Input, truth, prediction and legend side by side; unlabelled pixels stay unpainted in both."""
    labels = np.where(truth == BACKGROUND, BACKGROUND, labels)
    image, truth, labels = _enlarge(image), _enlarge(truth), _enlarge(labels)
    colors = palette(len(names))
    both = np.concatenate([truth, labels])
    pictures = [image, paint(image, truth, colors), paint(image, labels, colors)]
    return np.concatenate([*pictures, legend(both, names, colors)[: len(image)]], axis=1)


def legend(labels: np.ndarray, names: list[str], colors: np.ndarray, row: int = 22) -> np.ndarray:
    """White panel (H, W', 3) that lists the classes of a label map (H, W), largest first, as many as fit."""
    present, areas = np.unique(labels[labels != BACKGROUND], return_counts=True)
    order = present[np.argsort(-areas, kind="stable")][: labels.shape[0] // row]
    width = 40 + 9 * max((len(names[i]) for i in order), default=4)
    panel = np.full((labels.shape[0], width, 3), 255, np.uint8)
    for k, i in enumerate(order):
        top = k * row
        cv2.rectangle(panel, (6, top + 5), (22, top + 18), colors[i].tolist(), -1)
        cv2.putText(panel, names[i], (28, top + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return panel


def _enlarge(x: np.ndarray, side: int = 320) -> np.ndarray:
    """Repeat the pixels of a small picture so that a legend beside it is readable."""
    scale = max(1, round(side / max(x.shape[:2])))
    return x.repeat(scale, 0).repeat(scale, 1)
