"""Counting errors: which classes, of which size, near which borders, how sure.

:class:`ErrorCounts` takes labels, predictions and confidences image by image; memory does not grow
with the images but for a line of scores each. :mod:`hyperclip.analysis.error_report` reads figures
off it. Shapes: T classes, H W image.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ..evaluation.confusion import ConfusionMatrix, SegmentationScores
from ..labels import NO_CLASS

BAND = 0.02
"""How near an error is to a border, as a share of the image's diagonal: that of Boundary IoU."""

SIZES = (("small", 0.0), ("medium", 0.01), ("large", 0.1))
"""Sizes of segments with the share of the image's pixels from which on a segment has them."""

BINS = 10
"""Bins of the confidence, of equal width."""


class ImageErrors(NamedTuple):
    """What one image's pixels say; scores in percent, nan where no pixel counts."""

    image_id: object
    place: int  # in the predictions
    pixels: int  # that count
    wrong: int
    miou: float
    pair: tuple[int, int, int] | None  # truth, prediction and pixels of what it mistakes most


@dataclass
class SizeCounts:
    """Of the segments of one size."""

    segments: int = 0
    pixels: int = 0
    right: int = 0
    recalls: float = 0.0  # the sum of the segments' shares of right pixels
    missed: int = 0  # segments without any right pixel


def near_border(labels: np.ndarray, share: float = BAND) -> np.ndarray:
    """Pixels (H, W), bool, that have another label within d pixels, in any direction.

    Args:
        labels: integers (H, W) of at most 2^24. share: d as a share of the image's diagonal; at
            least one pixel. The image's edge is no border, in contrast to Boundary IoU, as no
            label ends there.
    """
    steps = border_width(labels.shape, share)
    image, kernel = labels.astype(np.float32), np.ones((3, 3), np.uint8)
    around = cv2.BORDER_REPLICATE
    low = cv2.erode(image, kernel, iterations=steps, borderType=around)
    return low != cv2.dilate(image, kernel, iterations=steps, borderType=around)


def border_width(shape: tuple[int, ...], share: float = BAND) -> int:
    """The d of :func:`near_border` for an image (H, W)."""
    return max(1, round(share * math.hypot(*shape[:2])))


def segments_of(labels: np.ndarray, ignore: int) -> np.ndarray:
    """Connected parts (H, W) of one label, at corners too, numbered from 1; 0 is ``ignore``."""
    parts, count = np.zeros(labels.shape, np.int64), 0
    for value in np.unique(labels[labels != ignore]).tolist():
        number, own = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=8)
        inside = own > 0
        parts[inside] = own[inside] + count
        count += number - 1
    return parts


def size_of(share: float) -> int:
    """The index in ``SIZES`` of a segment that has this share of the image's pixels."""
    return max(k for k, (_, least) in enumerate(SIZES) if share >= least)


@dataclass
class ErrorCounts:
    """Counts over images of a dataset with ``classes`` labels.

    Args:
        ignore: label that does not count. background: the label of what is no class, if there is
            one; its confidence says nothing of it, nor does that of ``NO_CLASS``.
    """

    classes: int
    ignore: int
    background: int | None = None
    images: list[ImageErrors] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.classes, self.ignore)
        self.sizes = [SizeCounts() for _ in SIZES]
        # rows: far from a border, near one; columns: right, wrong
        self.border = np.zeros((2, 2), np.int64)
        # rows: pixels, right ones, and the sum of confidences, by bin
        self.bins = np.zeros((3, BINS))

    def add(
        self,
        image_id: object,
        place: int,
        truth: np.ndarray,
        prediction: np.ndarray,
        confidence: np.ndarray,
    ) -> None:
        """Add an image: labels, predictions (``NO_CLASS`` too) and confidences 0..1, all (H, W);
        ValueError for sizes or labels that do not fit.
        """
        added = self.matrix.update(torch.from_numpy(truth), torch.from_numpy(prediction))
        counted, right = truth != self.ignore, truth == prediction
        self._add_border(truth, counted, right)
        self._add_sizes(truth, right)
        self._add_confidence(prediction, confidence, counted, right)
        wrong = added.clone()
        wrong.fill_diagonal_(0)
        pair = None
        if int(wrong.max()):
            row, column = divmod(int(wrong.argmax()), self.classes + 1)
            pair = row, column, int(wrong.max())
        miou = SegmentationScores.from_counts(added).miou if counted.any() else math.nan
        pixels = int(counted.sum())
        self.images.append(ImageErrors(image_id, place, pixels, int(wrong.sum()), miou, pair))

    def _add_border(self, truth: np.ndarray, counted: np.ndarray, right: np.ndarray) -> None:
        near = near_border(truth)[counted]
        entry = 2 * near + ~right[counted]
        self.border += np.bincount(entry, minlength=4).reshape(2, 2)

    def _add_sizes(self, truth: np.ndarray, right: np.ndarray) -> None:
        parts = segments_of(truth, self.ignore)
        pixels = np.bincount(parts.ravel())
        found = np.bincount(parts[right], minlength=len(pixels))
        for area, hit in zip(pixels[1:].tolist(), found[1:].tolist(), strict=True):
            size = self.sizes[size_of(area / truth.size)]
            size.segments += 1
            size.pixels += area
            size.right += hit
            size.recalls += hit / area
            size.missed += hit == 0

    def _add_confidence(
        self,
        prediction: np.ndarray,
        confidence: np.ndarray,
        counted: np.ndarray,
        right: np.ndarray,
    ) -> None:
        said = counted & (prediction != NO_CLASS)
        if self.background is not None:
            said &= prediction != self.background
        values, hit = confidence[said], right[said]
        number = np.minimum((values * BINS).astype(np.int64), BINS - 1)
        for row, weights in enumerate((None, hit, values)):
            self.bins[row] += np.bincount(number, weights, minlength=BINS)


def expected_calibration_error(bins: np.ndarray) -> float:
    """ECE in percent of ``bins`` (3, b) as in :class:`ErrorCounts`: the mean over pixels of how far
    their bin's share of right ones is from its mean confidence; nan without pixels.

    Source: Naeini et al. (AAAI 2015); Guo et al., On Calibration of Modern Neural Networks (ICML
    2017), equation 3.
    """
    pixels, right, confidence = bins
    return (
        100 * float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.sum() else math.nan
    )
