"""Every format holds every pixel: written from label maps of all kinds, and read by the rules of
the programs that they are for.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hyperclip.prediction import Prediction
from hyperclip.results import Answer, build_writers
from hyperclip.vocabulary import builtin
from PIL import Image
from pycocotools.coco import COCO

from tests.helpers.label_maps import CASES, DATA, WORDS, each, made_masks, prediction_of, split


def test_there_are_fifty_label_maps():
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}: real masks are not compared")
    assert len(CASES) >= 50


@each
@split
def test_coco(labels, instances, tmp_path):
    """By pycocotools: masks, areas, boxes, names; nothing overlaps."""
    asked = prediction_of(labels)
    (tmp_path / "coco.json").write_text(json.dumps(asked.to_coco("a.jpg", instances=instances)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco.json"))
    got = np.full(labels.shape, -1)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=1)):
        mask = coco.annToMask(annotation).astype(bool)
        assert (got[mask] == -1).all() and mask.sum() == annotation["area"]
        left, top, width, height = annotation["bbox"]
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        assert mask[top].any() and mask[:, left].any()
        got[mask] = asked.names.index(coco.cats[annotation["category_id"]]["name"])
        assert annotation["score"] == pytest.approx(asked.confidence[mask].mean(), rel=1e-4)
    np.testing.assert_array_equal(got, np.maximum(labels, -1))
    assert [known["name"] for known in coco.dataset["categories"]] == asked.names


@each
@split
def test_panoptic(labels, instances, tmp_path):
    """By panopticapi's rules: ids in the PNG are those of the segments, with their areas."""
    picture, document = prediction_of(labels).to_panoptic(instances=instances)
    Image.fromarray(picture).save(tmp_path / "panoptic.png")
    rgb = np.asarray(Image.open(tmp_path / "panoptic.png")).astype(np.int64)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2]
    (entry,) = json.loads(json.dumps(document))["annotations"]
    assert [image["id"] for image in document["images"]] == [entry["image_id"]] == [1]
    segments = {segment["id"]: segment for segment in entry["segments_info"]}
    assert set(np.unique(ids)) - {0} == segments.keys()
    got = np.full(labels.shape, -1)
    for number, segment in segments.items():
        assert (ids == number).sum() == segment["area"]
        got[ids == number] = segment["category_id"] - 1
    np.testing.assert_array_equal(got, np.maximum(labels, -1))


@each
@split
def test_labelme(labels, instances):
    """As LabelMe paints shapes of masks: from the first point to the second, both inside."""
    asked = prediction_of(labels)
    document = json.loads(json.dumps(asked.to_labelme("a.jpg", instances=instances)))
    got = np.full((document["imageHeight"], document["imageWidth"]), -1)
    for shape in document["shapes"]:
        (left, top), (right, bottom) = shape["points"]
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        place = got[top : bottom + 1, left : right + 1]
        assert mask.shape == place.shape and shape["shape_type"] == "mask"
        place[mask] = asked.names.index(shape["label"])
    np.testing.assert_array_equal(got, np.maximum(labels, -1))


@each
def test_hugging_face_and_numpy_and_the_table(labels, tmp_path):
    asked, got = prediction_of(labels), np.full(labels.shape, -1)
    assert len(asked.to_hf()) == len(np.unique(labels[labels >= 0]))
    for segment in asked.to_hf():
        assert segment.keys() == {"score", "label", "mask"} and segment["mask"].mode == "L"
        mask = np.asarray(segment["mask"])
        assert set(np.unique(mask)) <= {0, 255}
        got[mask == 255] = asked.names.index(segment["label"])
    np.testing.assert_array_equal(got, np.maximum(labels, -1))

    asked.to_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as stored:
        np.testing.assert_array_equal(stored["labels"], labels)
        np.testing.assert_array_equal(stored["confidence"], asked.confidence)
        assert stored["names"].tolist() == asked.names

    rows = {row.name: row for row in asked.to_table()}
    assert list(rows) == asked.names and asked.areas() == {n: r.pixels for n, r in rows.items()}
    for name, row in rows.items():
        mask = asked.mask(name)
        assert row.pixels == mask.sum() and row.share == pytest.approx(mask.mean())
        if row.pixels:
            assert row.confidence == pytest.approx(asked.confidence[mask].mean(), rel=1e-4)
        else:
            assert row.confidence is None


def test_classes_of_one_name_are_counted_together():
    """A released list has names twice; the first of them is predicted, or by synonyms another."""
    names = builtin("ade847").names
    bags = [i for i, name in enumerate(names) if name == "bag"]
    assert len(bags) == 3
    labels = np.full((6, 5), bags[0])
    labels[4] = bags[1]
    labels[5] = -1
    asked = Prediction(labels, np.ones((6, 5), np.float32), names)
    areas = asked.areas()
    assert areas["bag"] == asked.mask("bag").sum() == 25 and sum(areas.values()) == 25
    assert list(areas) == list(dict.fromkeys(names))
    np.testing.assert_array_equal(asked.mask("bag"), labels >= 0)
    assert [row.pixels for row in asked.to_table() if row.name == "bag"] == [20, 5, 0]


def test_hugging_face_as_a_pipeline_of_transformers():
    """Keys, types and the mask, compared with what a pipeline of a tiny model returns."""
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
        pipeline,
    )

    twos = {"depths": [1, 1], "sr_ratios": [2, 1], "patch_sizes": [3, 3], "strides": [4, 2]}
    sizes = {"hidden_sizes": [8, 8], "num_attention_heads": [1, 1], "mlp_ratios": [1, 1]}
    config = SegformerConfig(num_encoder_blocks=2, decoder_hidden_size=8, **twos, **sizes)
    processor = SegformerImageProcessor(size={"height": 32, "width": 32})
    model = SegformerForSemanticSegmentation(config).eval()
    segment = pipeline("image-segmentation", model, image_processor=processor, device="cpu")
    theirs = segment(Image.new("RGB", (40, 30), "red"))
    ours = prediction_of(np.indices((30, 40)).sum(0) // 9).to_hf()
    assert theirs and ours
    for one in theirs + ours:
        assert one.keys() == theirs[0].keys() and isinstance(one["label"], str)
        assert type(one["mask"]) is type(theirs[0]["mask"])
        assert (one["mask"].mode, one["mask"].size) == ("L", (40, 30))
        assert set(np.unique(one["mask"])) <= {0, 255}
    assert all(isinstance(one["score"], float) and 0 <= one["score"] <= 1 for one in ours)


def test_connected_regions_and_the_smallest():
    """Corners connect; regions come class by class, from the top; small ones are left out."""
    labels = np.array([[0, -1, 1, 1], [-1, 0, -1, -1], [1, -1, -1, 0]])
    answer = Answer(labels, np.ones(labels.shape), ["a", "b"])
    parts = [(r.category, r.area, r.box) for r in answer.regions(instances=True)]
    assert parts == [
        (0, 2, (0, 0, 2, 2)),
        (0, 1, (3, 2, 1, 1)),
        (1, 2, (2, 0, 2, 1)),
        (1, 1, (0, 2, 1, 1)),
    ]
    assert [r.area for r in answer.regions(instances=True, smallest=2)] == [2, 2]
    assert [r.area for r in answer.regions(smallest=3)] == [3, 3]
    assert list(answer.regions(smallest=4)) == []


def test_many_images_in_one_file(tmp_path):
    answers = [prediction_of(labels).answer for _, labels in made_masks() if labels.max() < 8]
    (writer,) = build_writers("coco", tmp_path, WORDS)
    for i, answer in enumerate(answers):
        writer.add(str(i), f"{i}.jpg", answer)
    writer.close()
    whole = json.loads((tmp_path / "coco.json").read_text())
    ids = [annotation["id"] for annotation in whole["annotations"]]
    assert ids == list(range(1, len(ids) + 1)) and len(whole["images"]) == len(answers)
    for i, image in enumerate(whole["images"]):
        assert image["file_name"] == f"{i}.jpg" and image["id"] == i + 1


def test_what_cannot_be_an_answer(tmp_path):
    one = np.zeros((2, 3), dtype=int)
    with pytest.raises(ValueError, match=r"labels \(2, 3\) and confidence \(3, 2\), expected"):
        Answer(one, np.ones((3, 2)), ["a"])
    with pytest.raises(ValueError, match="got the label 1, expected below 1"):
        Answer(one + 1, np.ones((2, 3)), ["a"])
    asked = Prediction(one, np.ones((2, 3)), ["truck"])
    with pytest.raises(ValueError, match="'truk', which was not asked. Did you mean 'truck'"):
        asked.mask("truk")
    with pytest.raises(ValueError, match="a.json', expected a name that ends in .npz"):
        asked.to_npz(tmp_path / "a.json")
    assert not list(Path(tmp_path).iterdir())
