"""What is wrong with annotations is told in one line, before the first image where that can be."""

from __future__ import annotations

import numpy as np
import pytest
from hyperclip.data.checking import check_dataset
from hyperclip.data.dataset_file import read_dataset_file
from PIL import Image

from tests.helpers.annotated import coco, describe, photos, polygon_of_box, read, write_json

MAP = {7: "road", 3: "car", 90: "sky"}
NAMES = {7: "road", 3: "car", 90: "sky"}
INSTANCES = {"format": "coco", "file": "instances.json"}
BOX = polygon_of_box(1, 1, 9, 9)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": [[1, 1, 9, 9]]}, "polygon has 4 numbers, expected x and y of at least"),
        ({"segmentation": [[1, 1, 9, 9, 3]]}, "polygon has 5 numbers"),
        ({"segmentation": [[1, 1, 9, 9, 3, "4"]]}, "polygon is no list of numbers"),
        ({"segmentation": [[1, 1, 9, 9, 3, float("nan")]]}, "coordinates that are not finite"),
        (
            {"segmentation": [[1, 1, 9, 9, 3, 301]]},
            "far outside of the image of 30 x 20 pixels",
        ),
        ({"segmentation": [[1, 1, 9, 9, 3, -1e9]]}, "point far outside of the image"),
        ({"segmentation": [[1, 1, 9, 9, 3, 10**400]]}, "point far outside of the image"),
        ({"segmentation": []}, "annotation 1 of image 1 has no segmentation; a box alone"),
        ({}, "has no segmentation"),
        (
            {"segmentation": [BOX], "category_id": 8},
            "category id: got 8, expected one of",
        ),
        ({"segmentation": [BOX], "image_id": 9}, "annotations of the image ids 9, which it does"),
        ({"segmentation": [BOX], "image_id": "1"}, "image_id: got '1', expected a whole number"),
        (
            {"segmentation": {"size": [20, 31], "counts": [620]}},
            "is for 20 x 31 pixels, expected",
        ),
        ({"segmentation": {"size": [20, 30], "counts": [7]}}, "they end before the image does"),
        ({"segmentation": {"size": [20, 30], "counts": 7.5}}, "counts that are no run lengths"),
        ({"segmentation": 5}, "neither polygons nor run lengths"),
    ],
)
def test_damaged_instances(tmp_path, annotation, message):
    photos(tmp_path, ["a.jpg"])
    entry = {"image_id": 1, "category_id": 3, **annotation}
    write_json(tmp_path / "instances.json", coco(["a.jpg"], [entry], NAMES))
    path = describe(tmp_path, INSTANCES, MAP)
    with pytest.raises(ValueError, match=message):
        read(path)
    (report,) = [check_dataset(spec, 0) for spec in read_dataset_file(path)]
    assert report.status == "faulty"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with"),
        ({"images": []}, "Is it another file?"),
        (coco(["a.jpg", "a.jpg"], [], NAMES), "two images have the file_name 'a.jpg'"),
        (coco(["a.jpg", "photos/a.jpg"], [], NAMES), "a is twice in"),
        (coco(["a.jpg", "b.jpg"], [], NAMES), "no image for .*instances.json"),
        (coco([], [], NAMES), "no label for .*a.jpg"),
        (coco(["a.jpg"], [], {7: "road"}), "got the category ids 3, 90, which"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    photos(tmp_path, ["a.jpg"])
    write_json(tmp_path / "instances.json", content)
    with pytest.raises(ValueError, match=message):
        read(describe(tmp_path, INSTANCES, MAP))


def test_a_size_that_is_not_the_image_s(tmp_path):
    photos(tmp_path, ["a.jpg"])
    write_json(tmp_path / "instances.json", coco(["a.jpg"], [], NAMES, size=(30, 20)))
    (spec,) = read_dataset_file(describe(tmp_path, INSTANCES, MAP))
    assert "has 30 x 20 pixels, its label" in check_dataset(spec, 0).faults[0]


@pytest.mark.parametrize(
    ("labels", "label_map", "message"),
    [
        ({"format": "cocoa", "file": "x"}, MAP, "format: got 'cocoa', expected one of"),
        ({"format": "coco"}, MAP, r"labels of format coco: keys \['file'\] are missing"),
        ({"format": "yolo", "folder": "x", "file": "y"}, MAP, "unknown key 'file'"),
        ({"format": "yolo", "folder": "x", "crowds": "class"}, MAP, "unknown key 'crowds'"),
        ({**INSTANCES, "crowds": "no"}, MAP, "crowds: got 'no', expected one of"),
        (INSTANCES, None, "label_map: got None, expected category ids, whole numbers"),
        (INSTANCES, {"7": "road", 3: "car", 90: "sky"}, "got {'7': 'road'}, expected category ids"),
        (INSTANCES, {7: "road", 3: "car"}, r"no label value means \['sky'\]"),
        (INSTANCES, {7: "road", 3: "car", 90: "tree"}, "got {90: 'tree'}"),
        (
            {"format": "colours", "folder": "masks"},
            {"#FF0000": "road", "#00ff00": "car", "#0000ff": "sky"},
            "got {'#FF0000': 'road'}, expected colours such as",
        ),
        ({"format": "labelme", "folder": "masks"}, {1: "road"}, "expected names, as texts"),
    ],
)
def test_mistakes_in_the_dataset_file(tmp_path, labels, label_map, message):
    with pytest.raises(ValueError, match=message):
        read_dataset_file(describe(tmp_path, labels, label_map))


def test_all_splits_have_one_format(tmp_path):
    splits = {
        "train": {"images": "photos", "labels": INSTANCES},
        "val": {"images": "photos", "labels": "masks"},
    }
    with pytest.raises(ValueError, match=r"formats \['coco', 'masks'\], expected the same"):
        read_dataset_file(describe(tmp_path, INSTANCES, MAP, splits=splits))
    with pytest.raises(ValueError, match="which is for masks of indices"):
        read_dataset_file(describe(tmp_path, INSTANCES, MAP, ignore=[0]))


def test_files_that_are_not_there(tmp_path):
    photos(tmp_path, ["a.jpg"])
    path = describe(tmp_path, INSTANCES, MAP)
    with pytest.raises(FileNotFoundError, match="no file instances.json"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 2: got a box, or a polygon of two points"),
        ("0 0.5 0.5 0.2", "got class 0 with 3 numbers"),
        ("-1 0 0 1 0 1 1", "got class -1"),
        ("car 0 0 1 0 1 1", "got 'car 0 0 1 0 1 1', expected the number of a class"),
        ("0 0 0 640 0 640 480", "got the coordinate 640, expected parts of the image's sides"),
        ("0 0 0 nan 0 1 1", "got the coordinate nan"),
        ("9 0 0 1 0 1 1", "got class 9, expected one of label_map's"),
    ],
)
def test_lines_that_are_no_polygons(tmp_path, text, message):
    photos(tmp_path, ["a.jpg"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"0 0 0 1 0 1 1\n{text}\n")
    path = describe(
        tmp_path, {"format": "yolo", "folder": "labels"}, dict(enumerate(NAMES.values()))
    )
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"shape_type": "line"}, "shape 1: got a 'line', which has no area"),
        ({"points": [[0, 0], [5, 5]]}, "a polygon of 2 points; expected 3"),
        ({"points": [[0, 0], [5, 5], [1]]}, r"points: expected a list of \[x, y\]"),
        ({"label": 7}, "label: got 7, expected a text"),
        ({"label": "tree"}, "got a shape of 'tree', expected a name of label_map"),
        ({"shape_type": "mask", "mask": "bm8="}, "is no PNG"),
        ({"shape_type": ["polygon"]}, r"got a \['polygon'\], which has no area"),
        ({"points": [[0, 0], [5, 0], [5, 301]]}, "a polygon of 'road' has a point far outside"),
        ({"points": [[0, 0], [5, 0], [5, 10**400]]}, "has a point far outside of the image"),
        ({"shape_type": "circle", "points": [[0, 0], [5e6, 0]]}, "a circle of 'road' has a point"),
        ({"shape_type": "rectangle", "points": [[0, 0], [5, -1e12]]}, "a rectangle of 'road' has"),
    ],
)
def test_shapes_that_are_none(tmp_path, shape, message):
    photos(tmp_path, ["a.jpg"])
    whole = {"label": "road", "shape_type": "polygon", "points": [[0, 0], [5, 0], [5, 5]], **shape}
    document = {"shapes": [whole], "imageHeight": 20, "imageWidth": 30}
    write_json(tmp_path / "labels/a.json", document)
    names = {name: name for name in NAMES.values()}
    path = describe(tmp_path, {"format": "labelme", "folder": "labels"}, names)
    with pytest.raises(ValueError, match=message):
        read(path)
    write_json(tmp_path / "labels/a.json", {"boxes": []})
    with pytest.raises(ValueError, match="expected LabelMe's object with a list of shapes"):
        read(path)


def test_sizes_that_only_the_annotations_have(tmp_path):
    """They are refused before memory is taken for such a label."""
    photos(tmp_path, ["a.jpg"])
    message = "has 30 x 20 pixels, its label .* 5000000 x 4000000; expected the same size"
    content = coco(["a.jpg"], [{"image_id": 1, "category_id": 3, "segmentation": [BOX]}], NAMES)
    content["images"][0] |= {"height": 4_000_000, "width": 5_000_000}
    write_json(tmp_path / "instances.json", content)
    with pytest.raises(ValueError, match=message):
        read(describe(tmp_path, INSTANCES, MAP))
    document = {"shapes": [], "imageHeight": 4_000_000, "imageWidth": 5_000_000}
    write_json(tmp_path / "labels/a.json", document)
    names = {name: name for name in NAMES.values()}
    with pytest.raises(ValueError, match=message):
        read(describe(tmp_path, {"format": "labelme", "folder": "labels"}, names))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (30, 20), (255, 0, 0, 128)), "half transparent"),
        (Image.fromarray(np.zeros((20, 30), np.uint16)), "expected 8 bits a channel"),
    ],
)
def test_masks_that_hold_no_colours(tmp_path, image, message):
    photos(tmp_path, ["a.jpg"])
    (tmp_path / "masks").mkdir()
    image.save(tmp_path / "masks/a.png")
    colours = {"#ff0000": "road", "#00ff00": "car", "#0000ff": "sky"}
    path = describe(tmp_path, {"format": "colours", "folder": "masks"}, colours)
    with pytest.raises(ValueError, match=message):
        read(path)
