"""Formats of annotation tools, written from label maps of all kinds and read by the tools' own
readers: no pixel and no name changes.
"""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hyperclip.prediction import Prediction
from hyperclip.results import build_writers
from PIL import Image

from tests.helpers.label_maps import WORDS, each, prediction_of, split
from tests.helpers.readers import reader


def written(folder, labels, form, **options):
    """The prediction, whose files of a format are in the folder."""
    asked = prediction_of(labels)
    (writer,) = build_writers(form, folder, asked.names, **options)
    writer.add("a b", "a b.png", asked.answer)
    writer.close()
    return asked


def read_by_datumaro(folder, form, shape):
    """The labels of the only image, -1 where no mask is, and the names of all labels."""
    datumaro = reader("datumaro")
    dataset = datumaro.Dataset.import_from(str(folder), form)
    (item,) = dataset
    assert item.id == "a b"
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    got = np.full(shape, -1)
    for annotation in item.annotations:
        mask = np.asarray(annotation.image).astype(bool)
        assert mask.shape == shape and (got[mask] == -1).all()
        got[mask] = annotation.label
    return got, names


def too_many(labels):
    return len(prediction_of(labels).names) > 254


@each
def test_voc(labels, tmp_path):
    if too_many(labels):
        with pytest.raises(ValueError, match="format voc: got 1000 classes, expected at most 254"):
            written(tmp_path, labels, "voc")
        assert not list(tmp_path.iterdir())
        return
    asked = written(tmp_path, labels, "voc")
    got, names = read_by_datumaro(tmp_path / "voc", "voc_segmentation", labels.shape)
    np.testing.assert_array_equal(got, np.maximum(labels, -1) + 1)
    assert names == ["background", *asked.names]
    stored = np.asarray(Image.open(tmp_path / "voc" / "SegmentationClass" / "a b.png"))
    np.testing.assert_array_equal(stored, np.asarray(asked.to_voc().mask))
    assert (tmp_path / "voc" / "labelmap.txt").read_text() == asked.to_voc().labelmap


@each
def test_cityscapes(labels, tmp_path):
    if too_many(labels):
        with pytest.raises(ValueError, match="format cityscapes: got 1000 classes, expected at mo"):
            written(tmp_path, labels, "cityscapes")
        assert not list(tmp_path.iterdir())
        return
    asked = written(tmp_path, labels, "cityscapes")
    (tmp_path / "cityscapes" / "leftImg8bit" / "default").mkdir(parents=True)
    got, names = read_by_datumaro(tmp_path / "cityscapes", "cityscapes", labels.shape)
    np.testing.assert_array_equal(got[labels >= 0], labels[labels >= 0] + 1)
    assert (got[labels < 0] == -1).all()
    assert names == ["unlabeled", *asked.names]
    for kind in ("labelIds", "instanceIds"):
        file = tmp_path / "cityscapes" / "gtFine" / "default" / f"a b_gtFine_{kind}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), asked.to_cityscapes().label_ids)
    colors = np.asarray(Image.open(file.with_name("a b_gtFine_color.png")))
    known = np.array(asked.to_cityscapes().meta["segmentation_colors"])
    np.testing.assert_array_equal(colors, known[np.maximum(labels, -1) + 1])


def test_colors_differ_and_are_those_of_pascal_voc():
    """The first ones are in every copy of Pascal VOC."""
    image = Prediction(np.zeros((1, 1), dtype=int), np.ones((1, 1)), ["a"]).to_voc().mask
    colors = np.array(image.getpalette()).reshape(256, 3)
    assert colors[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[20].tolist() == [0, 64, 128] and colors[255].tolist() == [224, 224, 192]
    assert len(np.unique(colors, axis=0)) == 256


@each
@split
def test_cvat(labels, instances, tmp_path):
    asked = written(tmp_path, labels, "cvat", instances=instances)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.png").touch()  # which datumaro looks for; the sizes are in the file
    got, names = read_by_datumaro(tmp_path, "cvat", labels.shape)
    np.testing.assert_array_equal(got, np.maximum(labels, -1))
    assert names == asked.names
    text = (tmp_path / "cvat.xml").read_text(encoding="utf-8")
    one = asked.to_cvat("a b.png", instances=instances)
    assert text == one.annotations
    assert json.loads((tmp_path / "cvat_labels.json").read_text()) == one.labels
    assert [known["name"] for known in one.labels] == asked.names
    ids = [image.get("id") for image in ElementTree.fromstring(text).iter("image")]
    assert ids == ["0"]


@each
def test_label_studio(labels, tmp_path):
    """By the decoder of label-studio-sdk, and its reader of labelling interfaces."""
    asked = written(tmp_path, labels, "label-studio")
    brush = reader("label_studio_sdk.converter.brush")
    configs = reader("label_studio_sdk._extensions.label_studio_tools.core.label_config")
    (task,) = json.loads((tmp_path / "label_studio.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=a%20b.png"}
    config = configs.parse_config((tmp_path / "label_studio.xml").read_text(encoding="utf-8"))
    assert config["label"]["labels"] == asked.names and config["label"]["type"] == "BrushLabels"
    assert config["label"]["to_name"] == ["image"]
    got = np.full(labels.shape, -1)
    (prediction,) = task["predictions"]
    for found in prediction["result"]:
        assert (found["from_name"], found["to_name"]) == ("label", "image")
        assert (found["original_height"], found["original_width"]) == labels.shape
        decoded = brush.decode_rle(found["value"]["rle"]).reshape(*labels.shape, 4)
        assert set(np.unique(decoded)) <= {0, 255} and (decoded == decoded[..., :1]).all()
        mask = decoded[..., 3] == 255
        assert (got[mask] == -1).all()
        (name,) = found["value"]["brushlabels"]
        got[mask] = asked.names.index(name)
        assert found["score"] == pytest.approx(asked.confidence[mask].mean(), rel=1e-4)
    np.testing.assert_array_equal(got, np.maximum(labels, -1))


def test_label_studio_of_instances():
    labels = np.indices((9, 11)).sum(0) // 4 % 2
    task = prediction_of(labels).to_label_studio("a.jpg", instances=True, smallest=9).task
    (prediction,) = task["predictions"]
    ids = [found["id"] for found in prediction["result"]]
    regions = list(prediction_of(labels).answer.regions(instances=True, smallest=9))
    assert len(set(ids)) == len(ids) == len(regions) > 2
    brush = reader("label_studio_sdk.converter.brush")
    for found, region in zip(prediction["result"], regions, strict=True):
        decoded = brush.decode_rle(found["value"]["rle"]).reshape(9, 11, 4)
        np.testing.assert_array_equal(decoded[..., 3] == 255, region.mask)


def test_label_studio_of_a_long_run_and_other_names():
    """More pixels than a run holds; annotations, other tags."""
    labels = np.zeros((300, 400), dtype=int)
    labels[299, 399] = -1
    asked = Prediction(labels, np.ones(labels.shape), ["sky"])
    options = {"from_name": "tag", "to_name": "photo", "as_annotations": True}
    task, config = asked.to_label_studio("https://example.org/a.jpg", **options)
    assert task["data"] == {"photo": "https://example.org/a.jpg"} and "predictions" not in task
    ((found,),) = (annotation["result"] for annotation in task["annotations"])
    brush = reader("label_studio_sdk.converter.brush")
    layers = brush.decode_from_annotation("tag", [{**found, **found["value"]}])
    np.testing.assert_array_equal(layers["tag-sky-0"] == 255, labels == 0)
    theirs = brush.mask2rle((labels == 0).astype(np.uint8) * 255)
    assert len(found["value"]["rle"]) <= len(theirs)
    view = ElementTree.fromstring(config)
    assert view.find("BrushLabels").attrib == {"name": "tag", "toName": "photo"}
    assert view.find("Image").attrib == {"name": "photo", "value": "$photo"}


@each
@split
def test_supervision(labels, instances):
    asked = prediction_of(labels)
    detections = asked.to_supervision(instances=instances)
    areas = [region.area for region in asked.answer.regions(instances)]
    assert detections.area.tolist() == areas and detections.is_empty() == (not areas)
    got = np.full(labels.shape, -1)
    for box, mask, confidence, kind, _, data in detections:
        left, top, right, bottom = box.astype(int).tolist()
        assert mask[top:bottom, left:right].sum() == mask.sum() and (got[mask] == -1).all()
        assert confidence == pytest.approx(asked.confidence[mask].mean(), rel=1e-4)
        assert data["class_name"] == asked.names[kind]
        got[mask] = kind
    np.testing.assert_array_equal(got, np.maximum(labels, -1))
    if areas:
        of_first = detections[detections.class_id == detections.class_id[0]]
        assert (of_first["class_name"] == asked.names[detections.class_id[0]]).all()


def test_without_supervision_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[formats\]" in the repo'):
        prediction_of(np.zeros((2, 2), dtype=int)).to_supervision()


@pytest.mark.parametrize(
    ("form", "names", "message"),
    [
        ("voc", ["a", "b:c"], "got the name 'b:c', which labelmap.txt cannot hold"),
        ("voc", ["#a"], "got the name '#a'"),
        ("voc", [" a"], "got the name ' a'"),
        ("voc", ["a", "background"], "called 'background', which the format calls pixels of no cl"),
        ("voc", ["a\nb"], "got the name .*, expected no control characters"),
        ("voc", ["a", "a"], "got the name 'a' twice"),
        ("cityscapes", ["unlabeled"], "called 'unlabeled', which"),
        ("cityscapes", ["a", "b", "a"], "got the name 'a' twice"),
        ("cityscapes", [str(i) for i in range(255)], "got 255 classes, expected at most 254"),
        ("cvat", ["a\x00"], "expected no control characters"),
        ("cvat", [""], "got an empty name"),
        ("cvat", ["é" * 64, "é" * 65], "got a name of 65 characters, .*, expected at most 64"),
        ("label-studio", ["\ud800"], "expected no control characters"),
        ("label-studio", ["a", "b", "b"], "got the name 'b' twice"),
        ("table", ["a\rb"], "expected no control characters"),
    ],
)
def test_names_that_a_format_cannot_hold(form, names, message, tmp_path):
    with pytest.raises(ValueError, match=f"format {form}: .*{message}"):
        build_writers(f"coco,{form}", tmp_path, names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("to_voc", ()),
        ("to_cityscapes", ()),
        ("to_cvat", ("a.jpg",)),
        ("to_label_studio", ("a.jpg",)),
    ],
)
def test_names_that_a_method_cannot_hold(method, given):
    labels = np.zeros((2, 3), dtype=int)
    asked = Prediction(labels, np.ones(labels.shape), ["a", "b", "a"])
    with pytest.raises(ValueError, match="got the name 'a' twice"):
        getattr(asked, method)(*given)


@pytest.mark.parametrize("form", ["voc", "cityscapes"])
def test_the_most_classes_of_eight_bits(form, tmp_path):
    labels = np.arange(254).reshape(2, 127)
    names = [*WORDS, *(f"class {i}" for i in range(len(WORDS), 254))]
    asked = Prediction(labels, np.ones(labels.shape), names)
    picture = np.asarray(asked.to_voc().mask if form == "voc" else asked.to_cityscapes().label_ids)
    np.testing.assert_array_equal(picture, labels + 1)


def test_names_that_xml_needs_to_escape(tmp_path):
    names = ["<b>&amp;", "a  b", " a ", "]]>", "&#10;", '"', "🐕"]
    labels = np.arange(7).reshape(1, 7)
    asked = Prediction(labels, np.ones(labels.shape), names)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.png").touch()
    (tmp_path / "cvat.xml").write_text(asked.to_cvat("a b.png").annotations, encoding="utf-8")
    got, read = read_by_datumaro(tmp_path, "cvat", labels.shape)
    assert read == names
    np.testing.assert_array_equal(got, labels)
