"""Annotations that are no masks of indices are read as an obvious reader does, pixel by pixel."""

from __future__ import annotations

import base64
import io
import pickle

import numpy as np
import pytest
from hyperclip.data.annotations.formats import FORMATS, KEY_WORDS
from hyperclip.data.checking import check_dataset
from hyperclip.data.dataset_file import read_dataset_file
from hyperclip.data.label_maps import read_record_label
from hyperclip.data.records import load_records
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from tests.helpers.annotated import (
    coco,
    describe,
    photos,
    polygon_of_box,
    read,
    runs_of,
    write_json,
)

MAP = {7: "road", 3: "car", 90: "sky"}
CATEGORIES = {7: "road", 3: "car", 90: "sky"}
INSTANCES = {"format": "coco", "file": "instances.json"}


def test_every_format_has_words_for_its_keys():
    assert set(KEY_WORDS) == set(FORMATS)


def test_coco_polygons_runs_crowds_and_overlaps(tmp_path):
    photos(tmp_path, ["a.jpg", "sub/ä b.jpg", "empty.png"])
    disc = np.hypot(*np.mgrid[-10:10, -15:15]) < 6
    compressed = coco_masks.encode(np.asfortranarray(disc.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    crowd = np.zeros((20, 30), bool)
    crowd[:, 20:] = True
    annotations = [
        # the small one comes first in the file, and is still seen
        {"image_id": 1, "category_id": 3, "segmentation": [polygon_of_box(4, 5, 8, 9)]},
        {
            "image_id": 1,
            "category_id": 7,
            "segmentation": [polygon_of_box(2, 2, 12, 18), polygon_of_box(18, 1, 25, 4)],
        },
        {"image_id": 1, "category_id": 90, "iscrowd": 1, "segmentation": runs_of(crowd)},
        {"image_id": 2, "category_id": 90, "segmentation": compressed},
        # of two that are equally large the later one is seen
        {"image_id": 2, "category_id": 3, "segmentation": [polygon_of_box(0, 0, 3, 3)]},
        {"image_id": 2, "category_id": 7, "segmentation": [polygon_of_box(1, 1, 4, 4)]},
    ]
    names = ["a.jpg", "sub/ä b.jpg", "photos/empty.jpeg"]
    write_json(tmp_path / "instances.json", coco(names, annotations, CATEGORIES))
    first = np.full((20, 30), 255)
    first[2:18, 2:12], first[1:4, 18:25], first[5:9, 4:8] = 0, 0, 1
    second = np.where(disc, 2, 255)
    second[:3, :3], second[1:4, 1:4] = 1, 0
    found = read(describe(tmp_path, INSTANCES, MAP))
    assert list(found) == ["a", "empty", "sub/ä b"]
    assert (found["a"] == first).all() and (found["sub/ä b"] == second).all()
    assert (found["empty"] == 255).all()
    counted = read(describe(tmp_path, {**INSTANCES, "crowds": "class"}, MAP))["a"]
    assert (counted == np.where(crowd & (first == 255), 2, first)).all()
    background = read(describe(tmp_path, INSTANCES, MAP, background="threshold"))["a"]
    assert (background == np.where(crowd | (first != 255), first, 3)).all()


def test_records_travel_to_workers_with_their_labels(tmp_path):
    photos(tmp_path, ["a.jpg"])
    box = {"image_id": 1, "category_id": 3, "segmentation": [polygon_of_box(0, 0, 30, 20)]}
    write_json(tmp_path / "instances.json", coco(["a.jpg"], [box], CATEGORIES))
    (spec,) = read_dataset_file(describe(tmp_path, INSTANCES, MAP))
    (record,) = pickle.loads(pickle.dumps(load_records(spec)))
    assert (read_record_label(record) == 1).all()
    report = check_dataset(spec, 0)
    assert (report.status, report.pixels.tolist()) == ("ready", [0, 600, 0, 0])


def test_panoptic_pngs(tmp_path):
    photos(tmp_path, ["a.jpg", "b.jpg"])
    ids = np.random.default_rng(0).choice([0, 5, 300, 70000, 9], (2, 20, 30))
    for name, one in zip("ab", ids, strict=True):
        png = np.stack([one % 256, one // 256 % 256, one // 65536], -1).astype(np.uint8)
        (tmp_path / "pngs").mkdir(exist_ok=True)
        Image.fromarray(png).save(tmp_path / f"pngs/{name}.png")
    segments = [
        {"id": 5, "category_id": 7},
        {"id": 300, "category_id": 90},
        {"id": 70000, "category_id": 7},
        {"id": 9, "category_id": 3, "iscrowd": 1},
    ]
    content = coco(["a.jpg", "b.jpg"], [], CATEGORIES)
    content["annotations"] = [
        {"image_id": k, "file_name": f"{name}.png", "segments_info": segments}
        for k, name in ((1, "a"), (2, "b"))
    ]
    write_json(tmp_path / "panoptic.json", content)
    meaning = {0: 255, 5: 0, 300: 2, 70000: 0, 9: 255}
    labels = {"format": "coco_panoptic", "file": "panoptic.json", "folder": "pngs"}
    found = read(describe(tmp_path, labels, MAP))
    for k, name in enumerate("ab"):
        assert (found[name] == np.vectorize(meaning.get)(ids[k])).all()
    content["annotations"][0]["segments_info"] = segments[1:]
    write_json(tmp_path / "panoptic.json", content)
    with pytest.raises(ValueError, match="got the segment ids 5, which its segments_info"):
        read(tmp_path / "own.yaml")
    (tmp_path / "pngs/b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png does not exist, the label of b\.jpg"):
        read(tmp_path / "own.yaml")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours(tmp_path, mode):
    photos(tmp_path, ["a.jpg"])
    codes = np.array([[255, 0, 0], [0, 0, 0], [1, 2, 3]], np.uint8)
    places = np.random.default_rng(0).integers(0, 3, (20, 30))
    (tmp_path / "masks").mkdir()
    image = Image.fromarray(codes[places])
    if mode == "P":
        image = Image.fromarray(places.astype(np.uint8))
        image.putpalette(codes.tobytes())
    expected = np.array([1, 255, 0])[places]
    if mode == "RGBA":
        alpha = np.full((20, 30), 255, np.uint8)
        alpha[:5] = 0
        image.putalpha(Image.fromarray(alpha))
        expected[:5] = 255
    image.save(tmp_path / "masks/a.png")
    labels = {"format": "colours", "folder": "masks"}
    label_map = {"#ff0000": "car", "#000000": "ignore", "#010203": "road", "#abcdef": "sky"}
    path = describe(tmp_path, labels, label_map)
    assert (read(path)["a"] == expected).all()
    describe(tmp_path, labels, {"#ff0000": "car", "#abcdef": "sky", "#abcdee": "road"})
    with pytest.raises(ValueError, match="got the colours '#000000', '#010203', which label_map"):
        read(path)


def labelme(*shapes, size=(20, 30)):
    return {
        "version": "5.3.0",
        "shapes": [{"label": n, "shape_type": t, "points": p, **more} for n, t, p, more in shapes],
        "imagePath": "a.jpg",
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def test_labelme_shapes_later_over_earlier(tmp_path):
    photos(tmp_path, ["a.jpg"])
    part = np.random.default_rng(0).random((4, 6)) < 0.5
    file = io.BytesIO()
    Image.fromarray(part).save(file, format="PNG")
    png = base64.b64encode(file.getvalue()).decode()
    triangle = [[3.5, 2.25], [25.1, 4], [12, 18.75]]
    document = labelme(
        ("straße", "rectangle", [[27, 15], [1, 2]], {}),
        ("car", "polygon", triangle, {}),
        ("_background_", "circle", [[20, 10], [20, 13]], {}),
        ("car", "mask", [[2, 3], [7, 6]], {"mask": png}),
    )
    write_json(tmp_path / "photos/a.json", document)  # beside the photo, where LabelMe writes it
    canvas = Image.new("L", (30, 20), 255)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle([1, 2, 27, 15], fill=0)
    pen.polygon([tuple(p) for p in triangle], fill=1, outline=1)
    pen.ellipse([17, 7, 23, 13], fill=255, outline=255)
    expected = np.array(canvas)
    expected[3:7, 2:8][part] = 1
    labels = {"format": "labelme", "folder": "photos"}
    label_map = {"straße": "road", "car": "car", "_background_": "ignore", "sky": "sky"}
    path = describe(tmp_path, labels, label_map)
    assert (read(path)["a"] == expected).all()
    (spec,) = read_dataset_file(path)
    assert check_dataset(spec, 0).left_out == []


def test_what_this_framework_writes_for_labelme_comes_back(tmp_path):
    from hyperclip.results.answer import Answer
    from hyperclip.results.labelme import labelme_document

    photos(tmp_path, ["a.jpg"])
    label = np.random.default_rng(1).integers(0, 3, (20, 30))
    confidence = np.ones((20, 30), np.float32)
    document = labelme_document(Answer(label, confidence, ["road", "car", "sky"]), "a.jpg")
    write_json(tmp_path / "answers/a.json", document)
    names = {name: name for name in ("road", "car", "sky")}
    path = describe(tmp_path, {"format": "labelme", "folder": "answers"}, names)
    assert (read(path)["a"] == label).all()


def test_yolo_polygons(tmp_path):
    photos(tmp_path, ["a.jpg", "b.jpg"])
    small, large = polygon_of_box(4, 5, 8, 9), polygon_of_box(2, 2, 12, 18)
    lines = []
    for category, polygon in ((0, small), (2, large)):
        points = zip(polygon[::2], polygon[1::2], strict=True)
        lines.append(f"{category} " + " ".join(f"{x / 30:.6f} {y / 20:.6f}" for x, y in points))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("\n".join([*lines, ""]))
    (tmp_path / "labels/b.txt").touch()
    (tmp_path / "labels/classes.txt").write_text("car\nroad\nsky\n")
    labels = {"format": "yolo", "folder": "labels"}
    found = read(describe(tmp_path, labels, {0: "car", 1: "road", 2: "sky"}))
    expected = np.full((20, 30), 255)
    expected[2:18, 2:12], expected[5:9, 4:8] = 2, 1
    assert (found["a"] == expected).all() and (found["b"] == 255).all()


def test_any_polygon_of_coco_as_pycocotools_draws_it(tmp_path):
    photos(tmp_path, ["a.jpg"])
    random = np.random.default_rng(3)
    polygons = [random.uniform(0, 20, 2 * n).round(2).tolist() for n in (3, 4, 9)]
    boxes = [{"image_id": 1, "category_id": 3, "segmentation": [p]} for p in polygons]
    write_json(tmp_path / "instances.json", coco(["a.jpg"], boxes, CATEGORIES))
    masks = [coco_masks.decode(coco_masks.frPyObjects([p], 20, 30))[..., 0] for p in polygons]
    expected = np.where(np.any(masks, axis=0), 1, 255)
    assert (read(describe(tmp_path, INSTANCES, MAP))["a"] == expected).all()
