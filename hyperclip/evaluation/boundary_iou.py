"""Boundary IoU: the IoU of the bands along the borders of the regions."""

from __future__ import annotations

import math

import cv2
import numpy as np


def boundary_band(labels: np.ndarray, dilation: float = 0.02) -> np.ndarray:
    """Pixels (H, W), bool, that are near the border of their own region.

    Args:
        labels: class indices (H, W), integers above -2^16 and below 2^24.
        dilation: width of the band as a share of the image's diagonal; at least one pixel.
    Source: Cheng et al., Boundary IoU (CVPR 2021). The image's edge counts as a border, as there.
    """
    height, width = labels.shape
    steps = max(1, round(dilation * float(np.hypot(height, width))))
    padded = cv2.copyMakeBorder(
        labels.astype(np.float32), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=-(2.0**16)
    )
    kernel = np.ones((3, 3), np.uint8)
    low, high = (f(padded, kernel, iterations=steps)[1:-1, 1:-1] for f in (cv2.erode, cv2.dilate))
    return low != high


class BoundaryCounts:
    """Counts the bands' pixels per class, image by image.

    ``counts`` is int64 (3, T): in both bands, in the truth's, in the prediction's.

    Args:
        classes: T. ignore: truth that does not count.
    """

    def __init__(self, classes: int, ignore: int = 255) -> None:
        self.classes, self.ignore = classes, ignore
        self.counts = np.zeros((3, classes), np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add an image: class indices (H, W), those of the prediction < 0 where it abstains."""
        counted = truth != self.ignore
        near_truth = boundary_band(truth) & counted
        near_prediction = boundary_band(prediction) & counted & (prediction >= 0)
        both = near_truth & near_prediction & (truth == prediction)
        for row, values in enumerate((truth[both], truth[near_truth], prediction[near_prediction])):
            self.counts[row] += np.bincount(values.astype(np.int64), minlength=self.classes)

    def miou(self) -> float:
        """Mean Boundary IoU in percent over the classes with a band in the truth; nan without."""
        both, truth, prediction = self.counts
        present = truth > 0
        iou = both[present] / (truth + prediction - both)[present]
        return 100 * float(iou.mean()) if present.any() else math.nan
