"""A large image without short cuts: all windows, and the scores of all classes, in memory at once.
Shapes: T classes, H W image.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def scores(predictor, image, question, window, row=0, column=0):
    """Scores (T, H, W) of an image, uint8 RGB (H, W, 3): the mean of the windows of a lattice that
    begins at a pixel, by the weights of each; beyond the image its pixels are mirrored.
    """
    height, width = image.shape[:2]
    stride = window // 2
    pad = window
    line = torch.tensor([math.sin(math.pi * (x + 0.5) / window) ** 2 for x in range(window)])
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    shape = len(question.vocabulary), height + 2 * pad, width + 2 * pad
    total, weights = torch.zeros(shape), torch.zeros(shape[1:])
    for top in range((row + pad) % stride, shape[1] - window + 1, stride):
        for left in range((column + pad) % stride, shape[2] - window + 1, stride):
            part = np.ascontiguousarray(padded[top : top + window, left : left + window])
            maps = predictor.scores(predictor.encode(part), question).whole((window, window))
            place = (slice(top, top + window), slice(left, left + window))
            total[:, *place] += maps * line[:, None] * line
            weights[place] += line[:, None] * line
    inner = (slice(pad, pad + height), slice(pad, pad + width))
    return total[:, *inner] / weights[inner]
