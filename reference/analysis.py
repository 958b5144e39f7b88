"""What an error analysis counts, pixel by pixel, in loops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

Images = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Truth, prediction (-1 for no class) and confidence 0..1 of each image, all (H, W)."""


def confusion_pairs(images: Images, ignore: int) -> Counter[tuple[int, int]]:
    """How many pixels of a class are called another, or -1."""
    pairs: Counter[tuple[int, int]] = Counter()
    for truth, prediction, _ in images:
        for place in np.ndindex(truth.shape):
            if truth[place] not in (ignore, prediction[place]):
                pairs[int(truth[place]), int(prediction[place])] += 1
    return pairs


def segments(labels: np.ndarray, ignore: int) -> list[set[tuple[int, int]]]:
    """Connected pixels of one label, at corners too, found by walking."""
    left = {place for place in np.ndindex(labels.shape) if labels[place] != ignore}
    parts = []
    while left:
        walk = [left.pop()]
        part = set(walk)
        while walk:
            y, x = walk.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            same = {place for place in around if labels[place] == labels[y, x]}
            left -= same
            part |= same
            walk += same
        parts.append(part)
    return parts


def sizes(images: Images, ignore: int, bounds: tuple[float, ...]) -> list[list[float]]:
    """For each size, which has ``bounds`` from which share of the image on: segments, pixels, right
    pixels, sum of the segments' shares of right pixels, segments without one.
    """
    rows = [[0.0] * 5 for _ in bounds]
    for truth, prediction, _ in images:
        for part in segments(truth, ignore):
            size = sum(len(part) / truth.size >= bound for bound in bounds) - 1
            right = sum(truth[place] == prediction[place] for place in part)
            for k, value in enumerate((1, len(part), right, right / len(part), right == 0)):
                rows[size][k] += value
    return rows


def near_border(labels: np.ndarray, steps: int) -> np.ndarray:
    """Pixels that have another label at most ``steps`` rows and columns away."""
    near = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        top, left = max(0, y - steps), max(0, x - steps)
        near[y, x] = (labels[top : y + steps + 1, left : x + steps + 1] != labels[y, x]).any()
    return near


def border(images: Images, ignore: int, share: float) -> np.ndarray:
    """Pixels by (near a border or not, wrong or not)."""
    counts = np.zeros((2, 2), np.int64)
    for truth, prediction, _ in images:
        near = near_border(truth, max(1, round(share * math.hypot(*truth.shape))))
        for place in np.ndindex(truth.shape):
            if truth[place] != ignore:
                counts[int(near[place]), int(truth[place] != prediction[place])] += 1
    return counts


def calibration_error(images: Images, ignore: int, background: int | None, bins: int) -> float:
    """ECE in percent of the pixels that were called a class; nan without any."""
    inside: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for truth, prediction, confidence in images:
        for place in np.ndindex(truth.shape):
            if truth[place] == ignore or prediction[place] in (-1, background):
                continue
            k = min(int(confidence[place] * bins), bins - 1)
            inside[k].append((float(confidence[place]), bool(truth[place] == prediction[place])))
    total = sum(map(len, inside))
    error = 0.0
    for pixels in filter(None, inside):
        confidence_of, right = (sum(values) / len(pixels) for values in zip(*pixels, strict=True))
        error += len(pixels) / total * abs(right - confidence_of)
    return 100 * error if total else math.nan
