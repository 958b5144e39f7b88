"""What cannot be described is told in one line, and nothing is written."""

from __future__ import annotations

import ast
import shlex

import numpy as np
import pytest
from hyperclip.commands.new_dataset import main, parse_arguments, quoted, request_of, train_command
from hyperclip.data.new_dataset.yaml_text import flow, scalar
from hyperclip.runtime.yaml_files import load_yaml
from PIL import Image

from tests.helpers.annotated import coco, photos, polygon_of_box, write_json

CATEGORIES = {3: "car"}


@pytest.fixture
def refused(tmp_path):
    """The message of the error by which labels of this folder or file are refused."""

    def call(labels="masks", *arguments, output="own.yaml"):
        before = {*tmp_path.rglob("*")}
        names = (tmp_path / "photos", tmp_path / labels, "--output", tmp_path / output)
        with pytest.raises((ValueError, OSError)) as error:
            main([*map(str, names), *arguments])
        assert {*tmp_path.rglob("*")} == before  # not even a part of a file
        return str(error.value)

    return call


def mask(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_folders_without_labels(tmp_path, refused):
    assert "IMAGES: got" in refused()
    photos(tmp_path, ["a.jpg"])
    assert "which does not exist; expected a folder, or a JSON file" in refused()
    (tmp_path / "masks").mkdir()
    assert "it is empty; expected masks" in refused()
    mask(tmp_path / "masks/a.jpg", np.zeros((20, 30), np.uint8))
    assert "got 1 .jpg; expected masks" in refused()
    assert "JPEG and the like change values: export the masks as PNG" in refused()
    (tmp_path / "masks/a.json").write_text("{}")
    mask(tmp_path / "masks/a.png", np.zeros((20, 30), np.uint8))
    assert "has 1 masks, 1 JSON files and 0 text files. Say which by --format" in refused()


def test_photos_given_as_masks(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    mask(tmp_path / "masks/a.png", noise)
    assert "such as" not in refused()  # 600 colours in one file, but no two neighbours are equal
    assert "got 600 colours in 1 files: these look like photos, not masks" in refused()
    mask(tmp_path / "masks/a.png", noise[..., 0])
    assert "values in 1 files: these look like photos, not masks" in refused()
    thousand = np.arange(60 * 40) // 2 % 1000
    regions = np.stack([thousand % 256, thousand // 256, thousand * 0], -1).astype(np.uint8)
    mask(tmp_path / "masks/a.png", regions.reshape(60, 40, 3))
    photos(tmp_path, ["a.jpg"], (60, 40))
    assert "got 1000 colours in 1 files" in refused()


def test_values_that_no_label_map_holds(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    mask(tmp_path / "masks/a.tif", np.full((20, 30), 70000, np.int32))
    assert "got the values [70000], expected whole numbers from 0 to 65535" in refused()


def test_both_kinds_of_masks(tmp_path, refused):
    photos(tmp_path, ["a.jpg", "b.jpg"])
    mask(tmp_path / "masks/a.png", np.zeros((20, 30, 3), np.uint8))
    mask(tmp_path / "masks/b.png", np.zeros((20, 30), np.uint8))
    assert "got 1 masks in colour, such as 'a.png', and 1 of indices, such as 'b.png'" in refused()


def test_damaged_files(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    mask(tmp_path / "masks/a.png", np.zeros((20, 30), np.uint8))
    whole = (tmp_path / "masks/a.png").read_bytes()
    (tmp_path / "masks/a.png").write_bytes(whole[:-30])
    assert "a.png' cannot be read" in refused()
    (tmp_path / "masks/a.png").write_bytes(b"no image")
    assert "a.png' cannot be read" in refused()
    (tmp_path / "masks/a.png").write_bytes(whole)
    (tmp_path / "photos/a.jpg").write_text("no photo")
    assert "a.jpg' cannot be read" in refused()


def test_other_names_and_sizes(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    mask(tmp_path / "masks/x.png", np.zeros((20, 30), np.uint8))
    assert "no image has a label: images are such as 'a', labels such as 'x'" in refused()
    mask(tmp_path / "masks/a.png", np.zeros((5, 30), np.uint8))
    assert "no label has the size of its image: a.jpg is 30 x 20, its label 30 x 5" in refused()
    photos(tmp_path, ["a.png"])
    assert "have the same name. Rename or remove one of each" in refused()


def test_json_that_is_no_coco(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    file = write_json(tmp_path / "x.json", {"shapes": []})
    assert "is no JSON file of COCO. Name the folder of LabelMe's files" in refused("x.json")
    file.write_text("[1, 2")
    assert "x.json is not JSON in UTF-8" in refused("x.json")
    write_json(file, {"images": [], "annotations": [3]})
    assert "expected an object with" in refused("x.json")
    content = coco(["a.jpg"], [{"image_id": 1, "category_id": 8}], CATEGORIES)
    content["annotations"][0]["segmentation"] = [polygon_of_box(0, 0, 2, 2)]
    write_json(file, content)
    assert "category id: got 8, expected one of the label_map's, 3" in refused("x.json")
    content["annotations"][0] |= {"category_id": 3, "segmentation": [[0, 0, 5, 5]]}
    write_json(file, content)
    assert "polygon has 4 numbers, expected x and y of at least three" in refused("x.json")
    content["categories"] *= 2
    write_json(file, content)
    assert "the category ids [3] are there twice" in refused("x.json")
    write_json(file, coco(["a.jpg"], [], {3: "background"}))
    assert "no class was found" in refused("x.json")
    write_json(file, coco(["b.jpg"], [], CATEGORIES))
    assert "no image has a label: images are such as 'a', labels such as 'b'" in refused("x.json")


def test_text_and_shapes_that_are_none(tmp_path, refused):
    photos(tmp_path, ["a.jpg"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert "line 1: got a box, or a polygon of two points" in refused("labels")
    (tmp_path / "labels/a.txt").unlink()
    line = {"label": "car", "shape_type": "line", "points": [[0, 0], [1, 1]]}
    write_json(tmp_path / "labels/a.json", {"shapes": [line]})
    assert "shape 1: got a 'line', which has no area" in refused("labels")
    assert "expected a JSON file for --format coco" in refused("labels", "--format", "coco")


def test_a_file_that_is_there_stays(tmp_path, refused, capsys):
    photos(tmp_path, ["a.jpg", "b.jpg"])
    for name in "ab":
        mask(tmp_path / f"masks/{name}.png", np.zeros((20, 30), np.uint8))
    (tmp_path / "own.yaml").write_text("mine")
    assert "own.yaml would be overwritten. Choose another --output" in refused()
    assert (tmp_path / "own.yaml").read_text() == "mine"
    (tmp_path / "other_val.txt").write_text("mine")
    message = refused("masks", "--hold-out", "2", output="other.yaml")
    assert "other_val.txt would be overwritten" in message
    assert "expected a name that ends in .yaml" in refused(output="own.txt")
    assert "--name: got 'a/b', expected letters" in refused("masks", "--name", "a/b", "--overwrite")
    with pytest.raises(SystemExit):
        parse_arguments(["photos", "masks", "--hold-out", "1"])
    assert "expected 2 or more, or 0 for none" in capsys.readouterr().err


def test_names_of_files_become_names_of_datasets():
    assert request_of(parse_arguments(["a", "b", "--output", "x/my streets.yaml"])).name == (
        "my_streets"
    )


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "7",
        "a: b",
        "#ff0000",
        "é",
        "a, b",
        "'",
        '"',
        "- x",
        "\u2028",
        "a\tb",
        "null",
        "[x",
        " ",
    ],
)
def test_any_text_in_yaml(tmp_path, text):
    path = tmp_path / "x.yaml"
    content = f"a: {flow({'x': text, 'y': [text]})}\n{scalar(text)}: {scalar(text)}\n"
    path.write_text(content, encoding="utf-8")
    assert load_yaml(path) == {"a": {"x": text, "y": [text]}, text: text}


def test_words_of_a_command_line():
    assert quoted("['own.yaml']") == "\"['own.yaml']\"" and quoted("a.yaml") == "a.yaml"
    assert quoted("$HOME `x`") == "'$HOME `x`'"
    request = request_of(parse_arguments(["a", "b", "--output", "it's $here.yaml"]))
    words = shlex.split(train_command(request, 3, True))
    assert ast.literal_eval(words[4]) == ["it's $here.yaml"]
    assert words[6:9] == ["['it_s_here_train']", "DATASETS.TEST", "['it_s_here_val']"]
