"""What label values mean, what is padded, and where files are looked for: the rules, value by
value.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip.config.keys import load_config
from hyperclip.data import SemSegMapper
from hyperclip.data.label_maps import (
    LABEL_MAPS,
    LabelMap,
    from_one,
    indices,
    read_label,
    read_record_label,
    take_half,
)
from hyperclip.data.mapper import read_image, read_record_image
from hyperclip.vocabulary import builtin
from PIL import Image

from tests.helpers.defaults import make_mapper

# --- label maps

CITYSCAPES = {  # of cityscapesScripts' labels.py: the ids of the classes that are evaluated
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def test_every_id_of_cityscapes_is_the_class_of_its_name():
    names, table = builtin("cityscapes").names, LABEL_MAPS["cityscapes"].table
    assert {name: int(table[raw]) for name, raw in CITYSCAPES.items()} == {
        name: k for k, name in enumerate(names)
    }
    others = set(range(34)) - set(CITYSCAPES.values())
    assert {int(table[raw]) for raw in others} == {255} == {int(table[255])}
    assert {int(x) for x in table[34:255]} == {-1}


# of cocostuff's labels.txt, less one: ids that no image has, and "other" of things-only labels
COCO_STUFF_UNUSED = {
    "street sign": 11,
    "hat": 25,
    "shoe": 28,
    "eye glasses": 29,
    "plate": 44,
    "mirror": 65,
    "window": 67,
    "desk": 68,
    "door": 70,
    "blender": 82,
    "hair brush": 90,
}


def test_the_ids_of_coco_stuff_skip_those_that_no_image_has():
    table = LABEL_MAPS["coco_stuff"].table
    used = [raw for raw in range(182) if raw not in COCO_STUFF_UNUSED.values()]
    assert [int(table[raw]) for raw in used] == list(range(171))
    assert {int(table[raw]) for raw in (*COCO_STUFF_UNUSED.values(), 182, 255)} == {255}
    names = builtin("coco_stuff").names
    assert {raw: names[table[raw]] for raw in (0, 12, 17, 91)} == {
        0: "person",
        12: "stop sign",
        17: "dog",
        91: "banner",
    }


@pytest.mark.parametrize("classes", [19, 20, 21, 30, 59, 60, 150, 171])
def test_maps_of_indices(classes):
    table = LABEL_MAPS[f"indices_{classes}"].table
    assert table[:classes].tolist() == list(range(classes)) and table[255] == 255
    assert set(table[classes:255].tolist()) == {-1}


@pytest.mark.parametrize("classes", [20, 59, 150])
def test_maps_that_count_from_one(classes):
    for name, zero in (("", 255), ("_background", classes)):
        if f"from_one_{classes}{name}" in LABEL_MAPS:
            table = LABEL_MAPS[f"from_one_{classes}{name}"].table
            assert table[: classes + 1].tolist() == [zero, *range(classes)] and table[255] == 255
            assert set(table[classes + 1 : 255].tolist()) <= {-1}


def test_pascal_context_with_the_classes_of_voc_first():
    table, names, voc = (
        LABEL_MAPS["context_voc_first"].table,
        builtin("context59").names,
        builtin("voc20").names,
    )
    assert [names[table[k + 1]] for k in range(20)] == voc and sorted(table[1:60].tolist()) == list(
        range(59)
    )
    with_background = LABEL_MAPS["context_voc_first_background"].table
    assert (
        table[0] == 255
        and with_background[0] == 59
        and np.array_equal(table[1:], with_background[1:])
    )


def test_maps_made_of_numbers():
    assert (
        dict(indices(2, 7, ignore=9).classes) == {0: 0, 1: 1, 7: 9, 9: 9}
        and indices(2, ignore=9).ignore == 9
    )
    assert dict(from_one(2).classes) == {0: 255, 1: 0, 2: 1, 255: 255}
    assert dict(from_one(2, background=2).classes) == {0: 2, 1: 0, 2: 1, 255: 255}
    assert len(LabelMap({3: 0}).table) == 256 and len(LabelMap({300: 0}).table) == 301
    assert LabelMap({300: 4}).table[300] == 4 and LabelMap({3: 0}).table[2] == -1
    assert (
        LABEL_MAPS["context459_indices"].ignore == 459
        and LABEL_MAPS["ade847_indices"].ignore == 65535
    )


def test_values_below_zero_have_no_meaning(tmp_path):
    """-1 is neither the last entry of the table nor class 0."""
    Image.fromarray(np.array([[0, -1, 3]], np.int32)).save(tmp_path / "a.tif")
    for name in ("indices_19", "from_one_20", "ade847_indices"):
        with pytest.raises(ValueError, match=r"a.tif': got values \[-1\] that label map"):
            read_label(tmp_path / "a.tif", LABEL_MAPS[name])


def test_values_above_the_table_have_no_meaning(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"got values \[256, 65535\] that label map 'indices_19'"):
        read_label(tmp_path / "a.png", LABEL_MAPS["indices_19"])
    assert read_label(tmp_path / "a.png", LABEL_MAPS["ade847_indices"]).tolist() == [
        [0, 256, 65535]
    ]
    assert (
        read_label(tmp_path / "a.png").tolist() == [[0, 256, 65535]]
        and read_label(tmp_path / "a.png").dtype == np.int32
    )


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3)])
def test_halves(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(take_half(array, "left", "x"), array[:, :2]) and np.array_equal(
        take_half(array, "right", "x"), array[:, 2:]
    )
    for wrong in (array[:, :3], array.swapaxes(0, 1)):
        with pytest.raises(ValueError, match="expected exactly 2:1"):
            take_half(wrong, "left", "x")


# --- the mapper


@pytest.fixture
def record(tmp_path):
    """An image (6, 10), the left half black, and its label, whose columns are their numbers."""
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[:, 5:] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.tile(np.arange(10), (6, 1)).astype(np.uint8)).save(tmp_path / "b.png")
    return {"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(tmp_path / "b.png")}


@pytest.mark.parametrize("ignore", [255, 459, 65535])
def test_what_is_padded_counts_for_nothing(record, ignore):
    mapped = make_mapper(True, ignore=ignore, size=16)(record)
    label, image = mapped["sem_seg"], mapped["image"]
    assert (
        label.shape == (16, 16)
        and image.shape == (3, 16, 16)
        and (label.dtype, image.dtype) == (torch.int64, torch.uint8)
    )
    assert (
        (label[6:] == ignore).all()
        and (label[:, 10:] == ignore).all()
        and label[:6, :10].eq(torch.arange(10)).all()
    )
    assert (image[:, 6:] == 128).all() and (image[:, :, 10:] == 128).all()
    assert image[:, 0, 7].tolist() == [10, 20, 30] and image[:, 0, 2].tolist() == [0, 0, 0]
    cut = make_mapper(True, ignore=ignore, size=4)(record)
    assert cut["sem_seg"].tolist() == [[0, 1, 2, 3]] * 4 and cut["image"].shape == (3, 4, 4)


@pytest.mark.parametrize("size", [-1, 0])
def test_nothing_is_padded_without_a_size(record, size):
    mapped = make_mapper(True, size=size)(record)
    assert mapped["image"].shape == (3, 6, 10) and mapped["sem_seg"].shape == (6, 10)


def test_a_test_image_has_no_label_and_its_own_size(record):
    cfg = load_config("configs/vitb_384_hyperbolic.yaml", ["INPUT.MIN_SIZE_TEST", "12"])
    mapped = SemSegMapper(cfg, is_train=False)(record)
    assert mapped["image"].shape == (3, 12, 20) and "sem_seg" not in mapped
    assert (mapped["height"], mapped["width"]) == (6, 10) and "height" not in record
    kept = SemSegMapper(cfg, is_train=False)({**record, "height": 3, "width": 5})
    assert (kept["height"], kept["width"]) == (3, 5)


def test_training_pads_with_the_configs_ignore_value(record):
    keys = [
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
        "459",
        "INPUT.SIZE_DIVISIBILITY",
        "32",
        "INPUT.MIN_SIZE_TRAIN",
        "(6,)",
        "INPUT.CROP.SIZE",
        "[6, 6]",
        "INPUT.RANDOM_FLIP",
        "none",
        "INPUT.COLOR_AUG_SSD",
        "False",
    ]
    mapped = SemSegMapper(load_config("configs/vitb_384_hyperbolic.yaml", keys), is_train=True)(
        record
    )
    assert (
        mapped["sem_seg"].shape == (32, 32)
        and (mapped["sem_seg"][6:] == 459).all()
        and (mapped["sem_seg"][:, 6:] == 459).all()
    )
    assert (mapped["sem_seg"][:6, :6].diff(dim=1) == 1).all()  # a crop of six columns, as they are


@pytest.mark.parametrize(
    ("flip", "expected"), [("none", {0}), ("horizontal", {0, 9}), ("vertical", {0})]
)
def test_flips(record, flip, expected):
    keys = [
        "INPUT.SIZE_DIVISIBILITY",
        "-1",
        "INPUT.MIN_SIZE_TRAIN",
        "(6,)",
        "INPUT.CROP.ENABLED",
        "False",
        "INPUT.RANDOM_FLIP",
        flip,
        "INPUT.COLOR_AUG_SSD",
        "False",
    ]
    mapper = SemSegMapper(load_config("configs/vitb_384_hyperbolic.yaml", keys), is_train=True)
    found = [mapper(record) for _ in range(16)]
    assert {int(m["sem_seg"][0, 0]) for m in found} == expected
    for m in found:  # the image goes with its label
        assert bool(m["image"][0, 0, 0]) == (int(m["sem_seg"][0, 0]) >= 5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "INPUT.DATASET_MAPPER_NAME",
            "other",
            "DATASET_MAPPER_NAME: got 'other', expected one of .'mask_former_semantic'",
        ),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT: got 'BGR', expected one of .'RGB'"),
        (
            "INPUT.RANDOM_FLIP",
            "both",
            "INPUT.RANDOM_FLIP: got 'both', expected one of .'none', 'horizontal', 'vertical'",
        ),
    ],
)
def test_settings_of_the_mapper_that_are_none(key, value, message):
    """Set on the config itself, which no reader of files and command lines has checked."""
    cfg = load_config("configs/vitb_384_hyperbolic.yaml")
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        SemSegMapper(cfg, is_train=True)


def test_colours_are_jittered_only_in_training(record):
    for is_train, changes in ((True, True), (False, False)):
        keys = [
            "INPUT.SIZE_DIVISIBILITY",
            "-1",
            "INPUT.MIN_SIZE_TRAIN",
            "(6,)",
            "INPUT.MIN_SIZE_TEST",
            "6",
            "INPUT.CROP.ENABLED",
            "False",
            "INPUT.RANDOM_FLIP",
            "none",
        ]
        mapper = SemSegMapper(
            load_config("configs/vitb_384_hyperbolic.yaml", keys), is_train=is_train
        )
        assert (
            len({tuple(mapper(record)["image"].flatten().tolist()) for _ in range(8)}) > 1
        ) == changes


def test_halves_of_records(tmp_path):
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    for half, part in (("left", slice(0, 2)), ("right", slice(2, 4))):
        record = {
            "file_name": str(tmp_path / "a.png"),
            "sem_seg_file_name": str(tmp_path / "b.png"),
            "half": half,
        }
        assert np.array_equal(read_record_image(record), pixels[:, part])
        assert np.array_equal(read_record_label(record), pixels[:, part, 0])


def test_sixteen_bits_are_scaled_to_eight_with_rounding(tmp_path):
    """65535 / 255 = 257 steps each: half a step more rounds up."""
    values = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"))[0, :, 0].tolist() == [
        0,
        0,
        1,
        1,
        1,
        2,
        254,
        255,
        255,
    ]
