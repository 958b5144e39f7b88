"""Preparing published datasets: the conversions, what is kept, what is reported, and the scripts
from end to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import hyperclip.data.label_conversion as prep
import numpy as np
import pytest
import scipy.io
from hyperclip.data import load_records
from hyperclip.data.label_maps import LABEL_MAPS, read_label
from hyperclip.data.registry import DATASETS
from PIL import Image
from pycocotools import mask as coco_masks

from tests.conftest import ROOT
from tests.helpers import fake_trees
from tests.helpers.fake_trees import pixels, run_main, run_script

STUFF, OBJECT = "coco-stuff/annotations_detectron2", "coco-stuff/annotations_object/val2017"
PC59, PC459 = (f"VOCdevkit/VOC2010/annotations_detectron2/{name}_val" for name in ("pc59", "pc459"))


# The conversions, against what the released scripts wrote


def test_coco_stuff_like_the_released_script(golden):
    arrays = golden("d_hyperclip_labels.npz")
    labels = prep.coco_stuff_labels(arrays["cocostuff_in"])
    np.testing.assert_array_equal(labels, arrays["cocostuff_out"])
    assert labels.dtype == np.uint8
    known = np.array([[*range(182), 255]])
    np.testing.assert_array_equal(prep.coco_stuff_labels(known), arrays["cocostuff_table"][known])
    for value in (183, 254, 300):
        with pytest.raises(
            ValueError, match=rf"got values \[{value}\], expected a stuffthingmap's 0..182 and 255"
        ):
            prep.coco_stuff_labels(np.full((2, 2), value, np.uint16))


def test_context59_like_the_released_script(golden):
    arrays = golden("d_hyperclip_labels.npz")
    np.testing.assert_array_equal(prep.CONTEXT59_IDS, arrays["pc59_category_ids_sorted"])
    masks = np.unpackbits(arrays["pc59_in_masks"], axis=-1)
    expected = arrays["pc59_out"]
    categories = arrays["pc59_in_categories"].tolist()
    labels = prep.context59_labels(zip(categories, masks, strict=True), *expected.shape)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype
    coded = (
        (
            c,
            {
                "size": list(m.shape),
                "counts": coco_masks.encode(np.asfortranarray(m))["counts"].decode(),
            },
        )
        for c, m in zip(categories, masks, strict=True)
    )
    decoded = ((c, prep.decode_mask(m, *expected.shape)) for c, m in coded)
    np.testing.assert_array_equal(prep.context59_labels(decoded, *expected.shape), expected)
    for category, index in zip(prep.CONTEXT59_IDS, arrays["pc59_train_ids"], strict=True):
        assert prep.context59_labels([(category, np.ones((1, 1), bool))], 1, 1) == index
    with pytest.raises(ValueError, match=r"category 2: got shape \(1, 1\), expected \(2, 3\)"):
        prep.context59_labels([(2, np.ones((1, 1), bool))], 2, 3)


def test_context459_like_the_released_script(golden, tmp_path):
    arrays = golden("d_hyperclip_labels.npz")
    for case in ("", "_zero"):
        labels = prep.context459_labels(arrays[f"pc459_in{case}"])
        np.testing.assert_array_equal(labels, arrays[f"pc459_out{case}"])
        assert labels.dtype == np.uint16
    for wrong in (
        np.zeros((2, 2)),
        np.full((2, 2), 460),
        np.full((2, 2), -1),
        np.zeros((2, 2, 3), int),
    ):
        with pytest.raises(ValueError, match="LabelMap: got"):
            prep.context459_labels(wrong)


def test_ade847_like_the_released_script(golden):
    arrays, info = golden("d_hyperclip_labels.npz"), golden("d_hyperclip_labels.json")
    np.testing.assert_array_equal(prep.ade847_ids(), arrays["ade847_ids_by_train_id"])
    for k in range(4):
        ids = prep.ade_object_ids(arrays["ade847_in_0"]) if k == 0 else arrays[f"ade847_in_{k}"]
        labels = prep.shrink(prep.ade847_labels(ids), cv2.INTER_NEAREST)
        np.testing.assert_array_equal(labels, arrays[f"ade847_out_{k}"])
        assert labels.dtype == np.uint16
        image = prep.shrink(np.zeros((*ids.shape, 3), np.uint8), cv2.INTER_LINEAR)
        assert f"image {image.shape[1::-1]}" == info[f"ade847_out_{k}"][2]
    assert prep.ade847_labels(np.array([[0, 6655]])).tolist() == [[65535, 65535]]
    with pytest.raises(
        ValueError, match=r"got uint8 of shape \(4, 4\), expected the uint8 \(H, W, 3\)"
    ):
        prep.ade_object_ids(np.zeros((4, 4), np.uint8))


def test_coco_object_paints_small_instances_last():
    def box(x: int, y: int, side: int) -> list[list[int]]:
        return [[x, y, x + side, y, x + side, y + side, x, y + side]]

    crowd = {"size": [20, 30], "counts": [0, 20 * 25, 20 * 5]}  # all but the last five columns
    annotations = [
        {"category_id": 90, "segmentation": box(4, 4, 3)},
        {"category_id": 7, "segmentation": crowd, "iscrowd": 1},
        {"category_id": 1, "segmentation": box(2, 2, 10)},
        {"category_id": 2, "segmentation": box(4, 4, 3) + box(14, 2, 3)},
    ]
    classes = {1: 1, 2: 2, 7: 3, 90: 80}
    expected = np.zeros((20, 30), np.uint8)
    expected[:, :25] = 3
    expected[2:12, 2:12] = 1
    expected[4:7, 4:7] = expected[2:5, 14:17] = 2
    expected[4:7, 4:7] = 80
    np.testing.assert_array_equal(prep.coco_object_labels(annotations, classes, 20, 30), expected)
    np.testing.assert_array_equal(
        prep.coco_object_labels(annotations[::-1], classes, 20, 30), expected
    )
    assert not prep.coco_object_labels([], classes, 20, 30).any()
    with pytest.raises(ValueError, match="category id: got 7, expected one of the 1"):
        prep.coco_object_labels(annotations[1:2], {1: 1}, 20, 30)
    with pytest.raises(ValueError, match="20 x 30 pixels, expected 30 x 20"):
        prep.coco_object_labels(annotations[1:2], classes, 30, 20)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        [[]],
        7,
        {},
        {"counts": 3},
        {"size": [4, 4], "counts": [0, 17]},
        {"size": [4, 4], "counts": "zzzz"},
        {"size": [4, 4], "counts": 5},
    ],
)
def test_broken_segmentations(broken):
    with pytest.raises(ValueError, match="a segmentation"):
        prep.decode_mask(broken, 4, 4)


def test_run_lengths_that_end_early_give_no_random_pixels(monkeypatch):
    runs = {"size": [4, 4], "counts": [0, 3]}
    decode = coco_masks.decode
    # as uninitialised memory is
    monkeypatch.setattr(coco_masks, "decode", lambda lengths: decode(lengths) * 0 + 7)
    with pytest.raises(ValueError, match="they end before the image does"):
        prep.decode_mask(runs, 4, 4)


# Many files


def jobs_for(folder: Path, arrays: list[np.ndarray | Exception]) -> list[prep.Job]:
    def make(content: np.ndarray | Exception) -> tuple[np.ndarray]:
        if isinstance(content, Exception):
            raise content
        return (content,)

    return [
        prep.Job(f"in/{k}.png", (folder / f"{k}.png",), lambda a=a: make(a))
        for k, a in enumerate(arrays)
    ]


def test_second_run_keeps_what_is_readable(tmp_path):
    label = np.arange(2000, dtype=np.uint8).reshape(40, 50)
    jobs = jobs_for(tmp_path / "out", [label] * 4)
    assert prep.convert_files(jobs, tmp_path / "out") == prep.Counts(tmp_path / "out", 4, 0)
    files = [job.targets[0] for job in jobs]
    for path in files:
        os.utime(path, (1, 1))
    assert prep.convert_files(jobs, tmp_path / "out") == prep.Counts(tmp_path / "out", 0, 4)
    assert all(path.stat().st_mtime == 1 for path in files)
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-20])
    files[2].unlink()
    assert prep.convert_files(jobs, tmp_path / "out") == prep.Counts(tmp_path / "out", 3, 1)
    assert [path.stat().st_mtime == 1 for path in files] == [False, False, False, True]
    assert all((pixels(path) == label).all() for path in files)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_file_cut_short_is_not_readable(tmp_path, suffix):
    label = (
        np.random.default_rng(0)
        .integers(0, 255, (32, 32))
        .astype(np.uint16 if suffix == ".tif" else np.uint8)
    )
    path = tmp_path / f"a{suffix}"
    prep.convert_files([prep.Job("a", (path,), lambda: (label,))], tmp_path)
    content = path.read_bytes()
    assert prep.is_readable(path)
    assert not prep.is_readable(tmp_path / "none.png")
    for length in (0, 1, 40, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        assert not prep.is_readable(path), length


def test_faults_are_collected(tmp_path):
    good = np.zeros((4, 4), np.uint8)
    faults = [
        ValueError(f"in/{k}.png: odd") if k % 2 else KeyError("segmentation") for k in range(1, 25)
    ]
    jobs = jobs_for(tmp_path, [good, *faults, OSError("disk"), good])
    with pytest.raises(ValueError, match=r"25 of 27 inputs for .* \(2 written, 0 kept\)") as error:
        prep.convert_files(jobs, tmp_path)
    told = str(error.value).splitlines()
    assert told[1:3] == ["  in/1.png: odd", "  in/2.png: KeyError('segmentation')"]
    assert len(told) == 1 + 20 + 1 + 1 and told[21] == "  … and 5 more"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "26.png"]
    with pytest.raises(ValueError, match="got no input file"):
        prep.convert_files([], tmp_path)


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch):
    saved = Image.Image.save

    def stop(image: Image.Image, path: Path, **options: object) -> None:
        saved(image, path, **options)
        if len(list(tmp_path.iterdir())) > 2:
            Path(path).write_bytes(Path(path).read_bytes()[:30])
            raise KeyboardInterrupt

    jobs = jobs_for(tmp_path, [np.zeros((4, 4), np.uint8)] * 5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", stop)
        prep.convert_files(jobs, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "1.png"]
    assert prep.convert_files(jobs, tmp_path) == prep.Counts(tmp_path, 3, 2)


def test_a_killed_run_leaves_no_partial_file(tmp_path):
    fake_trees.coco_stuff(tmp_path, 1)
    raw = next((tmp_path / "coco-stuff/annotations/val2017").glob("*.png"))
    for k in range(400):
        raw.with_name(f"{k:012d}.png").write_bytes(raw.read_bytes())
    target = tmp_path / STUFF / "val2017"
    command = [
        sys.executable,
        "datasets/prepare_coco_stuff.py",
        "--root",
        str(tmp_path),
        "--split",
        "val2017",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(target.glob("*.png"))) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = list(target.glob("*.png"))
    assert len(written) >= 5 and all(pixels(path).shape == (40, 60) for path in written)
    counts = fake_trees.prepare("coco_stuff", tmp_path, "val2017")
    assert counts.kept == len(written) and counts.kept + counts.written == 400


def test_the_official_number_is_compared():
    counts = prep.Counts(Path("out"), 3, 2)
    assert counts.report(4, 5) == "out: 3 written, 2 kept"
    assert (
        counts.report(6)
        == "out: 3 written, 2 kept. The official number is 6, not 5: is the download complete?"
    )


# The scripts


@pytest.fixture(scope="module")
def raw_trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for build in (
        fake_trees.coco_stuff,
        fake_trees.coco_object,
        fake_trees.context,
        fake_trees.ade847,
    ):
        build(root, 3)
    return root


@pytest.mark.parametrize(
    ("script", "arguments", "folders", "official"),
    [
        ("coco_stuff", ["--split", "val2017"], [f"{STUFF}/val2017"], "5000"),
        ("coco_stuff", [], [f"{STUFF}/val2017", f"{STUFF}/train2017"], "118287"),
        ("coco_object", [], [OBJECT], "5000"),
        ("pascal_context_59", [], [PC59], "5104 or 5105"),
        ("pascal_context_459", [], [PC459], "5104 or 5105"),
        (
            "ade20k_847",
            [],
            [
                f"ADE20K_2021_17_01/{kind}_detectron2/validation"
                for kind in ("images", "annotations")
            ],
            "2000",
        ),
    ],
)
def test_scripts(raw_trees, capsys, script, arguments, folders, official):
    done = run_script(script, *arguments, root=raw_trees)
    assert done.returncode == 0, done.stderr
    assert f"The official number is {official}, not 3" in done.stdout
    for folder in folders:
        files = sorted((raw_trees / folder).iterdir())
        assert len(files) == 3 and all(prep.is_readable(path) for path in files)
    again = run_main(script, *arguments, "--root", raw_trees)
    assert again is None and "0 written, 3 kept" in capsys.readouterr().out


def test_what_the_scripts_write(raw_trees):
    for script, *arguments in (
        ("coco_stuff", "val2017"),
        ("coco_object",),
        ("pascal_context_59",),
        ("pascal_context_459",),
        ("ade20k_847",),
    ):
        fake_trees.prepare(script, raw_trees, *arguments)
    for path in (raw_trees / STUFF / "val2017").iterdir():
        raw = raw_trees / "coco-stuff/annotations/val2017" / path.name
        np.testing.assert_array_equal(pixels(path), read_label(raw, LABEL_MAPS["coco_stuff"]))
    first, second, last = (pixels(path) for path in sorted((raw_trees / OBJECT).iterdir()))
    assert set(np.unique(first)) == {0, 1, 12, 57, 80} and not last.any()
    assert (first[:, 52:] == 12).all() and (first[12:20, 12:20] == 1).all() and first[2, 2] == 80
    assert (second[12:20, 12:20] == 17).all()
    context = raw_trees / "VOCdevkit/VOC2010"
    for name in fake_trees.context_names(3):
        raw = scipy.io.loadmat(context / f"trainval/{name}.mat")["LabelMap"]
        np.testing.assert_array_equal(pixels(raw_trees / PC459 / f"{name}.tif"), raw - np.uint16(1))
        assert {int(name[-1]) - 2, 50, 255} == set(
            np.unique(pixels(raw_trees / PC59 / f"{name}.png"))
        )
    ade = raw_trees / "ADE20K_2021_17_01"
    for path in sorted((ade / "annotations_detectron2/validation").iterdir()):
        source = ade / f"images/ADE/validation/urban/street/{path.stem}"
        coded = pixels(Path(f"{source}_seg.png")).astype(int)
        ids = coded[..., 0] // 10 * 256 + coded[..., 1]
        labels = pixels(path)
        for index in (0, 5, 300, 846):
            np.testing.assert_array_equal(labels == index, ids == prep.ade847_ids()[index])
        assert set(np.unique(labels)) == {0, 5, 300, 846, 65535}
        image, original = (
            pixels(ade / f"images_detectron2/validation/{path.stem}.jpg"),
            pixels(source.with_suffix(".jpg")),
        )
        assert image.shape == original.shape and np.abs(image.astype(int) - original).mean() < 8


def test_every_prepared_set_is_accepted(tmp_path, monkeypatch):
    fake_trees.build_all(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in (
        "context_59_test_sem_seg",
        "context_459_test_sem_seg",
        "ade20k_full_sem_seg_freq_val_all",
        "coco_object_test_sem_seg",
        "coco_2017_test_stuff_all_sem_seg",
    ):
        records = load_records(DATASETS[name])
        assert len(records) == 2
        for record in records:
            labels = read_label(record["sem_seg_file_name"], record["label_map"])
            assert labels.shape == pixels(Path(record["file_name"])).shape[:2]


def test_large_pictures_of_ade_are_scaled(tmp_path):
    fake_trees.ade847(tmp_path, 1)
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)).resize((640, 560))
    image.save(folder / "ADE_val_00000001.jpg")
    coded = np.zeros((560, 640, 3), np.uint8)
    coded[:, 320:] = (2978 // 256 * 10, 2978 % 256, 3)
    Image.fromarray(coded).save(folder / "ADE_val_00000001_seg.png")
    fake_trees.prepare("ade20k_847", tmp_path)
    base = tmp_path / "ADE20K_2021_17_01"
    labels = pixels(base / "annotations_detectron2/validation/ADE_val_00000001.tif")
    assert labels.shape == (512, 585) and set(np.unique(labels)) == {0, 65535}
    image = pixels(base / "images_detectron2/validation/ADE_val_00000001.jpg")
    expected = cv2.resize(
        pixels(folder / "ADE_val_00000001.jpg"), (585, 512), interpolation=cv2.INTER_LINEAR
    )
    assert image.shape == (512, 585, 3) and np.abs(image.astype(int) - expected).mean() < 4
    quality = Image.open(base / "images_detectron2/validation/ADE_val_00000001.jpg").quantization
    Image.fromarray(expected).save(tmp_path / "default.jpg")
    assert quality == Image.open(tmp_path / "default.jpg").quantization
