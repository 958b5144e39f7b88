"""Figures of counted errors, in plain values: what ``errors.json`` holds and the page shows.

Shares and scores are in percent; None stands for what nothing counts for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.confusion import SegmentationScores
from .errors import BAND, BINS, SIZES, ErrorCounts, expected_calibration_error

SCHEMA = 1
PAIRS = 20
"""So many confusion pairs are reported."""
NOBODY = None
"""In place of the name of a class that a pixel did not get."""


def percent(part: float, whole: float) -> float | None:
    """A share in percent, None of nothing."""
    return 100 * float(part) / float(whole) if whole else None


def finite(value: float) -> float | None:
    """None in place of nan."""
    return None if math.isnan(value) else float(value)


def error_report(
    counts: ErrorCounts, names: Sequence[str], seen: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """All figures.

    Args:
        names: of the labels, the background's too. seen: what :func:`seen_classes` says. about:
            what the predictions say of themselves.
    """
    matrix = counts.matrix.counts
    scores = SegmentationScores.from_counts(matrix)
    table = matrix.numpy()
    total, right = int(table.sum()), int(table.diagonal().sum())
    overall = {
        "images": len(counts.images),
        "pixels": total,
        "wrong": total - right,
        "mIoU": finite(scores.miou),
        "pACC": finite(scores.pixel_accuracy),
        "mACC": finite(scores.mean_accuracy),
    }
    return {
        "schema": SCHEMA,
        "about": dict(about),
        "overall": overall,
        "pairs": confusion_pairs(table, names),
        "classes": class_table(table, scores.iou, names, seen["flags"]),
        "seen": seen_report(table, scores.iou, seen),
        "sizes": size_report(counts),
        "border": border_report(counts.border),
        "calibration": calibration_report(counts.bins),
        "images": image_table(counts, names),
    }


def confusion_pairs(table: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The largest entries off the diagonal of (T, T + 1) counts, rows truth, the last column for
    pixels without a class.
    """
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        pixels = int(wrong[row, column])
        if pixels:
            pairs.append(
                {
                    "truth": names[row],
                    "prediction": names[column] if column < len(names) else NOBODY,
                    "pixels": pixels,
                    "of_class": percent(pixels, table[row].sum()),
                    "of_errors": percent(pixels, wrong.sum()),
                }
            )
    return pairs


def class_table(
    table: np.ndarray, iou: Sequence[float], names: Sequence[str], seen: Sequence[bool | None]
) -> list[dict[str, Any]]:
    """A row for each class that is in the truth or predicted, the lowest IoU first."""
    truth, predicted, right = table.sum(1), table[:, :-1].sum(0), table.diagonal()
    rows = [
        {
            "name": name,
            "IoU": float(iou[k]),
            "recall": percent(right[k], truth[k]),
            "precision": percent(right[k], predicted[k]),
            "pixels": int(truth[k]),
            "seen": seen[k],
        }
        for k, name in enumerate(names)
        if not math.isnan(iou[k])
    ]
    return sorted(rows, key=lambda row: (row["IoU"], -row["pixels"]))


def seen_report(
    table: np.ndarray, iou: Sequence[float], seen: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Classes of the training against all others; None if it is not known which these are."""
    flags = seen["flags"]
    if all(flag is None for flag in flags):
        return None
    members = {
        "seen": [k for k, flag in enumerate(flags) if flag],
        "unseen": [k for k, flag in enumerate(flags) if flag is False],
        "background": [k for k, flag in enumerate(flags) if flag is None],
        "no class": [len(flags)],
    }
    groups = {}
    for group in ("seen", "unseen"):
        own = members[group]
        present = [k for k in own if table[k].sum()]
        whole, right = table[own].sum(), table.diagonal()[own].sum()
        taken = {name: table[own][:, columns].sum() for name, columns in members.items()}
        taken[group] -= right
        groups[group] = {
            "classes": len(own),
            "present": len(present),
            "mIoU": float(np.mean([iou[k] for k in present])) if present else None,
            "pixels": int(whole),
            "right": percent(right, whole),
            "taken_for": {name: percent(pixels, whole) for name, pixels in taken.items()},
        }
    return {"source": seen["source"], "groups": groups}


def size_report(counts: ErrorCounts) -> list[dict[str, Any]]:
    """A row for each size of segments of the truth."""
    return [
        {
            "size": name,
            "from": 100 * least,
            "segments": size.segments,
            "pixels": size.pixels,
            "pixel_recall": percent(size.right, size.pixels),
            "segment_recall": percent(size.recalls, size.segments),
            "missed": percent(size.missed, size.segments),
        }
        for (name, least), size in zip(SIZES, counts.sizes, strict=True)
    ]


def border_report(border: np.ndarray) -> dict[str, Any]:
    """How much of the pixels and of the errors is near a border of labels, and how often each
    place is wrong; ``border`` as in :class:`ErrorCounts`.
    """
    far, near = border
    return {
        "band": 100 * BAND,
        "of_pixels": percent(near.sum(), border.sum()),
        "of_errors": percent(near[1], border[:, 1].sum()),
        "wrong_near": percent(near[1], near.sum()),
        "wrong_far": percent(far[1], far.sum()),
    }


def calibration_report(bins: np.ndarray) -> dict[str, Any]:
    """Bins of the confidence, and the expected calibration error."""
    pixels, right, confidence = bins
    rows = [
        {
            "from": k / BINS,
            "to": (k + 1) / BINS,
            "pixels": int(pixels[k]),
            "confidence": percent(confidence[k], pixels[k]),
            "right": percent(right[k], pixels[k]),
        }
        for k in range(BINS)
    ]
    total = pixels.sum()
    return {
        "pixels": int(total),
        "ECE": finite(expected_calibration_error(bins)),
        "confidence": percent(confidence.sum(), total),
        "right": percent(right.sum(), total),
        "bins": rows,
    }


def image_table(counts: ErrorCounts, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each image with pixels that count, the worst first."""
    named = [*names, NOBODY]
    rows = []
    for image in counts.images:
        if not image.pixels:
            continue
        mistake = None
        if image.pair:
            truth, prediction, pixels = image.pair
            share = percent(pixels, image.pixels)
            mistake = {"truth": named[truth], "prediction": named[prediction], "of_image": share}
        rows.append(
            {
                "image_id": image.image_id,
                "place": image.place,
                "mIoU": image.miou,
                "wrong": percent(image.wrong, image.pixels),
                "mistake": mistake,
            }
        )
    return sorted(rows, key=lambda row: (row["mIoU"], -row["wrong"], row["place"]))
