"""The evaluator: equal to a NumPy oracle under every protocol, exact over several processes, lean,
and clear about faults.
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from hyperclip.data import DATASETS, find_dataset
from hyperclip.evaluation import SemSegEvaluator
from hyperclip.evaluation.confusion import BoundaryCounts, boundary_band
from hyperclip.evaluation.evaluator import to_dataset_labels
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from reference import evaluation as reference
from tests.helpers.programs import run_program


@pytest.fixture
def registered(monkeypatch):
    """Register a dataset of so many classes for one test; the background, if any, is the last."""

    def make(name: str, classes: int, background: str = "none", ignore: int = 255):
        names = [f"class {k}" for k in range(classes)]
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)
        MetadataCatalog.get(name).set(stuff_classes=names, ignore_label=ignore)
        vocabulary = Vocabulary.from_names(names[: classes - (background != "none")])
        spec = dataclasses.replace(
            find_dataset("a150"),
            name=name,
            alias=name,
            background=background,
            ignore=ignore,
            vocabularies={"catseg": vocabulary},
        )
        monkeypatch.setitem(DATASETS, name, spec)
        return name

    yield make
    for name in [n for n in MetadataCatalog.list() if n.startswith("evaluator_")]:
        MetadataCatalog.remove(name)


def random_case(rng, background):
    """Classes T, the ignored label, and two (truth, answer) pairs of random sizes."""
    classes = int(rng.integers(2 if background != "none" else 1, 9))
    ignore = int(rng.choice([255, classes, 65535]))
    pairs = []
    for _ in range(2):
        size = tuple(rng.integers(1, 12, 2))
        some = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
        truth = rng.choice([*some, ignore], size)
        prompts = classes + 3 if background == "fold" else classes - (background == "threshold")
        pairs.append((truth, rng.integers(-int(rng.integers(0, 2)), prompts, size)))
    return classes, ignore, pairs


@pytest.mark.parametrize("background", ["none", "threshold", "fold"])
def test_1000_random_cases_against_the_oracle(tmp_path, registered, background):
    """Both definitions of mIoU, all protocols: argmax, abstain (none with -1), threshold, fold."""
    rng = np.random.default_rng(["none", "threshold", "fold"].index(background))
    for case in range(400 if background == "none" else 300):
        classes, ignore, pairs = random_case(rng, background)
        evaluator = SemSegEvaluator(registered("evaluator_oracle", classes, background, ignore))
        for k, (truth, answer) in enumerate(pairs):
            Image.fromarray(truth.astype(np.uint16)).save(tmp_path / f"{k}.png")
            record = {"sem_seg_file_name": str(tmp_path / f"{k}.png")}
            evaluator.process([record], [{"sem_seg_labels": torch.from_numpy(answer)}])
        counted = [(t, reference.apply_background(a, classes, background)) for t, a in pairs]
        expected, found = (
            reference.scores(counted, classes, ignore),
            evaluator.evaluate()["sem_seg"],
        )
        for key in ("mIoU", "mIoU_old", "pACC", "mACC"):
            assert found[key] == pytest.approx(expected[key], rel=1e-12, nan_ok=True), (case, key)
        for k, value in enumerate(expected["IoU"]):
            assert found.get(f"IoU-class {k}", math.nan) == pytest.approx(
                value, rel=1e-12, nan_ok=True
            ), (case, k)


@pytest.mark.parametrize("seed", range(20))
def test_boundary_iou_against_the_oracle(seed):
    rng = np.random.default_rng(seed)
    classes, dilation = int(rng.integers(1, 5)), float(rng.choice([0.02, 0.1, 0.2]))
    pairs = []
    for _ in range(2):
        size = tuple(rng.integers(1, 6, 2))
        large = [np.kron(rng.integers(low, classes, size), np.ones((5, 4), int)) for low in (0, -1)]
        large[0][rng.random(large[0].shape) < 0.05] = 255
        pairs.append((large[0], large[1]))
    counts = BoundaryCounts(classes)
    for truth, prediction in pairs:
        width = max(1, round(dilation * float(np.hypot(*truth.shape))))
        for labels in (truth, prediction):
            expected = sum(reference.band(labels, int(k), width) for k in np.unique(labels)).astype(
                bool
            )
            np.testing.assert_array_equal(boundary_band(labels, dilation), expected)
    if dilation == 0.02:
        for truth, prediction in pairs:
            counts.update(truth, prediction)
        assert counts.miou() == pytest.approx(
            reference.boundary_miou(pairs, classes, 255, dilation), rel=1e-12, nan_ok=True
        )


def test_recorded_scores_of_the_background_protocol(golden, fake_state, tmp_path, registered):
    """H8: the released evaluator of VOC-20b, where the scores of 24 prompts are folded to 20
    classes and a background.
    """
    arrays, want = (
        golden("d_hyperclip_labels.npz"),
        golden("d_hyperclip_labels.json")["VOCbEvaluator"],
    )
    evaluator = SemSegEvaluator(registered("evaluator_voc_b", 21, "fold"))
    for k in range(3):
        truth = arrays[f"eval_gt_{k}"]
        scores = fake_state.fill(f"h8.{k}", (24, 30, 36), "norm")
        valid = truth != 255
        scores[np.clip(truth, 0, 20)[valid], *np.nonzero(valid)] += 0.15
        Image.fromarray(truth).save(tmp_path / f"{k}.png")
        evaluator.process(
            [{"sem_seg_file_name": str(tmp_path / f"{k}.png")}],
            [{"sem_seg": torch.from_numpy(scores)}],
        )
    np.testing.assert_array_equal(
        evaluator.matrix.counts[:, :21].T, arrays["eval_conf_VOCbEvaluator"][:21, :21]
    )
    found = evaluator.evaluate()["sem_seg"]
    assert [found[k] for k in ("mIoU", "pACC", "mACC")] == pytest.approx(
        [want[k] for k in ("mIoU", "pACC", "mACC")], rel=1e-9
    )


def test_answers_become_labels():
    answer = torch.tensor([-1, 0, 2, 5])
    assert to_dataset_labels(answer, 3, "none").tolist() == [-1, 0, 2, 5]
    assert to_dataset_labels(answer, 3, "threshold").tolist() == [2, 0, 2, 5]
    assert to_dataset_labels(answer, 3, "fold").tolist() == [2, 0, 2, 2]


def test_a_faulty_label_is_named(tmp_path, registered):
    evaluator = SemSegEvaluator(registered("evaluator_faulty", 3))
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(tmp_path / "seven.png")
    record = {"sem_seg_file_name": str(tmp_path / "seven.png")}
    with pytest.raises(
        ValueError, match="evaluator_faulty, .*seven.png: label: got values 7 to 7, expected 0 to 2"
    ):
        evaluator.process([record], [{"sem_seg_labels": torch.zeros(2, 2, dtype=torch.int64)}])
    with pytest.raises(ValueError, match="seven.png: prediction of size"):
        evaluator.process([record], [{"sem_seg_labels": torch.zeros(2, 3, dtype=torch.int64)}])


def test_scores_of_each_image(tmp_path, registered):
    evaluator = SemSegEvaluator(
        registered("evaluator_each", 2), per_image=tmp_path / "out" / "each.jsonl"
    )
    Image.fromarray(np.array([[0, 0, 1, 255]], np.uint8)).save(tmp_path / "a.png")
    for image_id, prediction in (("first", [[0, 0, 1, 1]]), ("second", [[1, 0, 1, 0]])):
        record = {"sem_seg_file_name": str(tmp_path / "a.png"), "image_id": image_id}
        evaluator.process([record], [{"sem_seg_labels": torch.tensor(prediction)}])
    evaluator.evaluate()
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "each.jsonl").read_text().splitlines()
    ]
    assert [line["image_id"] for line in lines] == ["first", "second"]
    assert lines[0]["mIoU"] == 100 and lines[1] == {
        "image_id": "second",
        "mIoU": 50.0,
        "pACC": pytest.approx(200 / 3),
    }
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["each.jsonl"]


PROCESSES = """
import json, sys
import hyperclip.evaluation  # first, see hyperclip/runtime/detectron2.py
import numpy as np, torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import launch
from detectron2.utils import comm
from hyperclip.evaluation import SemSegEvaluator
from pathlib import Path

def main(folder):
    MetadataCatalog.get("evaluator_seven").set(stuff_classes=["a", "b", "c"], ignore_label=255)
    evaluator = SemSegEvaluator("evaluator_seven", boundary=True, per_image=folder / f"each_{comm.get_world_size()}.jsonl")
    for i in InferenceSampler(7):
        answer = torch.from_numpy(np.random.default_rng(i).integers(-1, 3, (20, 30)))
        evaluator.process([{"sem_seg_file_name": str(folder / f"{i}.png"), "image_id": i}], [{"sem_seg_labels": answer}])
    scores = evaluator.evaluate()
    if comm.is_main_process():
        (folder / f"{comm.get_world_size()}.json").write_text(json.dumps(scores["sem_seg"]))
    else:
        assert scores is None
    if comm.get_world_size() > 1:
        torch.distributed.destroy_process_group()  # a process that only ends may be aborted

if __name__ == "__main__":
    launch(main, int(sys.argv[2]), dist_url="auto", args=(Path(sys.argv[1]),))
"""  # noqa: E501


def test_1_2_and_3_processes_agree_exactly_on_7_images(tmp_path):
    for i in range(7):
        truth = np.random.default_rng(100 + i).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
        Image.fromarray(truth).save(tmp_path / f"{i}.png")
    (tmp_path / "run.py").write_text(PROCESSES)
    for count in (1, 2, 3):
        done = run_program(tmp_path / "run.py", tmp_path, count)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two, three = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2, 3))
    assert one["images"] == 7 and one == two == three
    lines = [(tmp_path / f"each_{count}.jsonl").read_text() for count in (1, 2, 3)]
    assert len(lines[0].splitlines()) == 7 and lines[0] == lines[1] == lines[2]
