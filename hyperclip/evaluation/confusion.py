"""Streaming confusion matrix and the scores that are read off it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..labels import NO_CLASS


class ConfusionMatrix:
    """Counts of (truth, prediction) in int64, added image by image.

    ``counts`` is (T, T + 1): rows truth, columns prediction, the last column for pixels without one
    (``NO_CLASS``): they are missed by their class and a false positive of nobody.

    Args:
        classes: T. ignore: truth that does not count.
    """

    def __init__(self, classes: int, ignore: int = 255, device: str | torch.device = "cpu") -> None:
        self.classes, self.ignore = classes, ignore
        self.counts = torch.zeros(classes, classes + 1, dtype=torch.int64, device=device)

    def update(self, truth: Tensor, prediction: Tensor) -> Tensor:
        """Add one image: class indices (H, W) of the truth and of the prediction, which may be
        ``NO_CLASS``.

        Returns:
            the counts of this image, shaped like ``counts``.
        Raises:
            ValueError: sizes that differ, or a label outside 0..T-1 that is not ``ignore``.
        """
        if truth.shape != prediction.shape:
            raise ValueError(
                f"prediction of size {tuple(prediction.shape)} for a label map of "
                f"{tuple(truth.shape)}; they have to agree"
            )
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

    def scores(self) -> SegmentationScores:
        """Scores of everything added so far."""
        return SegmentationScores.from_counts(self.counts)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in percent; all of them nan where no pixel counts.

    Attributes:
        miou: mean IoU over the classes present in the truth (Detectron2 since July 2022).
        miou_old: the same sum divided by the classes present or predicted (Detectron2 before).
        pixel_accuracy: share of pixels that are right.
        mean_accuracy: mean recall over the classes present in the truth.
        iou: per class (T,), nan where the class is neither in the truth nor predicted.
    """

    miou: float
    miou_old: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: tuple[float, ...]

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
