"""C5: the released metric, read off our confusion matrix, and the mean IoU of C4's evaluations."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hyperclip.evaluation import ConfusionMatrix, SegmentationScores


def count(golden, classes, ignore_background, pairs):
    """Count pairs of (truth, prediction) whose label 0 is the background."""
    shift = int(ignore_background)
    matrix = ConfusionMatrix(classes - shift)
    for truth, prediction in pairs:
        truth, prediction = (torch.from_numpy(x.astype(np.int64)) for x in (truth, prediction))
        ignored = (truth == 255) | ((truth == 0) & ignore_background)
        matrix.update(torch.where(ignored, 255, truth - shift), prediction - shift)
    return matrix


@pytest.mark.parametrize(("key", "ignore_background"), [("255", False), ("0-255", True)])
def test_metric(golden, key, ignore_background):
    recorded = golden("c5_metric.npz")
    pairs = [(recorded[f"true{k}"], recorded[f"pred{k}"]) for k in range(3)]
    matrix = count(golden, 8, ignore_background, pairs)
    expected = recorded[f"hist_{key}"]
    # predicting the background there is an abstention: a miss, and nobody's false positive
    if ignore_background:
        assert (matrix.counts == torch.from_numpy(np.roll(expected[1:], -1, axis=1)).long()).all()
    else:
        assert (
            matrix.counts[:, :8] == torch.from_numpy(expected).long()
        ).all() and not matrix.counts[:, 8].any()
    scores, accuracy, miou = (
        SegmentationScores.from_counts(matrix.counts),
        recorded[f"result_{key}"][0],
        recorded[f"result_{key}"][2],
    )
    assert scores.pixel_accuracy / 100 == pytest.approx(accuracy, abs=1e-6)
    assert scores.miou / 100 == pytest.approx(miou, abs=1e-6)
    iou = np.nan_to_num(np.array(scores.iou) / 100)
    np.testing.assert_allclose(iou, recorded[f"iou_{key}"][int(ignore_background) :], atol=1e-6)
    # released: over all classes, absent ones as 0
    recall = matrix.counts.diagonal() / matrix.counts.sum(1).clamp_min(1)
    assert recall.sum().item() / 8 == pytest.approx(recorded[f"result_{key}"][1], abs=1e-6)


def test_mean_iou_of_the_whole_evaluation(golden):
    recorded = golden("c4_postprocess.npz")
    names = [name for name in recorded if name.startswith("main_miou_")]
    assert len(names) == 5
    for name in names:
        labels = recorded[name.replace("miou", "label")]
        ignore_background = re.search(r"ign0-255$", name) is not None
        matrix = count(golden, 6, ignore_background, [(recorded["main_mask"], labels)])
        assert SegmentationScores.from_counts(matrix.counts).miou / 100 == pytest.approx(
            recorded[name].item(), abs=2e-5
        )
