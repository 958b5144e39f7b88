"""Datasets: registration, label reading, the mapper, and what is said when data is missing or
broken.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS, SemSegMapper, read_image, vocabulary_of
from hyperclip.data.label_maps import LABEL_MAPS, read_label
from PIL import Image

from tests.helpers.defaults import make_mapper

COCO = "coco_2017_train_stuff_all_sem_seg"


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A two-image COCO-Stuff tree with raw stuffthingmaps."""
    images, labels = (
        tmp_path / "coco-stuff/images/train2017",
        tmp_path / "coco-stuff/annotations/train2017",
    )
    images.mkdir(parents=True), labels.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(np.full((40, 60, 3), 10 + 20 * i, np.uint8)).save(images / f"{i}.jpg")
        raw = np.zeros((40, 60), np.uint8)
        raw[:, 20:40], raw[:, 40:] = 181, 255
        Image.fromarray(raw).save(labels / f"{i}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_every_dataset_is_registered_with_its_names():
    for name in DATASETS:
        assert name in DatasetCatalog.list()
        names, asked = (
            list(MetadataCatalog.get(name).stuff_classes),
            vocabulary_of(name, "catseg").names,
        )
        assert len(set(names)) == len(names)
        if DATASETS[name].background == "none":
            assert [n.split(", ")[0] for n in names] == asked
        else:
            assert names[-1] == "background" and names[:-1] == asked[: len(names) - 1]
    with pytest.raises(ValueError, match="got 'nothing', expected one of"):
        vocabulary_of("nothing", "catseg")


def test_raw_and_converted_trees_are_read_alike(coco):
    raw = DatasetCatalog.get(COCO)
    assert [r["label_map"].name for r in raw] == ["coco_stuff"] * 2
    converted = coco / "coco-stuff/annotations_detectron2/train2017"
    converted.mkdir(parents=True)
    for record in raw:
        label = read_label(record["sem_seg_file_name"], LABEL_MAPS["coco_stuff"]).astype(np.uint8)
        Image.fromarray(label).save(converted / f"{record['image_id']}.png")
    again = DatasetCatalog.get(COCO)
    assert [r["label_map"].name for r in again] == ["indices_171"] * 2
    for a, b in zip(raw, again, strict=True):
        labels = [read_label(r["sem_seg_file_name"], r["label_map"]) for r in (a, b)]
        np.testing.assert_array_equal(*labels)
    assert set(np.unique(labels[0])) == {0, 170, 255}


def test_training_mapper(coco):
    cfg = load_config("configs/vitb_384_hyperbolic.yaml")
    mapped = SemSegMapper(cfg, is_train=True)(DatasetCatalog.get(COCO)[0])
    assert mapped["image"].shape == (3, 384, 384) and mapped["image"].dtype == torch.uint8
    assert mapped["sem_seg"].shape == (384, 384) and set(mapped["sem_seg"].unique().tolist()) <= {
        0,
        170,
        255,
    }


def test_padding_of_small_images(tmp_path):
    image, label = tmp_path / "a.png", tmp_path / "a_label.png"
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(image)
    Image.fromarray(np.ones((10, 20), np.uint8)).save(label)
    mapped = make_mapper(True, size=32)({"file_name": str(image), "sem_seg_file_name": str(label)})
    assert (mapped["image"][:, 10:] == 128).all() and (mapped["sem_seg"][:, 20:] == 255).all()
    assert (mapped["sem_seg"][:10, :20] == 1).all()


def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="prepare_tinyscenes.py"):
        DatasetCatalog.get("tinyscenes_train")


def test_images_without_labels_are_listed(coco):
    (coco / "coco-stuff/annotations/train2017/1.png").unlink()
    with pytest.raises(ValueError, match=r"1 faults:\n  no label for .*1.jpg"):
        DatasetCatalog.get(COCO)


def test_every_kind_of_image(tmp_path):
    ramp = np.linspace(0, 255, 12 * 16).reshape(12, 16).astype(np.uint8)
    kinds = {
        "grey": Image.fromarray(ramp),
        "sixteen": Image.fromarray(ramp.astype(np.uint16) * 257),
        "alpha": Image.fromarray(np.stack([ramp] * 4, -1)),
        "palette": Image.fromarray(ramp).convert("P"),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        got = read_image(str(tmp_path / f"{name}.png"))
        assert got.shape == (12, 16, 3) and got.dtype == np.uint8
        assert np.abs(got.astype(int) - ramp[..., None]).max() <= 1, name
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "turned.png", exif=exif)
    assert read_image(str(tmp_path / "turned.png")).shape == (16, 12, 3)


def test_broken_files(tmp_path):
    empty, cut, colour = tmp_path / "empty.jpg", tmp_path / "cut.jpg", tmp_path / "colour.png"
    empty.write_bytes(b"")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(
        cut
    )
    cut.write_bytes(cut.read_bytes()[:600])
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(colour)
    for path in (empty, cut):
        with pytest.raises(ValueError, match="cannot be read"):
            read_image(str(path))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="expected 8 or 16 bits"):
        read_image(str(tmp_path / "float.tif"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image(str(tmp_path / "none.jpg"))
    with pytest.raises(ValueError, match="expected one channel"):
        read_label(colour)
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(small)
    with pytest.raises(ValueError, match="expected the same size"):
        make_mapper(True)({"file_name": str(colour), "sem_seg_file_name": str(small)})
