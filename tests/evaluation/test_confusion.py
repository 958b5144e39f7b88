"""The confusion matrix and its scores against the recorded ones, wrong input, and the tables of
several runs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from hyperclip.evaluation import ConfusionMatrix, SegmentationScores, SemSegEvaluator
from hyperclip.evaluation.results_files import read_results, write_json
from hyperclip.evaluation.tables import comparison_table
from PIL import Image


def test_recorded_confusion_matrix_and_scores(golden, fake_state):
    """H8: detectron2's SemSegEvaluator on three label maps with an absent class."""
    arrays, want = (
        golden("d_hyperclip_labels.npz"),
        golden("d_hyperclip_labels.json")["SemSegEvaluator"],
    )
    matrix = ConfusionMatrix(21)
    for k in range(3):
        truth = arrays[f"eval_gt_{k}"]
        scores = fake_state.fill(f"h8.{k}", (24, 30, 36), "norm")[:21]
        valid = truth != 255
        rows, columns = np.nonzero(valid)
        scores[np.clip(truth, 0, 20)[valid], rows, columns] += 0.15
        matrix.update(torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(scores).argmax(0))
    np.testing.assert_array_equal(
        matrix.counts[:, :21].T, arrays["eval_conf_SemSegEvaluator"][:21, :21]
    )
    scores = SegmentationScores.from_counts(matrix.counts)
    assert scores.miou == pytest.approx(want["mIoU"], rel=1e-9)
    assert scores.pixel_accuracy == pytest.approx(want["pACC"], rel=1e-9)
    assert scores.mean_accuracy == pytest.approx(want["mACC"], rel=1e-9)
    recorded = [want[f"IoU-c{k}"] for k in range(21)]
    assert sum(isinstance(v, float) and v == v for v in recorded) >= 20
    for ours, theirs in zip(scores.iou, recorded, strict=True):
        if isinstance(theirs, float) and theirs == theirs:  # class 13 is absent from the truth
            assert ours == pytest.approx(theirs, rel=1e-9)


def test_wrong_labels_and_sizes():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="label: got values 0 to 7, expected 0 to 2"):
        matrix.update(torch.tensor([[0, 7]]), torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match=r"size \(1, 3\) for a label map of \(1, 2\)"):
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, 1, 1]]))


def test_evaluator_takes_scores_and_labels(tmp_path):
    MetadataCatalog.get("evaluator_test").set(stuff_classes=["a", "b"], ignore_label=255)
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "x.png")
    record = {"sem_seg_file_name": str(tmp_path / "x.png")}
    scores = torch.tensor([[[0.9, 0.8, 0.1]], [[0.1, 0.2, 0.9]]])
    for output in ({"sem_seg": scores}, {"sem_seg_labels": scores.argmax(0)}):
        evaluator = SemSegEvaluator("evaluator_test")
        evaluator.reset()
        evaluator.process([record], [output])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(25.0)


def test_comparison_table(tmp_path):
    for seed, value in ((1, 40.0), (2, 44.0)):
        row = {
            "system": "one",
            "dataset": "val",
            "mIoU": value,
            "images": 6,
            "protocol": "argmax",
            "seed": seed,
        }
        write_json([row], tmp_path / str(seed) / "results.json")
        assert read_results(tmp_path / str(seed)) == [row]
    first, second = (read_results(tmp_path / name) for name in "12")
    table = comparison_table({"one": [first], "both": [first, second]}, "mIoU")
    assert "| one     | 40.0" in table and "42.0 +- 2.8" in table
    with pytest.raises(
        ValueError, match="both: dataset val is not in the results of each of its 2 runs"
    ):
        comparison_table({"both": [first, [{**second[0], "dataset": "test"}]]}, "mIoU")
    with pytest.raises(FileNotFoundError, match="expected the output folder of an evaluated run"):
        read_results(tmp_path / "3")
