"""Proposers of regions: superpixels, files found by an image's name, and their faults."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from hyperclip import Predictor, load_config
from hyperclip.data.label_maps import indices
from hyperclip.segmenter import Question
from hyperclip.stages import REGIONS_REGISTRY, Regions, Staged
from hyperclip.stages.proposers import RegionFiles, Superpixels, save_label_regions
from hyperclip.stages.proposers.files import _picture_of, read_regions
from hyperclip.stages.staged import build_stages
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

from tests.docs.reading import blocks
from tests.stages.test_stages import Foreign

WORDS = "red plain circle, circle; blue striped star; green dotted cross, plus, cross"
CPU = ["MODEL.DEVICE", "cpu"]
CONFIG = "configs/quickstart/dense_clip.yaml"
PIXELS = render_scene("val_seen", 0)[0]


def config(*keys):
    return load_config(CONFIG, [*CPU, *keys])


def halves(height, width):
    regions = np.ones((height, width), np.uint8)
    regions[:, width // 2 :] = 7
    return regions


def test_superpixels_cover_the_image_and_follow_its_colours():
    image = torch.zeros(3, 60, 96, dtype=torch.uint8)
    image[0, :, 48:] = 200
    for max_size in (0, 48, 500):
        found = Superpixels(12, 10.0, max_size)([image, image.float()])
        for regions in found:
            assert regions.shape == (60, 96) and regions.dtype == torch.int64
            assert sorted(regions.unique().tolist()) == list(range(int(regions.max()) + 1))
            assert 6 <= regions.max() + 1 <= 24
            left, right = regions[:, :48].unique(), regions[:, 48:].unique()
            assert not set(left.tolist()) & set(right.tolist())
        assert torch.equal(*found)


def test_superpixels_of_a_config():
    keys = ("TEST.REGIONS.NAME", "superpixels", "TEST.REGIONS.SUPERPIXELS.NUMBER", 20)
    predictor = Predictor.from_config(config(*keys))
    assert isinstance(predictor.model, Staged)
    (stage,) = predictor.model.stages
    assert stage.proposer == Superpixels(20, 10.0, 320)
    answer = predictor.segment(predictor.encode(PIXELS), WORDS, scores=True)
    (regions,) = stage.proposer([torch.from_numpy(PIXELS.transpose(2, 0, 1))])
    for region in regions.unique():
        pixels = answer.scores[:, regions == region]
        assert (pixels == pixels[:, :1]).all()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SUPERPIXELS.NUMBER", 0, "expected 1 or more"),
        ("SUPERPIXELS.COMPACTNESS", 0.0, "expected 1e-06 or more"),
        ("SUPERPIXELS.MAX_SIZE", -1, "expected 0 or more"),
        ("TEMPERATURE", 0.0, "expected 1e-06 or more"),
        ("MASKS.IOU", 1.5, "expected 0 to 1"),
    ],
)
def test_keys_have_bounds(key, value, words):
    with pytest.raises(ValueError, match=f"TEST.REGIONS.{key}.*{words}"):
        config(f"TEST.REGIONS.{key}", value)


@pytest.mark.parametrize(
    ("name", "package"), [("superpixels", "scikit-image"), ("sam", "transformers")]
)
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    keys = ("TEST.REGIONS.NAME", name, "TEST.REGIONS.MODEL", "folder")
    with pytest.raises(ModuleNotFoundError, match=rf"{package}. Install it: pip .*\[regions\]"):
        build_stages(config(*keys), Foreign())


def test_every_name_is_registered():
    names = {name for name, _ in REGIONS_REGISTRY}
    assert {"none", "superpixels", "files", "sam", "sam2", "eomt"} <= names


@pytest.fixture
def folder(tmp_path):
    """Two files of one image's name, the second for images in a folder "paris"."""
    root = tmp_path / "regions"
    (root / "paris").mkdir(parents=True)
    Image.fromarray(halves(96, 96)).save(root / "a.png")
    np.save(root / "paris" / "a.npy", np.arange(96 * 96).reshape(96, 96) // 96)
    return root


def record(name, **more):
    return {"image": torch.zeros(3, 96, 96, dtype=torch.uint8), "file_name": name, **more}


def test_files_are_found_by_the_longest_path(folder):
    files = RegionFiles(folder)
    assert files.path_of({"file_name": "photos/a.jpg"}) == folder / "a.png"
    assert files.path_of({"file_name": "/x/paris/a.jpg"}) == folder / "paris" / "a.npy"
    regions, rows = files.of_records([record("a.jpg"), record("paris/a.jpg")])
    assert regions.unique().tolist() == [0, 1] and (regions[:, 48:] == 1).all()
    assert (rows[0] == -1).all()  # its value is 0
    assert torch.equal(rows[1:, 5], torch.arange(95))
    with pytest.raises(FileNotFoundError, match=r"regions of 'b.jpg': no file, expected b.png or"):
        files.path_of({"file_name": "b.jpg"})
    files.check_records([record("a.jpg")])
    with pytest.raises(FileNotFoundError, match=r"'b.jpg'.*; and of 1 more images$"):
        files.check_records([record(f"{name}.jpg") for name in "abc"])
    with pytest.raises(ValueError, match="an image without a file name"):
        files.of_records([{"image": torch.zeros(3, 96, 96)}])
    np.save(folder / "a.npy", halves(96, 96))
    with pytest.raises(ValueError, match=r"got .*a\.(npy|png)' and .*expected one of them"):
        RegionFiles(folder).path_of({"file_name": "a.jpg"})


def test_files_are_of_the_size_of_the_image_file(folder):
    files = RegionFiles(folder)
    small = {"image": torch.zeros(3, 48, 48), "file_name": "a.jpg"}
    (regions,) = files.of_records([{**small, "height": 96, "width": 96}])
    assert regions.shape == (96, 96)
    with pytest.raises(ValueError, match=r"a.png': got 96 x 96 pixels, expected 48 x 48, as 'a.jp"):
        files.of_records([small])
    Image.fromarray(halves(48, 96)).save(folder / "city.png")
    files = RegionFiles(folder)
    for half, value in (("left", 0), ("right", 1)):
        (regions,) = files.of_records([{**small, "file_name": "city.jpg", "half": half}])
        assert regions.shape == (48, 48)
        assert regions.unique().tolist() == [value]


def test_kinds_of_files(tmp_path):
    values = np.array([[0, 3, 3], [5, 5, 0]])
    expected = [[-1, 0, 0], [1, 1, -1]]
    colours = np.stack([values * 0, values, values * 2], axis=-1).astype(np.uint8)
    palette = Image.fromarray(values.astype(np.uint8), "P")
    palette.putpalette([9, 9, 9] * 256)
    kinds = {
        "grey": Image.fromarray(values.astype(np.uint8)),
        "deep": Image.fromarray((values * 1000).astype(np.uint16)),
        "palette": palette,
        "panoptic": Image.fromarray(colours),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert read_regions(tmp_path / f"{name}.png").tolist() == expected, name
    np.save(tmp_path / "signed.npy", np.where(values > 0, values, -4))
    assert read_regions(tmp_path / "signed.npy").tolist() == expected
    masks = np.zeros((2, 2, 3), bool)
    masks[0, :, 1:], masks[1, 0, 1] = True, True  # the smaller one wins
    np.save(tmp_path / "masks.npy", masks)
    assert read_regions(tmp_path / "masks.npy").tolist() == [[-1, 1, 0], [-1, 0, 0]]
    np.save(tmp_path / "scores.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"scores.npy': got float64 \(2, 3\), expected integers"):
        read_regions(tmp_path / "scores.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "masks.npy").read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"cut.npy' cannot be read"):
        read_regions(tmp_path / "cut.npy")
    Image.fromarray(np.zeros((2, 3, 4), np.uint8)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="got PNG of mode RGBA, expected a PNG without"):
        read_regions(tmp_path / "clear.png")


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="TEST.REGIONS.FOLDER: got '', expected a folder"):
        build_stages(config("TEST.REGIONS.NAME", "files"), Foreign())
    with pytest.raises(FileNotFoundError, match="TEST.REGIONS.FOLDER: no folder '.*nowhere'"):
        RegionFiles(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected .png or .npy files in it"):
        RegionFiles(tmp_path)


def test_files_through_the_predictor_and_the_interface_of_detectron2(folder, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    keys = ("TEST.REGIONS.NAME", "files", "TEST.REGIONS.FOLDER", folder)
    predictor = Predictor.from_config(config(*keys))
    answer = predictor.segment(predictor.encode(tmp_path / "a.png"), WORDS)
    assert len(np.unique(answer.labels[:, :48])) == len(np.unique(answer.labels[:, 48:])) == 1
    named = predictor.segment(predictor.encode(PIXELS, "a.jpg"), WORDS)
    assert np.array_equal(named.labels, answer.labels)
    (called,) = predictor([tmp_path / "a.png"], WORDS)
    assert np.array_equal(called.labels, answer.labels)
    with pytest.raises(ValueError, match="an image without a file name"):
        predictor.encode(PIXELS)
    image = torch.from_numpy(np.ascontiguousarray(PIXELS.transpose(2, 0, 1)))
    asked = {"image": image, "file_name": "a.jpg", "question": Question.of(WORDS)}
    (output,) = predictor.model([asked])
    assert np.array_equal(output["sem_seg_labels"].numpy(), answer.labels)
    with pytest.raises(FileNotFoundError, match="'c.jpg': no file"):
        predictor.model.check_records([{"file_name": "c.jpg"}])


def test_files_of_labels_are_the_connected_parts_of_each_class(tmp_path):
    labels = np.array([[0, 0, 2, 255], [1, 1, 2, 2], [0, 255, 1, 1]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "label.png")
    known = {"sem_seg_file_name": str(tmp_path / "label.png"), "label_map": indices(3)}
    records = [
        {**known, "file_name": "x/paris/a.jpg", "image_id": "paris/a"},
        {**known, "file_name": "x/rome/a.jpg", "image_id": "rome/a"},
    ]
    assert save_label_regions(records, tmp_path / "regions") == 2
    files = RegionFiles(tmp_path / "regions")
    (regions,) = files.of_records([{**records[1], "image": torch.zeros(3, 3, 4)}])
    assert regions.tolist() == [[0, 0, 3, -1], [2, 2, 3, 3], [1, -1, 2, 2]]
    with pytest.raises(ValueError, match="would have the one file"):
        other = {**records[0], "file_name": "b/x/paris/a.jpg"}
        save_label_regions([records[0], other], tmp_path / "two")


def test_datasets_whose_images_have_the_same_names_share_a_folder(tmp_path):
    """What a second one writes takes nothing from the first, and each finds its own."""
    records = []
    for k, name in enumerate(("seen", "unseen")):
        labels = np.zeros((2, 3), np.uint8)
        labels[:, k:] = 1
        Image.fromarray(labels).save(tmp_path / f"{name}.png")
        image = tmp_path / name / "images/0.png"
        known = {"sem_seg_file_name": str(tmp_path / f"{name}.png"), "label_map": indices(3)}
        records.append({**known, "file_name": str(image), "image_id": "0"})
        save_label_regions(records[-1:], tmp_path / "regions")
    files = RegionFiles(tmp_path / "regions")
    found = files.of_records([{**record, "image": torch.zeros(3, 2, 3)} for record in records])
    assert [regions.tolist() for regions in found] == [[[0] * 3] * 2, [[0, 1, 1]] * 2]


def test_label_regions_of_an_image_without_folders(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "l.png")
    known = {"sem_seg_file_name": str(tmp_path / "l.png"), "label_map": indices(1)}
    save_label_regions([{**known, "file_name": "/a.jpg"}], tmp_path / "regions")
    assert [path.name for path in (tmp_path / "regions").iterdir()] == ["a.png"]


def test_many_parts_fit_into_a_file(tmp_path):
    parts = np.arange(70_000, dtype=np.int32).reshape(280, 250)
    _picture_of(parts).save(tmp_path / "many.png")
    assert np.array_equal(read_regions(tmp_path / "many.png"), parts - 1)


def test_attention_needs_features():
    with pytest.raises(ValueError, match="Foreign gives no embeddings of an image's cells"):
        Staged(Foreign().eval(), [Regions(lambda images: [], "attention", temperature=0.1)])


def test_the_page_shows_how_to_write_the_regions_of_labels(tmp_path, monkeypatch):
    Image.fromarray(render_scene("val_seen", 0)[1].astype(np.uint8)).save(tmp_path / "label.png")
    known = {"sem_seg_file_name": str(tmp_path / "label.png"), "label_map": indices(100)}
    records = {"tinyscenes_val_seen": [{**known, "file_name": "a.png", "image_id": "a"}]}
    monkeypatch.setattr(DatasetCatalog, "get", records.get)
    written = next(block for block in blocks("docs/stages.md", "python") if "save_label" in block)
    root = tmp_path / "regions"
    exec(compile(written.replace('"regions"', repr(str(root))), "docs/stages.md", "exec"), {})
    assert read_regions(root / "a.png").shape == (96, 96)


def test_the_page_shows_how_to_register_a_proposer():
    shown = next(block for block in blocks("docs/stages.md", "python") if "tiles" in block)
    exec(compile(shown, "docs/stages.md", "exec"), {})
    try:
        predictor = Predictor.from_config(config("TEST.REGIONS.NAME", "tiles"))
    finally:
        del REGIONS_REGISTRY._obj_map["tiles"]
    labels = predictor.segment(predictor.encode(PIXELS), WORDS).labels
    tiles = labels.reshape(3, 32, 3, 32).transpose(0, 2, 1, 3).reshape(9, -1)
    assert (tiles == tiles[:, :1]).all() and len(np.unique(tiles)) > 1
