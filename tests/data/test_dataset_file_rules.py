"""Datasets of one's own: where their files are looked for, and which label values mean what."""

from __future__ import annotations

import pytest
import yaml
from hyperclip.data import DATASETS
from hyperclip.data.dataset_file import read_dataset_file


def describe(folder, **keys):
    content = {
        "name": f"{folder.name}-rules",
        "classes": ["road", "car"],
        "splits": {"val": {"images": "photos", "labels": "masks"}},
        **keys,
    }
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_lists_and_roots_are_relative_to_the_file(tmp_path, monkeypatch):
    """Not to the working folder; and a list is not below the root, since it comes with the file."""
    described, elsewhere = tmp_path / "described", tmp_path / "elsewhere"
    described.mkdir()
    elsewhere.mkdir()
    (described / "val.txt").write_text("0\n")
    monkeypatch.chdir(elsewhere)
    splits = {"val": {"images": "photos", "labels": "masks", "list": "val.txt"}}
    (spec,) = read_dataset_file(describe(described, root="../data", splits=splits))
    assert spec.root == (tmp_path / "data").resolve()
    assert list(spec.layouts[0].lists) == [str((described / "val.txt").resolve())]
    (spec,) = read_dataset_file(describe(described))
    assert spec.root == described.resolve() and not spec.layouts[0].lists
    (described / "names.json").write_text('["a", "b"]')
    (spec,) = read_dataset_file(describe(described, classes="names.json"))
    assert spec.vocabulary("catseg").names == ["a", "b"]


@pytest.mark.parametrize(
    ("count", "background", "ignore"),
    [
        (2, "none", 255),
        (254, "none", 255),
        (255, "none", 65535),
        (256, "none", 65535),
        (253, "threshold", 255),
        (254, "threshold", 65535),
    ],
)
def test_the_ignore_value_is_never_a_class(tmp_path, count, background, ignore):
    """255 as long as all indices, the background's included, are below 254; from 255 labels on the
    largest of 16 bits.
    """
    (spec,) = read_dataset_file(
        describe(tmp_path, classes=[f"c{k}" for k in range(count)], background=background)
    )
    assert spec.ignore == ignore
    table = spec.layouts[0].label_map.table
    labels = count + (background != "none")
    assert table[:labels].tolist() == list(range(labels)) and table[ignore] == ignore
    assert set(table[labels:ignore].tolist()) <= {-1}


def test_values_by_name_and_ignored_ones(tmp_path):
    keys = {"label_map": {3: "road", 7: "car", 9: "car", 4: "ignore"}, "ignore": [200, 250]}
    (spec,) = read_dataset_file(describe(tmp_path, **keys))
    assert dict(spec.layouts[0].label_map.classes) == {
        3: 0,
        7: 1,
        9: 1,
        4: 255,
        200: 255,
        250: 255,
    }
    (spec,) = read_dataset_file(describe(tmp_path, ignore=200))
    assert dict(spec.layouts[0].label_map.classes) == {0: 0, 1: 1, 200: 255}


def test_each_split_has_its_folders_and_affixes(tmp_path):
    splits = {
        "train": {"images": "a", "labels": "b", "image_affix": ["x_", "_y"]},
        "val": {"images": "c", "labels": "d", "label_affix": ["", "_mask"]},
    }
    train, val = read_dataset_file(describe(tmp_path, splits=splits, version=3))
    assert (train.layouts[0].images, train.layouts[0].labels) == ("a", "b") and (
        val.layouts[0].images,
        val.layouts[0].labels,
    ) == ("c", "d")
    assert (train.layouts[0].image_affix, train.layouts[0].label_affix) == (("x_", "_y"), ("", ""))
    assert (val.layouts[0].image_affix, val.layouts[0].label_affix) == (("", ""), ("", "_mask"))
    assert [s.name for s in (train, val)] == [
        f"{tmp_path.name}-rules_train",
        f"{tmp_path.name}-rules_val",
    ]
    assert (
        train.vocabulary("catseg").version == "3"
        and not train.benchmark
        and train.background == "none"
    )
    assert train.name not in DATASETS  # reading registers nothing


def test_the_message_lists_the_built_in_label_maps_alone(tmp_path):
    read_dataset_file(describe(tmp_path))  # whose own map is known from now on
    with pytest.raises(
        ValueError, match="label_map 'mine': expected one for 2 classes, of"
    ) as error:
        read_dataset_file(describe(tmp_path, label_map="mine"))
    assert "'cityscapes'" in str(error.value) and "file:" not in str(error.value)


@pytest.mark.parametrize(
    "splits", [{"val": {"images": "a", "labels": "b"}, "a/b": {"images": "a", "labels": "b"}}]
)
def test_one_wrong_name_among_the_splits(tmp_path, splits):
    with pytest.raises(ValueError, match="splits: got "):
        read_dataset_file(describe(tmp_path, splits=splits))
