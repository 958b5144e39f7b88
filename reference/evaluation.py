"""Scores as their definitions say them, pixel by pixel and class by class, in NumPy."""

from __future__ import annotations

import numpy as np


def apply_background(answer: np.ndarray, classes: int, background: str) -> np.ndarray:
    """What each pixel's answer counts as: a class 0..T-1, or -1."""
    counted = answer.copy()
    for index in np.ndindex(answer.shape):
        if background == "threshold" and answer[index] < 0:
            counted[index] = classes - 1
        if background == "fold" and (answer[index] < 0 or answer[index] >= classes - 1):
            counted[index] = classes - 1
    return counted


def scores(
    pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, ignore: int
) -> dict[str, float | list[float]]:
    """Scores in percent of (truth, prediction) pairs, predictions below 0 being nobody's."""
    truth = np.concatenate([t.ravel() for t, _ in pairs])
    prediction = np.concatenate([p.ravel() for _, p in pairs])
    valid = truth != ignore
    truth, prediction = truth[valid], prediction[valid]
    iou, recall, present, seen = [], [], 0, 0
    for k in range(classes):
        in_truth, predicted = truth == k, prediction == k
        union = (in_truth | predicted).sum()
        both = (in_truth & predicted).sum()
        iou.append(100 * both / union if union else float("nan"))
        seen += bool(union)
        if in_truth.any():
            present += 1
            recall.append(100 * both / in_truth.sum())
    total = sum(value for k, value in enumerate(iou) if (truth == k).any())
    return {
        "mIoU": total / present if present else float("nan"),
        "mIoU_old": total / seen if present else float("nan"),
        "pACC": 100 * (truth == prediction).sum() / len(truth) if present else float("nan"),
        "mACC": sum(recall) / present if present else float("nan"),
        "IoU": iou,
    }


def band(labels: np.ndarray, k: int, width: int) -> np.ndarray:
    """Pixels of class k that are at most ``width`` steps (also diagonal) away from a pixel of
    another class or from outside.
    """
    height, length = labels.shape
    near = np.zeros(labels.shape, bool)
    for y, x in zip(*np.nonzero(labels == k), strict=True):
        window = [
            (y + dy, x + dx) for dy in range(-width, width + 1) for dx in range(-width, width + 1)
        ]
        near[y, x] = any(
            not (0 <= j < height and 0 <= i < length) or labels[j, i] != k for j, i in window
        )
    return near


def boundary_miou(
    pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, ignore: int, dilation: float
) -> float:
    """Mean Boundary IoU in percent over the classes with a band in the truth."""
    values = []
    for k in range(classes):
        both = either = there = 0
        for truth, prediction in pairs:
            width = max(1, round(dilation * float(np.hypot(*truth.shape))))
            counted = truth != ignore
            a, b = band(truth, k, width) & counted, band(prediction, k, width) & counted
            both, either, there = both + (a & b).sum(), either + (a | b).sum(), there + a.sum()
        if there:
            values.append(100 * both / either)
    return float(np.mean(values)) if values else float("nan")
