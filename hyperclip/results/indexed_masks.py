"""Masks whose pixels are class indices of 8 bits: 0 for no class, class k is k + 1."""

import numpy as np

from .answer import Answer


def index_mask(answer: Answer) -> np.ndarray:
    """The mask, uint8 (H, W), of at most 254 classes."""
    return np.where(answer.labels < 0, 0, answer.labels + 1).astype(np.uint8)


def voc_colors() -> np.ndarray:
    """The colour of each index in Pascal VOC, uint8 RGB (256, 3), all different: the bits of the
    index go in turn to red, green and blue, from the highest bit of the colour down.
    """
    indices, colors = np.arange(256), np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= ((indices >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors
