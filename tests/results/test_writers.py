"""``demo.py --format``: files of a whole run that say what its label maps say."""

from __future__ import annotations

import base64
import csv
import io
import json
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pytest
from hyperclip.commands import demo
from hyperclip.results import WRITERS, build_writers
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image
from pycocotools import mask as run_lengths

from tests.helpers.readers import reader

CONFIG = "configs/quickstart/dense_clip.yaml"
WORDS = ["red plain circle", "blue striped star", "green dotted cross"]


def run(folder, *options):
    """Segment two scenes and a file that is no image; the exit status."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i, name in enumerate(("first.png", "second ÿ.png")):
        Image.fromarray(render_scene("val_seen", i)[0][:, : 90 + i]).save(images / name)
    (images / "text.jpg").write_text("no image")
    given = ["--config-file", CONFIG, "--input", str(images), "--output", str(folder / "out")]
    words = ["--vocabulary", "; ".join(WORDS), "--threshold", "0.615"]
    return demo.main([*given, *words, *options, "--opts", "MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert run(folder, "--format", ",".join(WRITERS)) == 1  # one file is no image
    return folder / "out"


def labels_of(folder, name):
    labels = np.asarray(Image.open(folder / f"{name}_labels.png")).astype(np.int64)
    return np.where(labels == 255, -1, labels)


NAMES = ("first", "second ÿ")


def test_some_pixels_have_no_class_and_some_have(written):
    for name in NAMES:
        assert -1 in labels_of(written, name) and labels_of(written, name).max() >= 0


def test_coco(written):
    whole = json.loads((written / "coco.json").read_text())
    assert [image["file_name"] for image in whole["images"]] == [f"{n}.png" for n in NAMES]
    for image, name in zip(whole["images"], NAMES, strict=True):
        got = np.full((image["height"], image["width"]), -1)
        for known in whole["annotations"]:
            if known["image_id"] == image["id"]:
                got[run_lengths.decode(known["segmentation"]) == 1] = known["category_id"] - 1
        np.testing.assert_array_equal(got, labels_of(written, name))


def test_panoptic(written):
    whole = json.loads((written / "panoptic.json").read_text())
    for entry, image, name in zip(whole["annotations"], whole["images"], NAMES, strict=True):
        assert image["file_name"] == f"{name}.png" and entry["image_id"] == image["id"]
        rgb = np.asarray(Image.open(written / "panoptic" / entry["file_name"])).astype(np.int64)
        ids, got = rgb @ [1, 256, 65536], np.full(rgb.shape[:2], -1)
        for segment in entry["segments_info"]:
            got[ids == segment["id"]] = segment["category_id"] - 1
        np.testing.assert_array_equal(got, labels_of(written, name))


def test_labelme_npz_and_table(written):
    with (written / "table.csv").open(newline="") as file:
        lines = {(line["image"], line["class"]): line for line in csv.DictReader(file)}
    assert len(lines) == len(NAMES) * len(WORDS)
    for name in NAMES:
        labels, got = labels_of(written, name), np.full_like(labels_of(written, name), -1)
        document = json.loads((written / "labelme" / f"{name}.json").read_text())
        assert document["imagePath"] == f"{name}.png"
        for shape in document["shapes"]:
            (left, top), (right, bottom) = shape["points"]
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            got[top : bottom + 1, left : right + 1][mask == 1] = WORDS.index(shape["label"])
        np.testing.assert_array_equal(got, labels)
        with np.load(written / "npz" / f"{name}.npz") as stored:
            np.testing.assert_array_equal(stored["labels"], labels)
        for k, word in enumerate(WORDS):
            assert int(lines[f"{name}.png", word]["pixels"]) == (labels == k).sum()


def test_formats_of_annotation_tools(written):
    """As their readers see them, which test_other_programs.py reads every kind of map with."""
    brush = reader("label_studio_sdk.converter.brush")
    tasks = json.loads((written / "label_studio.json").read_text())
    cvat = ElementTree.parse(written / "cvat.xml").findall("image")
    assert [image.get("name") for image in cvat] == [f"{name}.png" for name in NAMES]
    assert [image.get("id") for image in cvat] == ["0", "1"]
    for name, task, image in zip(NAMES, tasks, cvat, strict=True):
        labels = labels_of(written, name)
        assert task["data"]["image"] == f"/data/local-files/?d={quote(name)}.png"
        got = np.full_like(labels, -1)
        for found in task["predictions"][0]["result"]:
            mask = brush.decode_rle(found["value"]["rle"]).reshape(*labels.shape, 4)[..., 3]
            got[mask == 255] = WORDS.index(found["value"]["brushlabels"][0])
        np.testing.assert_array_equal(got, labels)
        kinds = [WORDS.index(mask.get("label")) for mask in image]
        assert kinds == [k for k in range(len(WORDS)) if (labels == k).any()]
        voc = np.asarray(Image.open(written / "voc" / "SegmentationClass" / f"{name}.png"))
        np.testing.assert_array_equal(voc, labels + 1)
        folder = written / "cityscapes" / "gtFine" / "default"
        ids = np.asarray(Image.open(folder / f"{name}_gtFine_labelIds.png"))
        np.testing.assert_array_equal(ids, labels + 1)
    listed = written / "voc" / "ImageSets" / "Segmentation" / "default.txt"
    assert listed.read_text(encoding="utf-8").splitlines() == list(NAMES)


def test_more_classes_than_a_format_holds(tmp_path):
    """Refused before anything is computed; other formats take them, and the demo's label map has
    16 bits then.
    """
    many = "; ".join(f"thing {i}" for i in range(300))
    with pytest.raises(ValueError, match="format voc: got 300 classes, expected at most 254"):
        run(tmp_path, "--format", "coco,voc", "--vocabulary", many)
    assert not (tmp_path / "out").exists()
    run(tmp_path, "--format", "coco,npz", "--vocabulary", many)
    labels = np.asarray(Image.open(tmp_path / "out" / "first_labels.png"))
    assert labels.dtype == np.uint16
    with np.load(tmp_path / "out" / "npz" / "first.npz") as stored:
        assert len(stored["names"]) == 300
        np.testing.assert_array_equal(stored["labels"] % 2**16, labels)


def test_regions_on_request(tmp_path):
    run(tmp_path, "--format", "coco", "--instances", "--smallest", "20")
    whole = json.loads((tmp_path / "out" / "coco.json").read_text())
    areas = [known["area"] for known in whole["annotations"]]
    assert len(areas) > len(WORDS) and min(areas) >= 20
    assert not (tmp_path / "out" / "panoptic.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "coco,cocco"], "--format: got 'cocco', expected .* Did you mean coco"),
        (["--format", "coco", "--smallest", "0"], "--smallest: got 0, expected a number of pix"),
    ],
)
def test_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *options)
    assert not (tmp_path / "out").exists()


def test_each_format_once(tmp_path):
    assert len(build_writers(" coco,npz ,coco,", tmp_path, WORDS)) == 2
    assert build_writers("", tmp_path, WORDS) == []
