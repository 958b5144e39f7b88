"""Datasets that a YAML file describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from hyperclip.config import load_config
from hyperclip.data import DATASETS, vocabulary_of
from hyperclip.data.custom import read_dataset_file, register_files
from hyperclip.data.labels import LABEL_MAPS, read_record_label
from hyperclip.engine.vocabularies import train_vocabulary
from PIL import Image

BASIC = {"splits": {"val": {"images": "photos", "labels": "masks"}}, "classes": ["road", ["car", "automobile"], "sky"]}


@pytest.fixture
def describe(tmp_path):
    """Write a dataset file with these keys next to two pictures; returns its path."""
    for folder, array in (("photos", np.zeros((1, 4, 3), np.uint8)), ("masks", np.array([[0, 1, 2, 255]], np.uint8))):
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
    assert vocabulary_of(spec.name).classes == (("road",), ("car", "automobile"), ("sky",))
    assert MetadataCatalog.get(spec.name).stuff_classes == ["road", "car", "sky"]
    assert spec.name.endswith("_val") and DATASETS[spec.name].background == "none"


def test_a_label_map_with_ignored_values_and_a_list(describe, tmp_path):
    (tmp_path / "val.txt").write_text("1\n")
    splits = {"test": {"images": "photos", "labels": "masks", "list": "val.txt"}}
    path = describe(label_map={0: "sky", 1: "ignore", 2: "car", 7: "road"}, ignore=[255, 9], splits=splits)
    (spec,) = register_files([path])
    assert labels_of(spec) == [[[2, 255, 1, 255]]]


def test_backgrounds(describe):
    threshold = describe(background="threshold", classes=["road", "car"], label_map={0: "background", 1: "road", 2: "car"})
    (spec,) = register_files([threshold])
    assert labels_of(spec)[0] == [[2, 0, 1, 255]] and spec.label_names == ["road", "car", "background"]
    fold = describe(background="fold", background_words=["tree", "wall"], classes=["road", "car"])
    (spec,) = register_files([fold])
    assert spec.label_names == ["road", "car", "background"] and len(vocabulary_of(spec.name)) == 4
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["DATASETS.TRAIN", f"['{spec.name}']"])
    with pytest.raises(ValueError, match="count their background as a class"):
        train_vocabulary(cfg)


def test_the_documented_example(tmp_path):
    documentation = Path("datasets/README.md").read_text()
    (tmp_path / "streets.yaml").write_text(documentation.split("```yaml\n")[1].split("```")[0])
    train, val = read_dataset_file(tmp_path / "streets.yaml")
    assert (train.name, val.name) == ("streets_train", "streets_val") and len(val.label_names) == 3
    assert LABEL_MAPS[val.layouts[0].label_map].classes == {0: 255, 1: 0, 2: 1, 5: 2, 255: 255}


def test_many_classes_are_ignored_elsewhere(describe):
    (spec,) = read_dataset_file(describe(classes=[f"class {k}" for k in range(300)]))
    assert spec.ignore == 65535 and LABEL_MAPS[spec.layouts[0].label_map].table[299] == 299


def test_a_built_in_label_map_and_class_list(describe, tmp_path):
    (tmp_path / "classes.json").write_text('["a", "b, c"]')
    (spec,) = read_dataset_file(describe(classes="classes.json"))
    assert spec.vocabulary().classes == (("a",), ("b", "c"))
    (spec,) = read_dataset_file(describe(classes=[f"c{k}" for k in range(20)], label_map="from_one_20"))
    assert spec.layouts[0].label_map == "from_one_20"
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
        ({"classes": 3}, "classes: got int"),
        ({"label_map": {0: "road", 1: "car"}}, r"no label value means \['sky'\]"),
        ({"label_map": {0: "road", 1: "car", 2: "sky", 3: "tree"}}, "{3: 'tree'} are no classes"),
        ({"label_map": {"0": "road", 1: "car", 2: "sky"}}, "{'0': 'road'} are no classes"),
        ({"ignore": [0, 255]}, r"ignore: values \[0\] are also classes \(\['road'\]\)"),
        ({"background": "last"}, "background: got 'last'"),
        ({"background": "fold"}, "background: got 'fold' with background_words"),
        ({"background_words": ["tree"]}, "words for 'fold' alone"),
    ],
)
def test_mistakes_in_the_file(describe, keys, message):
    with pytest.raises(ValueError, match=message):
        read_dataset_file(describe(**keys))


def test_files_that_are_none(tmp_path, describe):
    with pytest.raises(FileNotFoundError, match="dataset file: got .*none.yaml"):
        read_dataset_file(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_dataset_file(tmp_path / "broken.yaml")
    with pytest.raises(FileNotFoundError, match="class file"):
        read_dataset_file(describe(classes="none.json"))


def test_a_name_that_is_taken(describe):
    register_files([describe(name="taken")])
    with pytest.raises(ValueError, match="'taken_val'.*already taken"):
        register_files([describe(name="taken", classes=["a", "b", "c"])])
    with pytest.raises(ValueError, match="already taken by 'tinyscenes_val_seen'"):
        register_files([describe(name="tinyscenes", splits={"val_seen": BASIC["splits"]["val"]})])
