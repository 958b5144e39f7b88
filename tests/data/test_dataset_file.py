"""Datasets that a YAML file describes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS, vocabulary_of
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.data.dataset_file import read_dataset_file, register_files
from hyperclip.data.label_maps import LABEL_MAPS, read_record_label
from PIL import Image

BASIC = {
    "splits": {"val": {"images": "photos", "labels": "masks"}},
    "classes": ["road", ["car", "automobile"], "sky"],
}


@pytest.fixture
def describe(tmp_path):
    """Write a dataset file with these keys next to two images; returns its path."""
    for folder, array in (
        ("photos", np.zeros((1, 4, 3), np.uint8)),
        ("masks", np.array([[0, 1, 2, 255]], np.uint8)),
    ):
        (tmp_path / folder).mkdir()
        for k in range(2):
            Image.fromarray(array).save(tmp_path / folder / f"{k}.png")

    def write(**keys):
        path = tmp_path / f"{len(list(tmp_path.glob('*.yaml')))}.yaml"
        content = {"name": f"{tmp_path.name}-{path.stem}", **BASIC, **keys}
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return path

    return write


def labels_of(spec):
    return [read_record_label(r).tolist() for r in DatasetCatalog.get(spec.name)]


def test_the_shortest_description(describe):
    path = describe()
    (spec,) = register_files([path])
    assert register_files([path]) == [spec]  # again, as in a second process
    assert labels_of(spec) == [[[0, 1, 2, 255]]] * 2
    assert vocabulary_of(spec.name, "catseg").classes == (
        ("road",),
        ("car", "automobile"),
        ("sky",),
    )
    assert MetadataCatalog.get(spec.name).stuff_classes == ["road", "car", "sky"]
    assert spec.name.endswith("_val") and DATASETS[spec.name].background == "none"


def test_a_label_map_with_ignored_values_and_a_list(describe, tmp_path):
    (tmp_path / "val.txt").write_text("1\n")
    splits = {"test": {"images": "photos", "labels": "masks", "list": "val.txt"}}
    path = describe(
        label_map={0: "sky", 1: "ignore", 2: "car", 7: "road"}, ignore=[255, 9], splits=splits
    )
    (spec,) = register_files([path])
    assert labels_of(spec) == [[[2, 255, 1, 255]]]


def test_backgrounds(describe):
    threshold = describe(
        background="threshold",
        classes=["road", "car"],
        label_map={0: "background", 1: "road", 2: "car"},
    )
    (spec,) = register_files([threshold])
    assert labels_of(spec)[0] == [[2, 0, 1, 255]] and spec.label_names == [
        "road",
        "car",
        "background",
    ]
    fold = describe(background="fold", background_words=["tree", "wall"], classes=["road", "car"])
    (spec,) = register_files([fold])
    assert (
        spec.label_names == ["road", "car", "background"]
        and len(vocabulary_of(spec.name, "catseg")) == 4
    )
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["DATASETS.TRAIN", f"['{spec.name}']"])
    with pytest.raises(ValueError, match="count their background as a class"):
        train_vocabulary(cfg)


def test_the_documented_example(tmp_path):
    documentation = Path("datasets/README.md").read_text()
    (tmp_path / "streets.yaml").write_text(documentation.split("```yaml\n")[1].split("```")[0])
    train, val = read_dataset_file(tmp_path / "streets.yaml")
    assert (train.name, val.name) == ("streets_train", "streets_val") and len(val.label_names) == 3
    assert val.layouts[0].label_map.classes == {0: 255, 1: 0, 2: 1, 5: 2, 255: 255}


def test_without_a_label_map_names_mean_nothing(describe, tmp_path):
    (tmp_path / "classes.json").write_text('["bat, animal", "bat, club", "ignore", "background"]')
    spec, indices = (
        read_dataset_file(describe(classes="classes.json"))[0],
        {0: 0, 1: 1, 2: 2, 3: 3, 255: 255},
    )
    assert spec.layouts[0].label_map.classes == indices
    (spec,) = read_dataset_file(
        describe(background="fold", background_words=["wall"], classes=["ignore", "road", "car"])
    )
    assert spec.layouts[0].label_map.classes == indices


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"label_map": {0: "road", 1: "car", 255: "sky"}}, [[0, 1, None, 2]]),
        ({"label_map": {0: "road", 1: "car", 255: "sky"}, "ignore": 2}, [[0, 1, 255, 2]]),
        ({"label_map": {0: "road", 1: "car", 2: "sky", 255: "ignore"}}, [[0, 1, 2, 255]]),
        ({"ignore": []}, [[0, 1, 2, None]]),
    ],
)
def test_the_default_ignore_value_gives_way(describe, keys, expected):
    (spec,) = read_dataset_file(describe(**keys))
    table = spec.layouts[0].label_map.table[[0, 1, 2, 255]]
    assert [[None if k < 0 else k for k in table.tolist()]] == expected and spec.ignore == 255


@pytest.mark.parametrize("background", ["threshold", "fold"])
def test_a_background_needs_a_label_value(describe, background):
    keys = {"background": background, "classes": ["road", "car"]}
    keys |= {"background_words": ["wall"]} if background == "fold" else {}
    with pytest.raises(ValueError, match=r"no label value means \['background'\]"):
        read_dataset_file(describe(**keys, label_map={0: "road", 1: "car"}))
    (spec,) = read_dataset_file(describe(**keys))
    assert spec.layouts[0].label_map.classes == {0: 0, 1: 1, 2: 2, 255: 255}


def test_many_classes_are_ignored_elsewhere(describe):
    (spec,) = read_dataset_file(describe(classes=[f"class {k}" for k in range(300)]))
    assert spec.ignore == 65535 and spec.layouts[0].label_map.table[299] == 299


def test_a_built_in_label_map_and_class_list(describe, tmp_path):
    (tmp_path / "classes.json").write_text('["a", "b, c"]')
    (spec,) = read_dataset_file(describe(classes="classes.json"))
    assert spec.vocabulary("catseg").classes == (("a",), ("b", "c"))
    (spec,) = read_dataset_file(
        describe(classes=[f"c{k}" for k in range(20)], label_map="from_one_20")
    )
    assert spec.layouts[0].label_map is LABEL_MAPS["from_one_20"]
    with pytest.raises(ValueError, match="label_map 'from_one_20': expected one for 3 classes"):
        read_dataset_file(describe(label_map="from_one_20"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clases": []}, "unknown key 'clases'.*Nearest: .'classes'."),
        ({"splits": None}, r"keys \['splits'\] are missing"),
        ({"splits": {"val": {"images": "photos"}}}, r"split 'val': keys \['labels'\] are missing"),
        ({"splits": {"val": {"images": "photos", "label": "x"}}}, "unknown key 'label'"),
        ({"classes": ["road", "road"]}, r"\['road'\] are there twice"),
        ({"classes": 3}, "classes: got 3, expected a list of names"),
        ({"label_map": {0: "road", 1: "car"}}, r"no label value means \['sky'\]"),
        (
            {"label_map": {0: "road", 1: "car", 2: "sky", 3: "tree"}},
            "got {3: 'tree'}, expected label values",
        ),
        (
            {"label_map": {"0": "road", 1: "car", 2: "sky"}},
            "got {'0': 'road'}, expected label values",
        ),
        ({"ignore": [0, 255]}, "ignore: values of {0: 'road'} are also classes"),
        (
            {"classes": ["road", "car", "background"], "background": "threshold"},
            "got one of the name 'background'",
        ),
        ({"background": "last"}, "background: got 'last'"),
        ({"background": "fold"}, "background: got 'fold' with background_words"),
        ({"background_words": ["tree"]}, "for 'fold' alone"),
        ({"splits": ["val"]}, r"splits: got \['val'\], expected a name of .*splits: {\"val\""),
        ({"splits": {"a/b": BASIC["splits"]["val"]}}, "splits: got {'a/b'"),
        ({"splits": {"val": "photos"}}, "split 'val': got str, expected a mapping"),
        ({"splits": {2017: BASIC["splits"]["val"]}}, "splits: got {2017"),
        (
            {"label_map": ["road", "car", "sky"]},
            "label_map: got .'road'.*, expected values with classes, or a built-in map",
        ),
        (
            {"label_map": {0: "road", 1: "car", 2: ["sky"]}},
            r"got {2: \['sky'\]}, expected label values",
        ),
        (
            {"label_map": {0: "road", True: "car", 2: "sky"}},
            "got {True: 'car'}, expected label values",
        ),
        (
            {"label_map": {0: "road", 1: "car", 2: "sky", -1: "ignore"}},
            "got {-1: 'ignore'}, expected label values",
        ),
        ({"root": 7}, 'root: got 7, expected a folder. Write for example root: "../data"'),
        ({"root": ["data"]}, "root: got .'data'., expected a folder"),
        ({"name": 2024}, "name: got 2024, expected a name of letters"),
        ({"name": "streets/fine"}, "name: got 'streets/fine', expected a name of letters"),
        ({"version": ["1"]}, "version: got .'1'., expected a string"),
        (
            {"background": "fold", "background_words": "tree"},
            "background_words: got 'tree', expected a list of names",
        ),
        (
            {"background": "fold", "background_words": ["tree", False]},
            "background_words: got .'tree', False., expected a list",
        ),
        ({"ignore": "255"}, "ignore: got '255', expected label values"),
        ({"ignore": True}, "ignore: got True, expected label values"),
        ({"ignore": [255, False]}, "ignore: got .255, False., expected label values"),
        ({"ignore": -1}, "ignore: got -1, expected label values, whole numbers from 0 on"),
        ({"ignore": [-1, 255]}, "ignore: got .-1, 255., expected label values"),
        (
            {"ignore": [3000000000]},
            "ignore: got .3000000000., expected label values, whole numbers from 0 on, 65535 at "
            "most",
        ),
        ({"ignore": 65536}, "ignore: got 65536, expected label values"),
        (
            {"label_map": {0: "road", 1: "car", 3000000000: "sky"}},
            "got {3000000000: 'sky'}, expected label values",
        ),
        (
            {"orientation": "upright"},
            "orientation: got 'upright', expected one of .'stored', 'applied'.",
        ),
        ({"orientation": True}, "orientation: got True, expected one of"),
        ({"orientation": ["stored"]}, "orientation: got .'stored'., expected one of"),
        ({"image_bits": 17}, "image_bits: got 17, expected the significant bits"),
        ({"image_bits": "12"}, "image_bits: got '12', expected the significant bits"),
        ({"max_pixels": 0}, "max_pixels: got 0, expected the pixels of the largest image"),
        ({"max_pixels": 1e9}, "max_pixels: got 1000000000.0, expected the pixels"),
        ({"ignore": {255: 0}}, "ignore: got {255: 0}, expected label values"),
        (
            {"ignore": 255, "label_map": {0: "road", 1: "car", 255: "sky"}},
            "values of {255: 'sky'} are also classes",
        ),
        (
            {"classes": [*map(str, range(20))], "label_map": "from_one_20", "ignore": 9},
            "ignore: got 9, but label_map 'from",
        ),
        (
            {"label_map": {0: "ignore", 1: "road"}, "classes": ["road", "ignore"]},
            r"with the first names \['ignore'\]",
        ),
        (
            {"label_map": {0: "background"}, "classes": ["background"]},
            r"with the first names \['background'\]",
        ),
    ],
)
def test_mistakes_in_the_file(describe, keys, message):
    with pytest.raises(ValueError, match=message):
        read_dataset_file(describe(**keys))


@pytest.mark.parametrize(
    "entry", [None, "", " ", 7, False, [], ["car", None], [""], [["car"]], {"car": 1}], ids=str
)
def test_classes_that_are_no_names(describe, entry):
    with pytest.raises(
        ValueError,
        match="yaml': classes: got {1: .*} .by position, from 0., expected a name or a list",
    ):
        read_dataset_file(describe(classes=["road", entry]))


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key in ("images", "labels", "list") for value in (7, ["photos"], " ")]
    + [
        (key, v)
        for key in ("image_affix", "label_affix")
        for v in ("_x", ["_x"], ["", "", ""], ["", None], [1, ""], None)
    ],
    ids=str,
)
def test_mistakes_in_a_split(describe, key, value):
    splits = {"val": {**BASIC["splits"]["val"], key: value}}
    with pytest.raises(
        ValueError,
        match=rf"yaml', split 'val': {key}: got .*, expected .*Write for example {key}: ",
    ):
        read_dataset_file(describe(splits=splits))


def test_a_label_map_by_names_needs_names_that_differ(describe, tmp_path):
    (tmp_path / "classes.json").write_text('["bat, animal", "bat, club", "road"]')
    with pytest.raises(
        ValueError,
        match=r"label_map: got classes with the first names \['bat'\], expected each once",
    ):
        read_dataset_file(describe(classes="classes.json", label_map={0: "bat", 1: "road"}))


def test_files_that_are_none(tmp_path, describe):
    with pytest.raises(FileNotFoundError, match="dataset file: got .*none.yaml"):
        read_dataset_file(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_dataset_file(tmp_path / "broken.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: straße".encode("latin-1"))
    with pytest.raises(
        ValueError, match="latin.yaml': not valid YAML in UTF-8 .*save the file as UTF-8"
    ):
        read_dataset_file(tmp_path / "latin.yaml")
    with pytest.raises(FileNotFoundError, match="class file"):
        read_dataset_file(describe(classes="none.json"))


def test_a_name_that_is_taken(describe):
    register_files([describe(name="taken")])
    with pytest.raises(ValueError, match="'taken_val'.*already taken"):
        register_files([describe(name="taken", classes=["a", "b", "c"])])
    with pytest.raises(ValueError, match="already taken by 'tinyscenes_val_seen'"):
        register_files([describe(name="tinyscenes", splits={"val_seen": BASIC["splits"]["val"]})])


@pytest.mark.parametrize("text", ["name: b", "classes: [a, b]", "ignore: 3", "splits: {}"])
def test_a_key_twice_names_both_lines(describe, text):
    path = describe(ignore=[255])
    lines = [*path.read_text().splitlines(), text]
    path.write_text("\n".join(lines))
    key = text.split(":")[0]
    first = 1 + next(k for k, line in enumerate(lines) if line.startswith(f"{key}:"))
    with pytest.raises(
        ValueError, match=f"key '{key}' is there twice, in line {first} and in line {len(lines)}"
    ):
        read_dataset_file(path)


@pytest.mark.parametrize(
    "twice", ["{0: road, 1: car, 2: sky, 1: sky}", "{0: road, 1: car, 0x2: car, 2: sky}"]
)
def test_a_label_value_twice(describe, twice):
    path = describe()
    path.write_text(f"{path.read_text()}label_map: {twice}\n")
    with pytest.raises(
        ValueError,
        match=r"dataset file .*: key '(1|2)' is there twice, in line (\d+) and in line \1|'2' is",
    ):
        read_dataset_file(path)


def test_an_edited_file_is_read_anew(describe, tmp_path):
    """In the same process: classes, label values, splits; Detectron2's catalogues know nothing of
    the former ones.
    """
    path = describe(name="edited")
    (before,) = register_files([path])
    other = register_files([describe(name="other")])
    splits = {"val": BASIC["splits"]["val"], "more": BASIC["splits"]["val"]}
    content = yaml.safe_load(path.read_text()) | {
        "classes": ["sky", "road"],
        "ignore": [2, 255],
        "splits": splits,
    }
    path.write_text(yaml.safe_dump(content))
    specs = register_files([path])
    assert [s.name for s in specs] == ["edited_more", "edited_val"] or [s.name for s in specs] == [
        "edited_val",
        "edited_more",
    ]
    assert (
        vocabulary_of("edited_val", "catseg").names
        == ["sky", "road"]
        == list(MetadataCatalog.get("edited_val").stuff_classes)
    )
    assert labels_of(DATASETS["edited_val"]) == [[[0, 1, 255, 255]]] * 2
    path.write_text(
        yaml.safe_dump(content | {"splits": {"more": splits["more"]}, "orientation": "stored"})
    )
    register_files([path])
    assert "edited_val" not in DATASETS and "edited_val" not in DatasetCatalog.list()
    assert DatasetCatalog.get("edited_more")[0]["orientation"] == "stored"
    assert [DATASETS[spec.name] for spec in other] == other and before.name not in DATASETS
    path.write_text("name: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        register_files([path])
    assert "edited_more" in DATASETS


def test_an_edited_label_map_is_read_anew(describe):
    """The label map alone: no record that was read before changes its meaning."""
    path = describe(label_map={0: "road", 1: "car", 2: "sky"})
    (spec,) = register_files([path])
    before = DatasetCatalog.get(spec.name)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"label_map": {0: "sky", 1: "car", 2: "road"}}))
    register_files([path])
    assert labels_of(spec) == [[[2, 1, 0, 255]]] * 2
    assert read_record_label(before[0]).tolist() == [[0, 1, 2, 255]]


def test_spawned_workers_need_no_dataset_file(describe):
    """A worker that shares no memory reads the labels by what the record holds, not by a YAML that
    may have changed.
    """
    path = describe(label_map={0: "sky", 1: "car", 2: "road", 255: "ignore"})
    (spec,) = register_files([path])
    records = DatasetCatalog.get(spec.name)
    path.unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        labels = pool.map(read_record_label, records)
    assert [label.tolist() for label in labels] == [[[2, 1, 0, 255]]] * 2


def test_a_built_in_class_list_by_name(describe):
    (spec,) = read_dataset_file(describe(classes="voc20", label_map="from_one_20"))
    assert len(spec.vocabulary("catseg")) == 20 and spec.vocabulary("catseg").name == "voc20"
    with pytest.raises(FileNotFoundError, match="voc99.*the built-in ones are .*'voc20'"):
        read_dataset_file(describe(classes="voc99"))
