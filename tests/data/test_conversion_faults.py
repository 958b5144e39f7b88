"""Preparing published datasets from sources that are missing, damaged or malicious."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import threading

import hyperclip.data.label_conversion as prep
import numpy as np
import pytest
from hyperclip.data.index_files import read_ade_index
from hyperclip.tinyscenes import drawing as tinyscenes
from PIL import Image

from tests.conftest import ROOT
from tests.helpers import fake_trees
from tests.helpers.fake_trees import run_main, run_script

STUFF = "coco-stuff/annotations_detectron2"
PC59, PC459 = (f"VOCdevkit/VOC2010/annotations_detectron2/{name}_val" for name in ("pc59", "pc459"))


@pytest.mark.parametrize(
    ("script", "expected", "source"),
    [
        (
            "coco_stuff",
            "coco-stuff/annotations/val2017' does not exist",
            "stuffthingmaps_trainval2017.zip",
        ),
        (
            "coco_object",
            "coco/annotations/instances_val2017.json' exists",
            "annotations_trainval2017.zip",
        ),
        ("pascal_context_59", "VOCdevkit/VOC2010/trainval_merged.json' does not exist", "https://"),
        ("pascal_context_459", "VOCdevkit/VOC2010/trainval' does not exist", "trainval.tar.gz"),
        (
            "ade20k_847",
            "ADE20K_2021_17_01/index_ade20k.pkl' does not exist",
            "groups.csail.mit.edu",
        ),
    ],
)
def test_missing_inputs(tmp_path, script, expected, source):
    told = run_main(script, "--root", tmp_path)
    assert told.startswith("error: ") and expected in told and source in told
    assert not list(tmp_path.iterdir())


def test_damaged_inputs_do_not_stop_the_others(tmp_path):
    fake_trees.coco_stuff(tmp_path, 3)
    fake_trees.context(tmp_path, 3)
    fake_trees.ade847(tmp_path, 3)
    stuff = sorted((tmp_path / "coco-stuff/annotations/val2017").iterdir())[1]
    stuff.write_bytes(stuff.read_bytes()[:60])
    mats = [
        tmp_path / f"VOCdevkit/VOC2010/trainval/{name}.mat" for name in fake_trees.context_names(3)
    ]
    mats[0].unlink()
    mats[1].write_bytes(mats[1].read_bytes()[:150])
    street = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    (street / "ADE_val_00000001_seg.png").unlink()
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(street / "ADE_val_00000002_seg.png")
    merged = tmp_path / "VOCdevkit/VOC2010/trainval_merged.json"
    index = json.loads(merged.read_text())
    index["annos_segmentation"][0]["segmentation"]["counts"] = "zzz"
    merged.write_text(json.dumps(index))
    done = run_script("coco_stuff", "--split", "val2017", root=tmp_path)
    assert (
        done.returncode == 1 and "error: 1 of 3 inputs" in done.stderr and str(stuff) in done.stderr
    )
    assert "Traceback" not in done.stderr
    with pytest.raises(ValueError, match=r"2 of 3 inputs") as error:
        fake_trees.prepare("pascal_context_459", tmp_path)
    assert f"{mats[0]}: does not exist" in str(error.value) and str(mats[1]) in str(error.value)
    with pytest.raises(ValueError, match=r"1 of 3 inputs(?s:.)*image 2008_000002.jpg"):
        fake_trees.prepare("pascal_context_59", tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 inputs") as error:
        fake_trees.prepare("ade20k_847", tmp_path)
    assert "ADE_val_00000001_seg.png' does not exist" in str(error.value)
    assert "ADE_val_00000002_seg.png: got (5, 5) pixels, expected the (60, 40)" in str(error.value)
    scaled = "ADE20K_2021_17_01/images_detectron2/validation"
    for folder, count in ((f"{STUFF}/val2017", 2), (PC459, 1), (PC59, 2), (scaled, 1)):
        files = list((tmp_path / folder).iterdir())
        assert len(files) == count and all(prep.is_readable(path) for path in files), folder


def test_context459_without_its_list(tmp_path):
    fake_trees.context(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2010"
    (folder / "pascalcontext_val.txt").unlink()
    assert fake_trees.prepare("pascal_context_459", tmp_path).written == 2
    assert sorted(p.stem for p in (tmp_path / PC459).iterdir()) == fake_trees.context_names(2)
    (folder / "trainval_merged.json").unlink()
    with pytest.raises(
        FileNotFoundError,
        match="neither .*pascalcontext_val.txt' nor .*trainval_merged.json' exists",
    ):
        fake_trees.prepare("pascal_context_459", tmp_path)


def test_coco_object_from_elsewhere(tmp_path):
    fake_trees.coco_object(tmp_path)
    source = tmp_path / "coco-stuff/annotations/instances_val2017.json"
    moved = source.rename(tmp_path / "instances.json")
    assert run_script("coco_object", "--root", tmp_path, "--instances", moved).returncode == 0
    (tmp_path / "coco/annotations").mkdir(parents=True)
    moved.rename(tmp_path / "coco/annotations/instances_val2017.json")
    assert fake_trees.prepare("coco_object", tmp_path).kept == 2
    few = '{"images": [], "annotations": [], "categories": [{"id": 1}]}'
    for content, told in (
        ("{", "is not JSON"),
        ("[]", "an object with"),
        ('{"a": 1}', "an object with"),
        (few, "got 1 categ"),
    ):
        source.write_text(content)
        with pytest.raises(ValueError, match=f"instances_val2017.json'.*{told}"):
            fake_trees.prepare("coco_object", tmp_path)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("protocol", range(6))
def test_an_index_with_code_is_refused(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps({"folder": ["a"], "filename": [Malicious()]}, protocol=protocol))
    with pytest.raises(ValueError, match=r"it asks for (posix|nt).system"):
        read_ade_index(path)
    for name in ("eval", "exec", "getattr", "__import__", "open"):
        path.write_bytes(b"c" + b"builtins\n" + name.encode() + b"\n.")
        with pytest.raises(ValueError, match=f"it asks for builtins.{name}"):
            read_ade_index(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_indices_of_every_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "index_ade20k.pkl"
    index = {
        "folder": np.array(["x/y"], object),
        "filename": ["ADE_val_1.jpg"],
        "counts": np.eye(3),
        "one": np.float64(2),
    }
    content = pickle.dumps(index, protocol=protocol)
    for module in (b"numpy._core", b"numpy.core"):  # as numpy 2 and numpy 1 write it
        renamed = content if protocol >= 4 else content.replace(b"numpy._core", module)
        path.write_bytes(renamed)
        assert [str(p) for p in read_ade_index(path)] == ["x/y/ADE_val_1.jpg"]


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"<html>",
        pickle.dumps([]),
        pickle.dumps({"folder": ["a"]}),
        pickle.dumps({"folder": ["a"], "filename": ["b", "c"]}),
        pickle.dumps({"folder": ["a/../.."], "filename": ["b"]}),
        pickle.dumps({"folder": ["/etc"], "filename": ["b"]}),
    ],
)
def test_broken_indices(tmp_path, index):
    path = tmp_path / "index_ade20k.pkl"
    path.write_bytes(index)
    with pytest.raises(ValueError, match="index_ade20k.pkl'"):
        read_ade_index(path)


def test_trees_are_deterministic(tmp_path):
    for name in ("a", "b"):
        fake_trees.build_cliper(tmp_path / name)
        fake_trees.coco_object(tmp_path / name)
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_every_script_is_importable_without_running():
    for script in sorted((ROOT / "datasets").glob("prepare_*.py")):
        assert "main" in runpy.run_path(str(script))


def _without(index, name, key):
    del index[name][-1][key]


BROKEN = {
    "entry is a text": lambda index, name, key: index[name].append("x"),
    "list is an object": lambda index, name, key: index.update({name: {"0": index[name][0]}}),
    "key is absent": _without,
    "value is a text": lambda index, name, key: index[name][-1].update({key: ["x"]}),
    "value is null": lambda index, name, key: index[name][-1].update({key: None}),
}


@pytest.mark.parametrize("change", BROKEN)
@pytest.mark.parametrize(
    ("script", "file", "name", "key"),
    [
        ("coco_object", "coco-stuff/annotations/instances_val2017.json", "images", "id"),
        ("coco_object", "coco-stuff/annotations/instances_val2017.json", "images", "height"),
        ("coco_object", "coco-stuff/annotations/instances_val2017.json", "annotations", "image_id"),
        ("coco_object", "coco-stuff/annotations/instances_val2017.json", "categories", "id"),
        ("pascal_context_59", "VOCdevkit/VOC2010/trainval_merged.json", "images", "image_id"),
        ("pascal_context_59", "VOCdevkit/VOC2010/trainval_merged.json", "images", "file_name"),
        ("pascal_context_59", "VOCdevkit/VOC2010/trainval_merged.json", "images", "phase"),
        (
            "pascal_context_59",
            "VOCdevkit/VOC2010/trainval_merged.json",
            "annos_segmentation",
            "image_id",
        ),
    ],
)
def test_entries_without_a_key_are_one_line(tmp_path, change, script, file, name, key):
    fake_trees.coco_object(tmp_path) if script == "coco_object" else fake_trees.context(tmp_path)
    path = tmp_path / file
    index = json.loads(path.read_text())
    BROKEN[change](index, name, key)
    path.write_text(json.dumps(index))
    told = run_main(script, "--root", tmp_path)
    assert told.startswith("error: ") and "\n" not in told and str(path) in told and name in told
    assert key in told or change in ("entry is a text", "list is an object")


def test_a_list_of_ids_as_windows_writes_it(tmp_path):
    fake_trees.context(tmp_path)
    names = fake_trees.context_names(2)
    listed = tmp_path / "VOCdevkit/VOC2010/pascalcontext_val.txt"
    listed.write_bytes(f"{names[0]}\r\nJPEGImages\\{names[1]}.jpg\r\n".encode("utf-8-sig"))
    assert fake_trees.prepare("pascal_context_459", tmp_path).written == 2
    assert sorted(p.stem for p in (tmp_path / PC459).iterdir()) == names


def test_tinyscenes_three_times_at_once(tmp_path, monkeypatch):
    """Each run writes under a name of its own before it renames, so none takes another's file
    away.
    """
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["prepare_tinyscenes.py"])
    few = {"val_seen": tinyscenes.Split("seen", 40, 2)}
    script = runpy.run_path(str(ROOT / "datasets/prepare_tinyscenes.py"))
    monkeypatch.setitem(script["main"].__globals__, "SPLITS", few)
    monkeypatch.setitem(script["main"].__globals__, "FINE_SPLITS", {})
    faults = []

    def run():
        try:
            script["main"]()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    folder = tmp_path / "tinyscenes/val_seen"
    for kind in ("images", "labels"):
        assert sorted(p.name for p in (folder / kind).iterdir()) == [
            f"{k:05d}.png" for k in range(40)
        ]
    image, label = tinyscenes.render_scene("val_seen", 39)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "images/00039.png")), image)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "labels/00039.png")), label)


def test_tinyscenes_into_a_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "tinyscenes").write_text("")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    told = run_main("tinyscenes")
    assert told.startswith("error: ") and "tinyscenes" in told


def test_other_scenes_of_tinyscenes_are_of_no_split(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    script = runpy.run_path(str(ROOT / "datasets/prepare_tinyscenes.py"))
    few = {"val_seen": tinyscenes.Split("seen", 3, 2)}
    monkeypatch.setitem(script["main"].__globals__, "SPLITS", few)
    monkeypatch.setitem(script["main"].__globals__, "FINE_SPLITS", {})
    for wrong in ("", str(tmp_path / "datasets"), str(tmp_path / "other/../datasets")):
        monkeypatch.setattr("sys.argv", ["prepare_tinyscenes.py", "--others", wrong])
        with pytest.raises(ValueError, match="--others: got .*, expected another folder"):
            script["main"]()
    monkeypatch.setattr("sys.argv", ["prepare_tinyscenes.py", "--others", str(tmp_path / "other")])
    script["main"]()
    folder = tmp_path / "other/tinyscenes/val_seen"
    for kind in ("images", "labels"):
        names = sorted(path.name for path in (folder / kind).iterdir())
        assert names == ["00003.png", "00004.png", "00005.png"]
    label = tinyscenes.render_scene("val_seen", 4)[1]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "labels/00004.png")), label)
    assert not (tmp_path / "datasets").exists()
