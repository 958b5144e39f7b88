"""Streaming counts, of all pixels or of those along borders, and the scores read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..labels import IGNORE, NO_CLASS


class ConfusionMatrix:
    """Counts of (truth, prediction) in int64, added image by image.

    ``counts`` is (T, T + 1): rows truth, columns prediction, the last column for pixels without one
    (``NO_CLASS``): they are missed by their class and a false positive of nobody. Pixels whose
    truth is ``ignore`` do not count.
    """

    def __init__(self, classes: int, ignore: int = IGNORE) -> None:
        self.classes, self.ignore = classes, ignore
        self.counts = torch.zeros(classes, classes + 1, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> Tensor:
        """Add one image: class indices (H, W) of the truth and of the prediction, which may be
        ``NO_CLASS``; returns its counts, shaped like ``counts``. ValueError for sizes that differ,
        or a label outside 0..T-1 that is not ``ignore``.
        """
        if truth.shape != prediction.shape:
            sizes = f"{tuple(prediction.shape)} for a label map of {tuple(truth.shape)}"
            raise ValueError(f"prediction of size {sizes}; they have to agree")
        device = self.counts.device
        truth, prediction = truth.to(device).long(), prediction.to(device).long()
        valid = truth != self.ignore
        truth, prediction = truth[valid], prediction[valid]
        for name, values in (("label", truth), ("prediction", prediction[prediction != NO_CLASS])):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < self.classes:
                raise ValueError(
                    f"{name}: got values {int(values.min())} to {int(values.max())}, expected 0 to "
                    f"{self.classes - 1} or the ignore value {self.ignore}. Does the vocabulary "
                    "belong to this dataset?"
                )
        column = torch.where(prediction == NO_CLASS, self.classes, prediction)
        entry = truth * (self.classes + 1) + column
        added = torch.bincount(entry, minlength=self.counts.numel()).view_as(self.counts)
        self.counts += added
        return added


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in percent; all of them nan where no pixel counts."""

    miou: float  # mean IoU over the classes present in the truth (Detectron2 since July 2022)
    miou_old: float  # the same sum divided by the classes present or predicted (before)
    pixel_accuracy: float  # share of pixels that are right
    mean_accuracy: float  # mean recall over the classes present in the truth
    iou: tuple[float, ...]  # (T,), nan where a class is neither in the truth nor predicted

    @classmethod
    def from_counts(cls, counts: Tensor) -> SegmentationScores:
        """Read the scores off a matrix (T, T) or (T, T + 1), rows truth, columns prediction."""
        counts = counts.double().cpu()
        right, truth, predicted = counts.diagonal(), counts.sum(1), counts[:, : len(counts)].sum(0)
        union = truth + predicted - right
        present, either = truth > 0, union > 0
        iou = torch.where(either, right / union.clamp_min(1), torch.nan)
        total = 100 * iou[present].sum()
        return cls(
            float(total / present.sum()),
            float(total / either.sum()),
            float(100 * right.sum() / truth.sum()),
            float(100 * (right[present] / truth[present]).mean()),
            tuple((100 * iou).tolist()),
        )


def boundary_band(labels: np.ndarray, dilation: float = 0.02) -> np.ndarray:
    """Pixels (H, W), bool, that are near the border of their own region.

    Args:
        labels: class indices (H, W), integers above -2^16 and below 2^24.
        dilation: width of the band as a share of the image's diagonal; at least one pixel.
    Source: Cheng et al., Boundary IoU (CVPR 2021). The image's edge counts as a border, as there.
    """
    height, width = labels.shape
    steps = max(1, round(dilation * float(np.hypot(height, width))))
    image, kernel = labels.astype(np.float32), np.ones((3, 3), np.uint8)
    around: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": -(2.0**16)}
    low, high = (f(image, kernel, iterations=steps, **around) for f in (cv2.erode, cv2.dilate))
    return low != high


class BoundaryCounts:
    """Counts the bands' pixels per class, T ``classes``, image by image, but where the truth is
    ``ignore``. ``counts`` is int64 (3, T): in both bands, in the truth's, in the prediction's.
    """

    def __init__(self, classes: int, ignore: int = IGNORE) -> None:
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
