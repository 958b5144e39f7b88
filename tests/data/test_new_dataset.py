"""A folder of images and its labels, described: every format is found, named and read right."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hyperclip.commands.new_dataset import main
from hyperclip.data.checking import check_dataset
from hyperclip.data.dataset_file import read_dataset_file
from PIL import Image
from pycocotools import mask as coco_masks

from tests.conftest import SHARED
from tests.helpers.annotated import coco, photos, polygon_of_box, read, write_json

SIZE = (20, 30)
NAMES = ["a.jpg", "b.png", "Größe 1.jpg", "sub/d.jpg", "e.JPG", ".hidden.jpg"]
SEEN = ["Größe 1", "a", "b", "e", "sub/d"]


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on ``photos`` and labels of a folder or file; its file and what it says."""

    def call(labels="masks", *arguments, output="own.yaml"):
        path = tmp_path / output
        options = ["--output", path, *arguments]
        status = main([*map(str, (tmp_path / "photos", tmp_path / labels, *options))])
        assert status == 0
        return path, capsys.readouterr().out

    return call


@pytest.fixture
def places(tmp_path):
    """Photos, and an array of 0, 1 and 2 for each."""
    photos(tmp_path, NAMES, SIZE)
    random = np.random.default_rng(1)
    return {name: random.integers(0, 3, SIZE) for name in SEEN}


def save(root, arrays, suffix=".png", palette=None):
    for name, array in arrays.items():
        path = root / "masks" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if palette is not None:
            image.putpalette(palette)
        image.save(path)


def judge(path, arrays, meaning):
    """Every label of the file is ``meaning`` (names by value, "" for none) of the arrays."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = [one if isinstance(one, str) else one[0] for one in content["classes"]]
    index = {value: classes.index(name) if name else 255 for value, name in meaning.items()}
    found = read(path)
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert (found[name] == np.vectorize(index.get)(array)).all(), name
    assert all(check_dataset(s, 0).status == "ready" for s in read_dataset_file(path))
    return classes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_of_indices(tmp_path, run, places, dtype):
    void = np.iinfo(dtype).max
    values = np.array([0, 7, void], dtype)
    arrays = {name: values[place] for name, place in places.items()}
    save(tmp_path, arrays)
    (tmp_path / "masks/.ipynb_checkpoints").mkdir()
    (tmp_path / "masks/._a.png").write_bytes(b"x")
    path, said = run()
    classes = judge(path, arrays, {0: "class_0", 7: "class_7", int(void): ""})
    assert classes == ["class_0", "class_7"]
    assert "5 images with labels (masks): 4 in own_train, 1 in own_val" in said
    assert "next: name the classes in" in said and "NUM_CLASSES 2" in said
    text = path.read_text(encoding="utf-8")
    assert "NAME THE CLASSES" in text and "root: .\n" in text
    pixels = sum((array == 7).sum() for array in arrays.values()) / (5 * 600)
    assert f"7: class_7  # {100 * pixels:.2g} % of the pixels, in 5 masks" in text


def test_a_file_behind_a_link(tmp_path, run, places):
    save(tmp_path, {name: place.astype(np.uint8) for name, place in places.items()})
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    path, _ = run(output="link/own.yaml")
    assert "root: ../..\n" in path.read_text()
    judge(path, places, {k: f"class_{k}" for k in range(3)})
    judge(tmp_path / "far/away/own.yaml", places, {k: f"class_{k}" for k in range(3)})


def test_black_and_white_masks(tmp_path, run, places):
    arrays = {name: np.where(place > 0, 255, 0).astype(np.uint8) for name, place in places.items()}
    save(tmp_path, arrays)
    path, _ = run()
    assert judge(path, arrays, {0: "class_0", 255: "class_255"}) == ["class_0", "class_255"]


def test_names_of_values(tmp_path, run, places):
    arrays = {name: place.astype(np.uint8) for name, place in places.items()}
    save(tmp_path, arrays)
    file = tmp_path / "names.txt"
    file.write_text("background\nStraße\nno\n", encoding="utf-8")
    path, said = run("masks", "--names", str(file))
    assert judge(path, arrays, {0: "", 1: "Straße", 2: "no"}) == ["Straße", "no"]
    assert "0 (background) is no class: its pixels do not count" in said and "next:" not in said
    write_json(tmp_path / "names.json", {"1": "Straße", "2": "no, never"})
    path, said = run("masks", "--names", str(tmp_path / "names.json"), "--overwrite")
    assert judge(path, arrays, {0: "class_0", 1: "Straße", 2: "no, never"})
    assert "[0] have no name" in said
    write_json(tmp_path / "names.json", {"8": "Straße"})
    with pytest.raises(ValueError, match="--names: got names of .8., expected some of the labels"):
        run("masks", "--names", str(tmp_path / "names.json"), "--overwrite")


def voc_palette():
    """As VOC's own development kit makes it."""
    palette = np.zeros((256, 3), int)
    for index in range(256):
        rest, shift = index, 7
        while rest:
            palette[index] |= np.array([rest & 1, rest >> 1 & 1, rest >> 2 & 1]) << shift
            rest, shift = rest >> 3, shift - 1
    return palette.astype(np.uint8)


def test_voc_s_palette_names_the_classes(tmp_path, run, places):
    values = np.array([0, 15, 255], np.uint8)
    arrays = {name: values[place] for name, place in places.items()}
    palette = voc_palette()
    save(tmp_path, arrays, palette=palette.tobytes())
    path, said = run()
    classes = judge(path, arrays, {0: "", 15: "person", 255: ""})
    assert len(classes) == 20 and "whose palette the masks have" in said
    assert "potted plant" in classes and "1: airplane  # in no mask" in path.read_text()
    # the same masks in colour
    (tmp_path / "masks").rename(tmp_path / "indices")
    save(tmp_path, {name: palette[array] for name, array in arrays.items()})
    path, said = run(output="colours.yaml")
    assert judge(path, arrays, {0: "", 15: "person", 255: ""}) == ["person"]
    assert "(colours)" in said
    # the palette of other values is no reason
    shifted = {name: np.where(array == 15, 33, array) for name, array in arrays.items()}
    save(tmp_path, shifted, palette=palette.tobytes())
    path, said = run("masks", "--overwrite")
    assert "class_33" in judge(path, shifted, {0: "class_0", 33: "class_33", 255: ""})


def test_cityscapes_colours(tmp_path, run, places):
    colours = np.array([[0, 0, 0], [128, 64, 128], [70, 130, 180]], np.uint8)
    save(tmp_path, {name: colours[place] for name, place in places.items()})
    path, _ = run()
    assert {*judge(path, places, {0: "", 1: "road", 2: "sky"})} == {"road", "sky"}


def test_colours_of_nobody(tmp_path, run, places):
    colours = np.array([[1, 2, 3, 255], [250, 0, 0, 255], [0, 0, 0, 0]], np.uint8)
    places["a"][:] = 0  # so that the first colour is the most frequent one
    save(tmp_path, {name: colours[place] for name, place in places.items()}, ".tif")
    path, said = run()
    classes = judge(path, places, {0: "class_1", 1: "class_2", 2: ""})
    assert classes == ["class_1", "class_2"] and "are transparent: they have no label" in said
    assert '"#fa0000": class_2' in path.read_text()


CATEGORIES = {7: "road", 3: "traffic light, red", 90: "Road ", 4: "background", 11: "no"}


def test_coco_instances(tmp_path, run, places):
    annotations = []
    for k, place in enumerate(places.values(), 1):
        for category, mask in ((7, place == 1), (3, place == 2)):
            encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            lengths = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            annotations.append({"image_id": k, "category_id": category, "segmentation": lengths})
    names = ["Größe 1.jpg", "a.jpg", "b.png", "e.JPG", "sub/d.jpg"]
    write_json(tmp_path / "labels/instances.json", coco(names, annotations, CATEGORIES))
    for labels in ("labels/instances.json", "labels"):  # the file, or its folder
        path, said = run(labels, "--overwrite")
        meaning = {0: "", 1: "road", 2: "traffic light, red"}
        assert judge(path, places, meaning) == ["road", "traffic light, red", "no"]
        assert "7 and 90 have the same name, 'road': one class" in said
        assert "4 (background) is no class" in said and "(coco)" in said
    assert '11: "no"  # in no image' in path.read_text()


def test_coco_panoptic(tmp_path, run, places):
    annotations = []
    for k, (name, place) in enumerate(places.items(), 1):
        ids = np.array([0, 256 * 256 + 7, 300])[place]
        png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        target = tmp_path / f"panoptic/{name.replace('/', '_')}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(png).save(target)
        segments = [{"id": 65543, "category_id": 7}, {"id": 300, "category_id": 3}]
        entry = {"image_id": k, "file_name": target.name, "segments_info": segments}
        annotations.append(entry)
    names = ["Größe 1.jpg", "a.jpg", "b.png", "e.JPG", "sub/d.jpg"]
    content = coco(names, [], CATEGORIES)
    file = write_json(tmp_path / "panoptic.json", {**content, "annotations": annotations})
    path, said = run("panoptic.json")
    judge(path, places, {0: "", 1: "road", 2: "traffic light, red"})
    assert "(coco_panoptic)" in said
    file.rename(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="Name it by --png-folder"):
        run("other.json", output="other.yaml")
    path, _ = run("other.json", "--png-folder", str(tmp_path / "panoptic"), output="other.yaml")
    judge(path, places, {0: "", 1: "road", 2: "traffic light, red"})


@pytest.mark.parametrize("beside", [True, False])
def test_labelme(tmp_path, run, places, beside):
    boxes = {}
    for k, name in enumerate(SEEN):
        boxes[name] = np.zeros(SIZE, int)
        boxes[name][2 : 9 + k, 3:12], boxes[name][5:8, 8:20] = 1, 2
        shapes = [
            ("Straße", [[3, 2], [11, 8 + k]]),
            ("7", [[8, 5], [19, 7]]),
            ("_background_", [[25, 15], [26, 16]]),
        ]
        document = {
            "shapes": [
                {"label": label, "shape_type": "rectangle", "points": points}
                for label, points in shapes
            ],
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
        }
        write_json(tmp_path / ("photos" if beside else "json") / f"{name}.json", document)
    path, said = run("photos" if beside else "json")
    assert judge(path, boxes, {0: "", 1: "Straße", 2: "7"}) == ["Straße", "7"]
    assert "(labelme)" in said and "'_background_' (_background_) is no class" in said


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", ""])
def test_yolo(tmp_path, run, places, names):
    boxes = {}
    for k, name in enumerate(SEEN):
        boxes[name] = np.zeros(SIZE, int)
        boxes[name][2 : 9 + k, 3:12], boxes[name][4:6, 4:6] = 1, 2
        lines = []
        for category, box in ((0, (3, 2, 12, 9 + k)), (2, (4, 4, 6, 6))):
            polygon = np.reshape(polygon_of_box(*box), (4, 2)) / (30, 20)
            lines.append(f"{category} " + " ".join(f"{n:.7f}" for n in polygon.ravel()))
        target = tmp_path / f"labels/{name}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines))
    if names == "data.yaml":
        (tmp_path / names).write_text("names: {0: tree, 1: house, 2: door}\n")
    elif names:
        (tmp_path / "labels" / names).write_text("tree\nhouse\ndoor\n")
    path, said = run("labels")
    meaning = {0: "", 1: "tree", 2: "door"} if names else {0: "", 1: "class_0", 2: "class_2"}
    classes = judge(path, boxes, meaning)
    assert ("house" in classes) == bool(names) and ("next: name" in said) == (not names)


def test_what_labels_have_behind_the_names_of_images(tmp_path, run, places):
    arrays = {f"{name}_mask": place.astype(np.uint8) for name, place in places.items()}
    save(tmp_path, arrays)
    path, _ = run()
    assert 'label_affix: ["", "_mask"]' in path.read_text()
    judge(path, places, {0: "class_0", 1: "class_1", 2: "class_2"})


def test_images_without_a_label_and_of_another_size_are_left_out(tmp_path, run, places):
    arrays = {name: place.astype(np.uint8) for name, place in places.items()}
    arrays["a"] = arrays["a"][:5]
    arrays["nobody's"] = arrays.pop("b")
    save(tmp_path, arrays)
    path, said = run("masks", "--hold-out", "2")
    assert "note: images without a label, left out: 1 (b). Label them" in said
    assert "note: labels without an image, left out: 1 (nobody's). Add the images" in said
    assert "labels of another size than their image, left out: 1 (a.jpg is 30 x 20, its" in said
    left = {name: places[name] for name in ("Größe 1", "e", "sub/d")}
    judge(path, left, {0: "class_0", 1: "class_1", 2: "class_2"})
    assert (tmp_path / "own_val.txt").read_text(encoding="utf-8") == "e.JPG\n"
    whole, _ = run("masks", "--hold-out", "0", output="whole.yaml")
    assert [spec.name for spec in read_dataset_file(whole)] == ["whole_train"]


def test_turned_photos(tmp_path, run):
    tag = Image.Exif()
    tag[0x0112] = 6
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (30, 20)).save(tmp_path / f"photos/{name}.jpg", exif=tag)
    stored = {name: np.arange(600).reshape(20, 30).astype(np.uint8) % 3 for name in "ab"}
    save(tmp_path, stored)
    path, _ = run()
    assert "orientation: stored" in path.read_text()
    save(tmp_path, {name: array.T for name, array in stored.items()})
    path, _ = run("masks", "--overwrite")
    assert "orientation: applied" in path.read_text()
    judge(path, {n: a.T for n, a in stored.items()}, {k: f"class_{k}" for k in range(3)})
    save(tmp_path, {"a": stored["a"], "b": stored["b"].T})
    with pytest.raises(ValueError, match="EXIF turns 2 images, such as 'a.jpg'.*--orientation"):
        run("masks", "--overwrite")


REAL = {
    "msrc21": ("images", "labels_clean", "masks", 60),
    "voc2012_samples": ("JPEGImages", "SegmentationClass", "masks", 4),
    "voc2012_labelme_samples": ("JPEGImages", "SegmentationClass", "masks", 3),
    "pascal_context_samples": ("JPEGImages", "colour", "colours", 4),
    "coco_panoptic_samples": ("images", "masks", "masks", 100),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(tmp_path, name, capsys):
    images, labels, kind, count = REAL[name]
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/data/{name} is not beside the repository")
    path = tmp_path / "own.yaml"
    assert main([*map(str, (folder / images, folder / labels, "--output", path))]) == 0
    assert f"{count} images with labels ({kind})" in capsys.readouterr().out
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes, meaning = content["classes"], content["label_map"]
    for key, label in read(path).items():
        with Image.open(folder / labels / f"{key}.png") as image:
            stored = np.asarray(image)
        if kind == "colours":
            stored = stored.astype(int) @ [65536, 256, 1]
            meaning = {int(str(k).lstrip("#"), 16): v for k, v in content["label_map"].items()}
        index = {k: 255 if v == "ignore" else classes.index(v) for k, v in meaning.items()}
        assert (label == np.vectorize(index.get)(stored)).all(), key
