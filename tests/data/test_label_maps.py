"""What label values mean: the recorded arrays of the released programs, real samples of every
format, and bad files.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hyperclip.data import DATASETS
from hyperclip.data.label_maps import LABEL_MAPS, LabelMap, read_label, read_raw_label
from PIL import Image

from tests.conftest import SHARED

DATA = SHARED / "data"


@pytest.fixture(scope="module")
def samples():
    if not DATA.is_dir():
        pytest.skip("the real photos (../shared/data) are not here")
    return DATA


def mapped(name, raw):
    return LABEL_MAPS[name].table[raw]


@pytest.mark.parametrize(
    ("label_map", "pairs"),
    [
        ("from_one_20", [("voc_in_0", "voc_out_0"), ("voc_in_2", "voc_out_2")]),
        ("from_one_20_background", [(f"voc_in_{k}", f"voc_bg_out_{k}") for k in range(3)]),
        ("from_one_150", [("ade150_in", "ade150_out")]),
        ("coco_stuff", [("cocostuff_in", "cocostuff_out")]),
    ],
)
def test_recorded_remaps_of_hyperclip(golden, label_map, pairs):
    arrays = golden("d_hyperclip_labels.npz")
    for raw, expected in pairs:
        np.testing.assert_array_equal(mapped(label_map, arrays[raw]), arrays[expected])


def test_the_whole_table_of_coco_stuff(golden):
    table, recorded = (
        LABEL_MAPS["coco_stuff"].table,
        golden("d_hyperclip_labels.npz")["cocostuff_table"],
    )
    # 183 to 254 have no meaning: the released table gives them 255, here they are an error
    known = table >= 0
    np.testing.assert_array_equal(table[known], recorded[known])
    assert (recorded[~known] == 255).all() and not known[183:255].any()


@pytest.mark.parametrize(
    ("name", "key"), [("context459_indices", "pc459_out"), ("context459_indices", "pc459_out_zero")]
)
def test_converted_context_459(golden, name, key):
    converted = golden("d_hyperclip_labels.npz")[key]
    np.testing.assert_array_equal(
        mapped(name, converted), np.where(converted == 65535, 459, converted)
    )


@pytest.mark.parametrize("k", range(4))
def test_converted_ade_847(golden, k):
    converted = golden("d_hyperclip_labels.npz")[f"ade847_out_{k}"]
    np.testing.assert_array_equal(mapped("ade847_indices", converted), converted)


def test_converted_context_59(golden):
    converted = golden("d_hyperclip_labels.npz")["pc59_out"]
    np.testing.assert_array_equal(mapped("indices_59", converted), converted)
    with_background = mapped("indices_59_background", converted)
    np.testing.assert_array_equal(with_background, np.where(converted == 255, 59, converted))


@pytest.mark.parametrize(
    ("set_name", "count", "classes", "label_map", "has_background"),
    [
        ("voc21", 2, 20, "from_one_20_background", True),
        ("voc21", 2, 20, "from_one_20", False),
        ("context", 2, 59, "from_one_59_background", True),
        ("context", 2, 59, "from_one_59", False),
        ("coco5k", 1, 80, "from_one_80_background", True),
        ("coco_stuff164", 1, 171, "indices_171", False),
        ("ade150", 1, 150, "from_one_150", False),
    ],
)
def test_recorded_masks_of_cliper(golden, set_name, count, classes, label_map, has_background):
    """CLIPer counts classes from 1 and has its background at 0: here classes count from 0, the
    background comes last.
    """
    arrays = golden("d_cliper_labels.npz")
    for k in range(count):
        theirs = arrays[f"{set_name}_out_{k}"].astype(int)
        expected = np.where(
            theirs == 0,
            classes if has_background else 255,
            np.where(theirs == 255, 255, theirs - 1),
        )
        ours = mapped(label_map, arrays[f"{set_name}_in_{k}"])
        np.testing.assert_array_equal(ours, expected)
        present = np.isin(np.arange(classes), ours)
        np.testing.assert_array_equal(present, arrays[f"{set_name}_label_{k}"].astype(bool))


def test_recorded_halves_of_cityscapes(golden, tmp_path):
    arrays = golden("d_cliper_labels.npz")
    Image.fromarray(arrays["cityscapes_in_0"]).save(tmp_path / "label.png")
    for k, half in enumerate(("right", "left")):
        theirs = arrays[f"cityscapes_out_{k}"].astype(int)
        ours = read_label(tmp_path / "label.png", LABEL_MAPS["indices_19"], half)
        np.testing.assert_array_equal(ours, np.where(theirs == 255, 255, theirs - 1))
    with pytest.raises(ValueError, match="expected exactly 2:1"):
        Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "wide.png")
        read_label(tmp_path / "wide.png", LABEL_MAPS["indices_19"], "left")
    with pytest.raises(ValueError, match="half: got 'top'"):
        read_label(tmp_path / "label.png", LABEL_MAPS["indices_19"], "top")


def class_names(path, label_map, dataset):
    label = read_label(path, LABEL_MAPS[label_map])
    spec = DATASETS[dataset]
    return {spec.label_names[k] for k in np.unique(label) if k != spec.ignore}


@pytest.mark.parametrize(
    ("path", "label_map", "dataset", "expected"),
    [
        (
            "voc2012_samples/SegmentationClass/2008_002536.png",
            "from_one_20",
            "voc_2012_test_sem_seg",
            {"dog", "sheep"},
        ),
        (
            "voc2012_samples/SegmentationClass/2010_005582.png",
            "from_one_20_background",
            "voc_2012_test_21_sem_seg",
            {"bottle", "person", "background"},
        ),
        (
            "voc2012_labelme_samples/SegmentationClass/2011_000006.png",
            "from_one_20",
            "voc_2012_test_sem_seg",
            {"chair", "person", "sofa"},
        ),
        (
            "ade20k_samples/annotations/validation/ADE_val_00000001.png",
            "from_one_150",
            "ade20k_150_test_sem_seg",
            {"wall", "building", "sky", "tree", "road", "grass", "plant"},
        ),
        (
            "ade20k_samples/annotations/validation/ADE_val_00000003.png",
            "from_one_150",
            "ade20k_150_test_sem_seg",
            {
                "wall",
                "building",
                "sky",
                "tree",
                "road",
                "sidewalk",
                "car",
                "signboard",
                "bus",
                "streetlight",
                "escalator",
                "van",
            },
        ),
        (
            "cocostuff_samples/val_label/000000000785.png",
            "coco_stuff",
            "coco_2017_test_stuff_all_sem_seg",
            {"person", "skis", "fog", "snow"},
        ),
        (
            "cocostuff_samples/val_label/000000001490.png",
            "coco_stuff",
            "coco_2017_test_stuff_all_sem_seg",
            {"person", "surfboard", "building-other", "sea", "sky-other", "solid-other", "tree"},
        ),
        (
            "pascal_context_samples/labels/2008_008376.png",
            "context_voc_first",
            "context_59_test_sem_seg",
            {"bird", "grass", "ground", "water", "wood"},
        ),
        (
            "pascal_context_samples/labels/2010_003321.png",
            "context_voc_first_background",
            "context_60_test_sem_seg",
            {"cloth", "dog", "floor", "person", "diningtable", "wall"},
        ),
        (
            "cityscapes_sample/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
            "cityscapes",
            "cityscapes_test_sem_seg",
            {
                "road",
                "sidewalk",
                "building",
                "fence",
                "pole",
                "traffic sign",
                "vegetation",
                "sky",
                "person",
                "car",
            },
        ),
    ],
)
def test_real_samples_have_the_right_names(samples, path, label_map, dataset, expected):
    """The names were checked by eye against the images."""
    assert class_names(samples / path, label_map, dataset) == expected


def test_borders_of_voc_do_not_count(samples):
    label = read_label(
        samples / "voc2012_samples/SegmentationClass/2007_004189.png",
        LABEL_MAPS["from_one_20_background"],
    )
    raw = read_raw_label(samples / "voc2012_samples/SegmentationClass/2007_004189.png")
    assert (
        (raw == 255).any()
        and ((label == 255) == (raw == 255)).all()
        and ((label == 20) == (raw == 0)).all()
    )


def test_both_kinds_of_cityscapes_labels_agree(samples):
    stem = samples / "cityscapes_sample/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_"
    by_id = read_label(f"{stem}labelIds.png", LABEL_MAPS["cityscapes"])
    by_train_id = read_label(f"{stem}labelTrainIds.png", LABEL_MAPS["indices_19"])
    # the sample was scaled down, and its two label files differ at a few borders
    differ = by_id != by_train_id
    assert differ.mean() < 0.003
    assert set(np.unique(by_id)) == set(np.unique(by_train_id))


def test_values_without_a_meaning(tmp_path):
    Image.fromarray(np.array([[0, 20, 21, 77]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "wide.png")
    with pytest.raises(
        ValueError,
        match=r"a.png': got values \[21, 77\] that label map 'from_one_20' does not know",
    ):
        read_label(tmp_path / "a.png", LABEL_MAPS["from_one_20"])
    with pytest.raises(ValueError, match=r"wide.png': got values \[300\]"):
        read_label(tmp_path / "wide.png", LABEL_MAPS["from_one_20"])
    with pytest.raises(
        ValueError, match=r"a.png': got values \[20, 21, 77\] that label map 'mine' does not know"
    ):
        read_label(tmp_path / "a.png", LabelMap({0: 0}, name="mine"))


def test_built_in_label_maps_stay_as_they_are():
    known = LABEL_MAPS["from_one_20"]
    with pytest.raises(TypeError):
        LABEL_MAPS["from_one_20"] = known
    with pytest.raises(TypeError):
        known.classes[1] = 7
    given = {1: 0}
    own = LabelMap(given)
    given[1] = 5
    assert own.classes == {1: 0} and own.table[1] == 0
    assert all(label_map.name == name for name, label_map in LABEL_MAPS.items())


@pytest.mark.parametrize(
    "label_map",
    [
        *LABEL_MAPS.values(),
        LabelMap({7: 0, 300: 1, 9: 65535}, 65535, "streets.yaml"),
        LabelMap({0: 1, 1: 0}, name="cityscapes"),
    ],
    ids=lambda label_map: label_map.name,
)
def test_a_label_map_travels_to_other_processes(label_map):
    """A record holds it and is pickled for each of its uses: without its table, and a built-in one
    by its name.
    """
    raw = np.arange(70_000)
    expected, packed = label_map.look_up(raw), pickle.dumps(label_map)
    again = pickle.loads(packed)
    assert again == label_map and hash(again) == hash(label_map) and again.name == label_map.name
    np.testing.assert_array_equal(again.look_up(raw), expected)
    assert len(packed) < 150 and (again is label_map) == (label_map in LABEL_MAPS.values())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)),
            "mode RGB and shape .* expected one channel",
        ),
        (Image.fromarray(np.zeros((4, 4), np.uint8)).convert("LA"), "mode LA"),
        (Image.fromarray(np.zeros((4, 4, 4), np.uint8)), "mode RGBA"),
    ],
)
def test_masks_that_hold_no_indices(tmp_path, image, message):
    image.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        read_raw_label(tmp_path / "a.png")


def test_a_label_that_is_cut_short(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 20, (64, 64)).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(ValueError, match="is it empty or cut short"):
        read_raw_label(tmp_path / "a.png")
