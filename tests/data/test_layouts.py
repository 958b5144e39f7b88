"""Trees of every benchmark, as published and as other tools convert them: found, counted, checked,
read alike.
"""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from hyperclip.data import DATASETS, find_dataset, load_records
from hyperclip.data.checking import check_dataset
from hyperclip.data.label_maps import read_record_label
from hyperclip.data.layouts import Layout
from hyperclip.data.pairing import read_list
from hyperclip.data.records import first_faults
from PIL import Image

from tests.helpers import fake_trees
from tests.helpers.defaults import make_mapper

BENCHMARKS = [spec for spec in DATASETS.values() if spec.benchmark]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    fake_trees.build_all(root)
    return root


@pytest.fixture
def copy(tree, tmp_path, monkeypatch):
    """A tree of one's own to break."""
    shutil.copytree(tree, tmp_path / "root")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _root(tree, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))


@pytest.mark.parametrize("spec", BENCHMARKS, ids=lambda s: s.alias)
def test_every_benchmark_is_found_and_read(spec):
    records = DatasetCatalog.get(spec.name)
    assert len(records) == (4 if spec.halves else 2)
    assert len({r["image_id"] for r in records}) == len(records)
    for record in records:
        label = read_record_label(record)
        counted = label[label != spec.ignore]
        assert counted.size and counted.min() >= 0 and counted.max() < len(spec.label_names)
        mapped = make_mapper(False)(record)
        assert mapped["image"].shape[1:] == label.shape == (mapped["height"], mapped["width"])


@pytest.mark.parametrize("spec", BENCHMARKS, ids=lambda s: s.alias)
def test_checks_count_against_the_official_number(spec):
    report = check_dataset(spec, 0)
    assert report.status == "incomplete" and not report.faults and report.sampled == report.images
    assert str(spec.images[0]) in report.expected
    assert sum(share for _, share, _ in report.histogram()) == pytest.approx(100)
    assert (("background", True) in [(n, p > 0) for n, _, p in report.histogram()]) == (
        spec.background != "none"
    )


def test_the_background_is_the_last_class():
    raw = np.asarray(
        Image.open(next(iter(load_records(find_dataset("voc21"))))["sem_seg_file_name"])
    )
    for alias, background in (("pas20", 255), ("pas20b", 20), ("voc21", 20)):
        label = read_record_label(load_records(find_dataset(alias))[0])
        assert (
            (label[raw == 0] == background).all()
            and (label[raw == 20] == 19).all()
            and (label[raw == 255] == 255).all()
        )


def test_halves_are_the_right_one_first():
    spec, whole = (
        find_dataset("city_halves"),
        read_record_label(load_records(find_dataset("city"))[0]),
    )
    records = load_records(spec)
    right, left = map(read_record_label, records[:2])
    np.testing.assert_array_equal(np.concatenate([left, right], axis=1), whole)
    images = [make_mapper(False)(r)["image"] for r in records[:2]]
    image = np.asarray(Image.open(records[0]["file_name"])).transpose(2, 0, 1)
    np.testing.assert_array_equal(np.concatenate([images[1], images[0]], axis=2), image)


@pytest.mark.parametrize(
    ("alias", "raw", "converted"),
    [
        (
            "a150",
            "ADEChallengeData2016/annotations/validation",
            "ADEChallengeData2016/annotations_detectron2/validation",
        ),
        (
            "pas20",
            "VOCdevkit/VOC2012/SegmentationClassAug",
            "VOCdevkit/VOC2012/annotations_detectron2/val",
        ),
        (
            "voc21",
            "VOCdevkit/VOC2012/SegmentationClassAug",
            "VOCdevkit/VOC2012/annotations_detectron2_bg/val",
        ),
        ("stuff", "coco-stuff/annotations/val2017", "coco-stuff/annotations_detectron2/val2017"),
    ],
)
def test_converted_trees_are_read_like_the_published_ones(copy, alias, raw, converted):
    spec = find_dataset(alias)
    before = {r["image_id"]: read_record_label(r) for r in load_records(spec)}
    (copy / converted).mkdir(parents=True)
    for key, label in before.items():
        Image.fromarray(label.astype(np.uint8)).save(copy / converted / f"{key}.png")
    shutil.rmtree(copy / raw)
    after = load_records(spec)
    assert [r["image_id"] for r in after] == list(before)
    for record in after:
        np.testing.assert_array_equal(read_record_label(record), before[record["image_id"]])


def test_the_folders_of_cliper(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.build_cliper(tmp_path)
    for alias, folder in (
        ("pc60", "SegmentationClassContext"),
        ("object", "coco_seg_anno"),
        ("stuff", "stuff_anno164"),
    ):
        records = load_records(find_dataset(alias))
        assert len(records) == 2 and all(folder in r["sem_seg_file_name"] for r in records)
        spec = find_dataset(alias)
        values = np.unique(np.concatenate([read_record_label(r).ravel() for r in records]))
        assert set(values) - {spec.ignore} <= set(range(len(spec.label_names)))


def test_lists_of_keys(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeff2007_000033\n\n a b.jpg \r\nfrankfurt/x\n", encoding="utf-8")
    assert read_list(path) == ["2007_000033", "a b.jpg", "frankfurt/x"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text file"):
        read_list(path)


def test_a_list_may_name_files_in_many_ways(tmp_path):
    """With suffixes, affixes, blanks in names, a second column; the folders may be links."""
    (tmp_path / "linked").mkdir()
    for folder, suffix, mode in (("p", "_rgb.jpg", "RGB"), ("m", "_id.png", "L")):
        (tmp_path / "real" / folder).mkdir(parents=True)
        for key in ("a b", "c"):
            Image.new(mode, (5, 5)).save(tmp_path / "real" / folder / f"{key}{suffix}")
        (tmp_path / "linked" / folder).symlink_to(tmp_path / "real" / folder)
    layout = Layout(
        "linked/p",
        "linked/m",
        "indices_150",
        ("list.txt",),
        image_affix=("", "_rgb"),
        label_affix=("", "_id"),
    )
    spec = dataclasses.replace(find_dataset("a150"), images=(), root=tmp_path, layouts=(layout,))
    for lines in ("a b\nc", "a b_rgb.jpg\nc_rgb.jpg", "a b\nc_rgb.jpg c_id.png"):
        (tmp_path / "list.txt").write_text(lines)
        assert [r["image_id"] for r in load_records(spec)] == ["a b", "c"]


def test_a_half_converted_tree_gives_way_to_a_complete_one(copy):
    """A folder of converted labels that lacks some is passed over as long as the published labels
    are all there.
    """
    folder = copy / "ADEChallengeData2016"
    (folder / "annotations_detectron2/validation").mkdir(parents=True)
    Image.new("L", (60, 40)).save(folder / "annotations_detectron2/validation/ADE_val_00000001.png")
    assert {r["label_map"].name for r in load_records(find_dataset("a150"))} == {"from_one_150"}


def test_a_missing_tree_says_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for spec in BENCHMARKS:
        with pytest.raises(FileNotFoundError) as error:
            load_records(spec)
        text = str(error.value)
        assert str(tmp_path) in text and "datasets/" in text and "DETECTRON2_DATASETS" in text
        assert all(layout.images in text and layout.labels in text for layout in spec.layouts)
        assert check_dataset(spec, 0).status == "missing"


def test_a_list_that_is_missing(copy):
    (copy / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match="no list VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    ):
        load_records(find_dataset("voc21"))


def test_faults_of_the_tree(copy):
    spec, folder = find_dataset("a150"), copy / "ADEChallengeData2016"
    (folder / "images/validation/ADE_val_00000001.jpg").unlink()
    (folder / "annotations/validation/ADE_val_00000002.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"0 images with labels, 2 faults:\n  no image for .*1.png\n  no label for .*2.jpg",
    ):
        load_records(spec)
    shutil.copy(
        copy / "coco-stuff/images/val2017/000000000139.jpg",
        folder / "images/validation/ADE_val_00000001.jpg",
    )
    Image.new("RGB", (5, 5)).save(folder / "images/validation/ADE_val_00000001.png")
    with pytest.raises(ValueError, match="have the same name"):
        load_records(spec)
    listed = copy / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text(listed.read_text() * 2 + "2099_000001\n")
    with pytest.raises(ValueError) as error:
        load_records(find_dataset("voc21"))
    for line in (
        "2007_000033 is twice in",
        "no image for 2099_000001, listed in",
        "no label for 2099_000001, listed in",
    ):
        assert line in str(error.value)


def test_only_the_first_20_faults_are_listed(copy):
    for k in range(30):
        Image.new("RGB", (5, 5)).save(
            copy / f"ADEChallengeData2016/images/validation/extra_{k:02d}.jpg"
        )
    with pytest.raises(ValueError, match="30 faults") as error:
        load_records(find_dataset("a150"))
    assert str(error.value).count("no label for") == 20
    report = check_dataset(find_dataset("a150"), 0)
    assert report.status == "faulty" and first_faults(report.faults).endswith("… and 10 more")


def test_faults_inside_the_files(copy):
    folder = copy / "ADEChallengeData2016"
    first, second = (folder / f"annotations/validation/ADE_val_0000000{k}.png" for k in (1, 2))
    image = folder / "images/validation/ADE_val_00000001.jpg"
    cases = [
        (first, np.full((40, 60), 151, np.uint8), r"got values \[151\]"),
        (first, np.full((40, 60), 700, np.uint16), r"got values \[700\]"),
        (first, np.zeros((40, 60, 3), np.uint8), "got an image of mode RGB"),
        (second, np.ones((9, 9), np.uint8), "has 56 x 44 pixels, its label .* 9 x 9"),
    ]
    for path, pixels, message in cases:
        before = path.read_bytes()
        Image.fromarray(pixels).save(path)
        report = check_dataset(find_dataset("a150"), 0)
        assert report.status == "faulty" and len(report.faults) == 1
        assert re.search(message, report.faults[0]) and str(path) in report.faults[0]
        path.write_bytes(before)
    image.write_bytes(image.read_bytes()[:200])
    (fault,) = check_dataset(find_dataset("a150"), 0).faults
    assert str(image) in fault and "cut short" in fault
