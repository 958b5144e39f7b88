"""The error analysis: equal to slow counts, on an evaluation's own files, clear about faults."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hyperclip.analysis.error_inputs import find_result, seen_classes
from hyperclip.analysis.error_page import error_page
from hyperclip.analysis.error_report import error_report
from hyperclip.analysis.errors import (
    BAND,
    BINS,
    SIZES,
    ErrorCounts,
    expected_calibration_error,
    near_border,
)
from hyperclip.commands.analyze_errors import main
from hyperclip.config.keys import load_config
from hyperclip.data import find_dataset
from hyperclip.evaluation import running
from hyperclip.evaluation.asking import dataset_question
from hyperclip.evaluation.results_files import read_results, write_json
from hyperclip.evaluation.saved_predictions import read_predictions
from hyperclip.evaluation.suite import System, make_plan, run_suite
from hyperclip.runtime.program import one_line
from hyperclip.tinyscenes.drawing import SPLITS, render_scene
from PIL import Image

from reference import analysis as slow
from tests.helpers.programs import run_program

CONFIG = "configs/quickstart/hyperclip.yaml"
WEIGHTS = "configs/quickstart/hyperclip_trained.safetensors"
KEYS = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "MODEL.WEIGHTS", WEIGHTS]
IMAGES = 4


def random_images(rng, classes, ignore):
    """Two images of blocks, so that segments have all sizes, and predictions, often right."""
    images = []
    for _ in range(2):
        grid = rng.choice([*range(classes), ignore], (5, 6))
        truth = np.kron(grid, np.ones((3, 4), int))
        truth[rng.random(truth.shape) < 0.03] = 0
        prediction = np.where(truth == ignore, 0, truth)
        noise = rng.integers(-1, classes, truth.shape)
        prediction = np.where(rng.random(truth.shape) < 0.4, noise, prediction)
        confidence = rng.choice([0.0, 0.3, 1.0, rng.random()], truth.shape)
        images.append((truth, prediction, confidence))
    return images


def counted(images, classes, ignore, background=None):
    counts = ErrorCounts(classes, ignore, background)
    for place, image in enumerate(images):
        counts.add(f"image {place}", place, *image)
    return counts


@pytest.mark.parametrize("case", range(8))
def test_counts_against_loops(case):
    rng = np.random.default_rng(case)
    classes, ignore = int(rng.integers(2, 6)), int(rng.choice([255, 65535]))
    background = classes - 1 if case % 2 else None
    images = random_images(rng, classes, ignore)
    counts = counted(images, classes, ignore, background)
    bounds = tuple(least for _, least in SIZES)
    found = [(s.segments, s.pixels, s.right, s.recalls, s.missed) for s in counts.sizes]
    np.testing.assert_allclose(found, slow.sizes(images, ignore, bounds), rtol=1e-9)
    assert all(row[0] for row in found)  # segments of each size
    np.testing.assert_array_equal(counts.border, slow.border(images, ignore, BAND))
    expected = slow.calibration_error(images, ignore, background, BINS)
    assert expected_calibration_error(counts.bins) == pytest.approx(expected, abs=1e-9)
    names = [f"class {k}" for k in range(classes)]
    report = error_report(counts, names, {"flags": [None] * classes, "source": ""}, {})
    pairs = slow.confusion_pairs(images, ignore)
    place = {None: -1} | {name: k for k, name in enumerate(names)}
    for row in report["pairs"]:
        pixels = pairs[place[row["truth"]], place[row["prediction"]]]
        whole = sum((t == place[row["truth"]]).sum() for t, _, _ in images)
        assert row["pixels"] == pixels and row["of_class"] == pytest.approx(100 * pixels / whole)
        assert row["of_errors"] == pytest.approx(100 * pixels / pairs.total())
    assert [row["pixels"] for row in report["pairs"]] == sorted(pairs.values())[::-1][:20]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 60), (120, 90)])
def test_borders_against_loops(size):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (size[0] // 5 + 1, size[1] // 5 + 1)), np.ones((5, 5), int))
    labels = labels[: size[0], : size[1]]
    steps = max(1, round(BAND * math.hypot(*size)))
    np.testing.assert_array_equal(near_border(labels), slow.near_border(labels, steps))


def test_a_whole_image_of_one_label_has_no_border():
    assert not near_border(np.full((30, 40), 7)).any()


def test_nothing_that_counts_is_none_and_no_zero():
    truth = np.full((4, 5), 255)
    report = error_report(
        counted([(truth, np.zeros_like(truth), np.ones(truth.shape))], 2, 255),
        ["a", "b"],
        {"flags": [True, False], "source": ""},
        {},
    )
    assert report["overall"]["mIoU"] is None and report["calibration"]["ECE"] is None
    assert report["border"]["of_errors"] is None and report["images"] == report["pairs"] == []
    assert report["seen"]["groups"]["seen"]["mIoU"] is None


def test_seen_against_unseen_by_hand():
    """Ten pixels of a (seen), ten of b (unseen), of which half are called a, and a background."""
    truth = np.array([[0] * 10, [1] * 10, [2] * 10])
    prediction = np.array([[0] * 10, [0] * 5 + [1] * 3 + [2] * 2, [2] * 9 + [-1]])
    counts = counted([(truth, prediction, np.ones(truth.shape))], 3, 255, background=2)
    seen = {"flags": [True, False, None], "source": "by hand"}
    groups = error_report(counts, ["a", "b", "background"], seen, {})["seen"]["groups"]
    assert groups["unseen"]["taken_for"] == {
        "seen": 50, "unseen": 0, "background": 20, "no class": 0,
    }  # fmt: skip
    assert groups["unseen"]["right"] == 30 and groups["seen"]["right"] == 100
    assert groups["seen"]["mIoU"] == pytest.approx(100 * 10 / 15)
    assert counts.bins[0].sum() == 18  # what was called a or b


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few scenes of each split."""
    root = tmp_path_factory.mktemp("data")
    for split in SPLITS:
        for index in range(IMAGES):
            for kind, array in zip(("images", "labels"), render_scene(split, index), strict=True):
                path = root / "tinyscenes" / split / kind / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


@pytest.fixture(autouse=True)
def _root(data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))


def evaluate(output, names, *overrides):
    """The rows of the shipped model, as tools/evaluate.py makes them."""
    keys = [*KEYS, *overrides, "OUTPUT_DIR", str(output / "rows/tiny")]
    system = System("tiny", load_config(CONFIG, keys))
    rows = run_suite(make_plan([system], names, partial=True), output)
    assert not any("error" in row for row in rows), rows
    return rows


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory):
    """Predictions of the shipped model on seen and on unseen phrases."""
    output = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(data))
        evaluate(output, ["tiny_val_seen", "tiny_val_unseen_b"], "TEST.SAVE_PREDICTIONS", "True")
    return output


@pytest.fixture
def copied(evaluated, tmp_path):
    """The same to be damaged, with one row."""
    shutil.copytree(evaluated, tmp_path / "copied")
    rows = [row for row in read_results(evaluated) if row["benchmark"] == "tiny_val_seen"]
    write_json(rows, tmp_path / "copied/results.json")
    return tmp_path / "copied"


def predictions_of(folder, name="tinyscenes_val_seen"):
    return folder / "rows/tiny/predictions" / name


class Seen(HTMLParser):
    """Tags of a page, with its pictures and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "rect", "line", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_an_evaluation_becomes_a_page(evaluated, tmp_path, capsys):
    """The shipped weights; the figures are those of the row, and the page needs nothing else."""
    arguments = ["--results", str(evaluated), "--dataset", "tiny_val_seen"]
    assert main([*arguments, "--output", str(tmp_path), "--images", "2"]) == 0
    assert "errors.html" in capsys.readouterr().out
    report = json.loads((tmp_path / "errors.json").read_text())
    (row,) = [r for r in read_results(evaluated) if r["benchmark"] == "tiny_val_seen"]
    for key in ("mIoU", "pACC", "mACC"):
        assert report["overall"][key] == pytest.approx(row[key], abs=1e-9)
    assert report["overall"]["images"] == IMAGES and len(report["images"]) == IMAGES
    for found in report["classes"]:
        assert found["IoU"] == pytest.approx(row["IoU"][found["name"]]) and found["seen"] is True
    assert report["seen"]["groups"]["unseen"]["classes"] == 0
    assert sum(size["pixels"] for size in report["sizes"]) == report["overall"]["pixels"]
    text = (tmp_path / "errors.html").read_text(encoding="utf-8")
    page = Seen(text)
    assert page.open == [] and not page.of("script") and not page.of("link")
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?://", text)
    assert len(page.of("img")) == 6 and all(image["alt"] for image in page.of("img"))
    assert all(head["scope"] in ("col", "row") for head in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table")) and "prefers-color-scheme" in text
    assert len(text) < 400_000


def test_saved_files_hold_what_was_counted(evaluated):
    """A background by threshold: its label, and confidence as it was, in steps of 1/65535."""
    result = find_result(evaluated, "tiny_val_unseen_b", "tiny")
    spec = find_dataset("tiny_val_unseen_b")
    assert result.saved.about["names"] == spec.label_names and result.saved.about["system"]
    assert [image["image_id"] for image in result.saved.images] == [
        f"{k:05d}" for k in range(IMAGES)
    ]
    cfg = load_config(CONFIG, KEYS)
    system = System("tiny", cfg).model.eval()
    question = dataset_question(cfg, spec.name)
    image = torch.from_numpy(render_scene("val_unseen", 0)[0].transpose(2, 0, 1).copy())
    with torch.inference_mode():
        (answer,) = system([{"image": image, "question": question}])
    entry = result.saved.images[0]
    labels = np.where(answer["sem_seg_labels"] < 0, 30, answer["sem_seg_labels"])
    np.testing.assert_array_equal(result.saved.labels(entry), labels)
    found = result.saved.confidence(entry)
    np.testing.assert_allclose(found, answer["sem_seg_confidence"].numpy(), atol=1e-5)
    assert 0 < (labels == 30).mean() < 1


def test_saving_changes_no_row_and_is_off_by_itself(evaluated, tmp_path):
    (row,) = evaluate(tmp_path, ["tiny_val_seen"])
    (saved,) = [r for r in read_results(evaluated) if r["benchmark"] == "tiny_val_seen"]
    left_out = ("seconds_per_image", "peak_memory_mb", "fingerprint")
    assert {k: v for k, v in row.items() if k not in left_out} == {
        k: v for k, v in saved.items() if k not in left_out
    }
    assert not (tmp_path / "rows/tiny/predictions").exists()
    with pytest.raises(FileNotFoundError, match="no predictions. Evaluate again with TEST.SAVE_P"):
        main(["--results", str(tmp_path), "--output", str(tmp_path / "out")])


def test_a_row_without_its_predictions_is_evaluated_again(copied):
    """And what is left of an interrupted evaluation is nobody's."""
    folder = predictions_of(copied)
    shutil.rmtree(folder)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir()
    (part / "000099_labels.png").touch()
    evaluate(copied, ["tiny_val_seen"], "TEST.SAVE_PREDICTIONS", "True")
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "tinyscenes_val_seen",
        "tinyscenes_val_unseen_background",
    ]
    assert len(list(folder.iterdir())) == 2 * IMAGES + 1


def test_a_failed_evaluation_leaves_the_earlier_predictions(copied, monkeypatch):
    def stop(*arguments):
        raise ValueError("broken")

    before = (predictions_of(copied) / "predictions.json").read_bytes()
    monkeypatch.setattr(running, "_run", stop)
    keys = [*KEYS, "TEST.SAVE_PREDICTIONS", "True", "OUTPUT_DIR", str(copied / "rows/tiny")]
    cfg = load_config(CONFIG, keys)
    with pytest.raises(ValueError, match="broken"):
        running.evaluate_dataset(cfg, System("tiny", cfg).model, "tinyscenes_val_seen")
    assert (predictions_of(copied) / "predictions.json").read_bytes() == before
    assert not list(predictions_of(copied).parent.glob(".*"))


PROCESSES = """
import sys
from pathlib import Path
import hyperclip.evaluation  # first, see hyperclip/runtime/detectron2.py
import torch
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import launch
from detectron2.utils import comm
from hyperclip.evaluation.running import failing_together
from hyperclip.evaluation.saved_predictions import PredictionWriter

def main(folder):
    writer = PredictionWriter(folder, 2.0)
    with writer.writing():
        comm.synchronize()
        for place in InferenceSampler(5):
            labels = torch.full((2, 3), place - 1)
            confidence = torch.full((2, 3), place - 1.0)
            writer.add({"place": place, "image_id": f"i{place}"}, labels, confidence, 300)
        with failing_together():
            about = {"dataset": "d", "names": ["a"] * 300, "ignore": 65535, "background": "none"}
            writer.finish({**about, "system": "s", "protocol": "p", "trained_on": [], "scores": {}})
    if comm.get_world_size() > 1:
        torch.distributed.destroy_process_group()

if __name__ == "__main__":
    launch(main, int(sys.argv[2]), dist_url="auto", args=(Path(sys.argv[1]),))
"""


def test_two_processes_write_what_one_writes(tmp_path):
    """Also 16-bit labels, and confidences outside of 0..2, which are cut off and counted."""
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    for count in (1, 2):
        done = run_program(script, tmp_path / f"out/{count}", count, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / f"out/{count}").iterdir()}
        for count in (1, 2)
    )
    assert one == two and len(one) == 11
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "2"]
    saved = read_predictions(tmp_path / "out/2")
    assert [saved.labels(image)[0, 0] for image in saved.images] == [-1, 0, 1, 2, 3]
    confidence = [saved.confidence(image)[0, 0] for image in saved.images]
    assert confidence == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)
    assert [image["outside"] for image in saved.images] == [6, 0, 0, 0, 6]


def test_which_classes_were_seen(evaluated, tmp_path):
    seen, unseen = (find_result(evaluated, f"tiny_val_{x}") for x in ("seen", "unseen_b"))
    assert seen_classes(seen)["flags"] == [True] * 60
    assert seen_classes(unseen)["flags"] == [False] * 30 + [None]
    file = tmp_path / "names.txt"
    file.write_text("Red  Plain Circle\nother thing")
    for given in (str(file), "red plain circle, ring; other thing" + "; a long name" + "x" * 400):
        found = seen_classes(unseen, given)
        assert found["flags"] == [True, *[False] * 29, None] and given in found["source"]
    saved = unseen.saved.about
    for trained, words in (([], "does not say"), (["mine"], "mine, whose classes are not known")):
        saved["trained_on"] = trained
        found = seen_classes(unseen)
        assert set(found["flags"]) == {None} and words in found["source"]


def test_names_cannot_break_the_page():
    names = ["<script>alert(1)</script>", 'b"&<i>']
    truth = np.array([[0, 0, 1, 1]])
    counts = counted([(truth, 1 - truth, np.ones(truth.shape))], 2, 255)
    about = {"system": "<b>", "dataset": "d", "protocol": "p", "trained_on": [],
             "largest_confidence": 1.0}  # fmt: skip
    report = error_report(counts, names, {"flags": [None, None], "source": ""}, about)
    report["seen_unknown"] = "<u>"
    text = error_page(report, {})
    assert Seen(text).open == []
    assert not [x for x in ("<script", "<b>", "<u>", "<i>") if x in text]


def no_results(folder):
    (folder / "results.json").unlink()
    return "does not exist: expected the output folder of an evaluated run"


def two_results(folder):
    (row,) = read_results(folder)
    write_json(
        [row, row | {"dataset": "tinyscenes_val_unseen_background"}], folder / "results.json"
    )
    return "has predictions of 2 results"


def another_row(folder):
    (row,) = read_results(folder)
    write_json([row | {"mIoU": 50.0}], folder / "results.json")
    return "do not belong together: evaluate again"


def changed_prediction(folder):
    path = predictions_of(folder) / "000001_labels.png"
    shutil.copy(predictions_of(folder) / "000002_labels.png", path)
    return "do not belong together: evaluate again"


def no_json(folder):
    (predictions_of(folder) / "predictions.json").write_text("{")
    return "is not JSON in UTF-8"


def foreign_index(folder):
    (predictions_of(folder) / "predictions.json").write_text('{"schema": 1, "images": 3}')
    return "is no index of predictions"


def foreign_image(folder):
    path = predictions_of(folder) / "predictions.json"
    path.write_text(path.read_text().replace('"00002"', '"other"'))
    return "got image 'other', which dataset tinyscenes_val_seen has not"


def other_classes(folder):
    path = predictions_of(folder) / "predictions.json"
    path.write_text(path.read_text().replace('"red plain square"', '"red box"'))
    return "has other classes or another ignored label"


def unknown_dataset(folder):
    path = predictions_of(folder) / "predictions.json"
    path.write_text(path.read_text().replace('"dataset": "tinyscenes_val_seen"', '"dataset": "x"'))
    return "predictions of dataset 'x', which no shipped table"


def missing_file(folder):
    (predictions_of(folder) / "000003_confidence.png").unlink()
    return "000003_confidence.png' does not exist, which predictions.json names"


def cut_file(folder):
    path = predictions_of(folder) / "000000_labels.png"
    path.write_bytes(path.read_bytes()[:80])
    return "000000_labels.png' cannot be read"


def other_size(folder):
    path = predictions_of(folder) / "000000_labels.png"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)
    return r"got (5, 6) of uint8, expected whole numbers of (96, 96)"


def label_of_no_class(folder):
    path = predictions_of(folder) / "000000_labels.png"
    Image.fromarray(np.full((96, 96), 77, np.uint8)).save(path)
    return "got the label 77, expected 0 to 59 or 255"


FAULTS = [
    no_results, two_results, another_row, changed_prediction, no_json, foreign_index, foreign_image,
    other_classes, unknown_dataset, missing_file, cut_file, other_size, label_of_no_class,
]  # fmt: skip


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_faults_are_one_line_and_leave_no_file(copied, tmp_path, change):
    words = change(copied)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        main(["--results", str(copied), "--output", str(tmp_path / "out")])
    assert words in one_line(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_name_that_no_row_has(copied):
    with pytest.raises(ValueError, match="got no row for voc21, expected one of .'tiny on tiny"):
        find_result(copied, "voc21")
    with pytest.raises(FileNotFoundError, match="predictions.json' does not exist: evaluate with"):
        read_predictions(copied)
