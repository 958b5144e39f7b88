"""Samples as they are stored, EXIF's orientation, 16-bit images, and the limit on pixels."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from hyperclip.config.keys import load_config
from hyperclip.data import SemSegMapper, find_dataset, read_image
from hyperclip.data import label_conversion as prep
from hyperclip.data.checking import check_dataset
from hyperclip.data.dataset_file import register_files
from hyperclip.data.image_files import exif_orientation
from hyperclip.data.label_maps import (
    LABEL_MAPS,
    LabelMap,
    read_label,
    read_raw_label,
    read_record_label,
)
from hyperclip.data.mapper import read_pair, read_record_image
from hyperclip.evaluation import SemSegEvaluator
from PIL import Image

from tests.conftest import SHARED
from tests.helpers.defaults import make_mapper
from tests.helpers.fake_trees import cityscapes
from tests.helpers.raw_images import write_png, write_tiff

CASES = SHARED / "cases"
TURNS = {
    1: np.array,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""What a viewer does with each orientation tag, as arrays."""


def random_values(bits, height=5, width=7):
    return np.random.default_rng(bits).integers(0, 1 << bits, (height, width))


# What is stored counts


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_labels_of_every_depth(tmp_path, bits, palette):
    if palette and bits == 16:
        return
    write_png(tmp_path / "a.png", random_values(bits), bits, palette)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.png"), random_values(bits))
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), random_values(bits))


@pytest.mark.parametrize("from_white", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_tiff_labels_of_every_depth(tmp_path, bits, from_white):
    write_tiff(tmp_path / "a.tif", random_values(bits), bits, from_white=from_white)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.tif"), random_values(bits))


@pytest.mark.parametrize("bits", [12, 32])
def test_tiff_labels_of_odd_depths(tmp_path, bits):
    values = random_values(bits, width=8) >> (bits == 32)
    write_tiff(tmp_path / "a.tif", values, bits)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_negative_values_are_no_classes(tmp_path, bits):
    """In 8 bits -1 and 255, which does not count, are stored alike."""
    write_tiff(tmp_path / "a.tif", np.array([[0, 1, -1, -20]]), bits, signed=True)
    assert read_raw_label(tmp_path / "a.tif").tolist() == [[0, 1, -1, -20]]
    with pytest.raises(
        ValueError, match=r"got values \[-20, -1\] that label map 'indices_20' does not know"
    ):
        read_label(tmp_path / "a.tif", LABEL_MAPS["indices_20"])


def test_values_beyond_a_label_map(tmp_path):
    write_tiff(tmp_path / "a.tif", np.array([[0, 1, 2**31 - 1, 300]]), 32)
    with pytest.raises(ValueError, match=r"got values \[300, 2147483647\]"):
        read_label(tmp_path / "a.tif", LABEL_MAPS["indices_20"])
    for value in (-1, 65536, 3_000_000_000):
        with pytest.raises(
            ValueError, match="got the label values .*, expected whole numbers from 0 to 65535"
        ):
            LabelMap({0: 0, value: 1})
    raw = np.array([-1, -256, 0, 255, 256, 2**40], np.int64)
    assert LABEL_MAPS["coco_stuff"].look_up(raw).tolist() == [-1, -1, 0, 255, -1, -1]
    with pytest.raises(ValueError, match=r"got values \[-2, -1\]"):
        prep.coco_stuff_labels(np.array([[0, -1, -2]], np.int16))
    for ids in ([[-1]], [[6656]]):
        with pytest.raises(ValueError, match="object ids: got"):
            prep.ade847_labels(np.array(ids, np.int32))


@pytest.mark.parametrize("grey", [False, True])
def test_bitmaps(tmp_path, grey):
    values = random_values(8).astype(np.uint8)
    image = Image.frombytes("P", (7, 5), values.tobytes())
    image.putpalette([k if grey else 255 - k * 7 % 256 for k in range(256) for _ in range(3)])
    image.save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.bmp"), values)
    Image.fromarray(values > 99).save(tmp_path / "b.bmp")
    np.testing.assert_array_equal(read_raw_label(tmp_path / "b.bmp"), values > 99)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "GIF"])
def test_files_that_change_values_are_no_labels_whatever_their_name(tmp_path, kind):
    options = {"compression": "jpeg"} if kind == "TIFF" else {}
    Image.fromarray(random_values(8).astype(np.uint8)).save(
        tmp_path / "a.png", format=kind, **options
    )
    with pytest.raises(ValueError, match=f"got a {kind}.* need not keep values"):
        read_raw_label(tmp_path / "a.png")


# EXIF


def tagged(path, pixels, tag):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(
        path, **({"tiffinfo": {0x0112: tag}} if path.suffix == ".tif" else {"exif": exif})
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_stored_and_applied(tmp_path, tag, suffix):
    pixels = (
        np.repeat(
            np.repeat(np.random.default_rng(tag).integers(0, 2, (3, 5, 3)), 16, 0), 16, 1
        ).astype(np.uint8)
        * 255
    )
    path = tmp_path / f"a{suffix}"
    tagged(path, pixels, tag)
    assert exif_orientation(path) == tag
    for how, expected in (("stored", pixels), ("applied", TURNS[tag](pixels))):
        got = read_image(path, how)
        assert got.shape == expected.shape and np.abs(got.astype(int) - expected).mean() < 20
    label = pixels[..., 0]
    if suffix in (".png", ".tif"):
        tagged(path, label, tag)
        np.testing.assert_array_equal(read_raw_label(path, "stored"), label)
        np.testing.assert_array_equal(read_raw_label(path, "applied"), TURNS[tag](label))


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_an_uncompressed_tiff_is_not_garbled(tmp_path, tag):
    write_tiff(tmp_path / "a.tif", random_values(8), 8, orientation=tag)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.tif", "stored"), random_values(8))
    upright = TURNS[tag](random_values(8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], upright)


@pytest.fixture
def streets(tmp_path):
    """A dataset whose second image is tagged; returns what writes and registers its YAML file."""

    def make(tag, *, label=None, **keys):
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, :2] = 200
        for name, k in (("a", 1), ("b", tag)):
            tagged(tmp_path / f"photos/{name}.png", pixels, k)
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray((pixels[..., 0] // 200) if label is None else label).save(
                tmp_path / f"masks/{name}.png"
            )
        lines = [
            f"name: {tmp_path.name}",
            "splits: {val: {images: photos, labels: masks}}",
            "classes: [road, sky]",
        ]
        path = tmp_path / "streets.yaml"
        path.write_text(
            "\n".join([*lines, *(f"{key}: {value}" for key, value in keys.items())]),
            encoding="utf-8",
        )
        (spec,) = register_files([path])
        return spec

    return make


@pytest.mark.parametrize("tag", range(2, 9))
def test_a_tagged_image_needs_an_orientation(streets, tag):
    """At check time and whenever it is read: in training, in evaluation, and for a figure."""
    spec = streets(tag)
    message = (
        f"photos/b.png': its EXIF orientation is {tag}.*orientation: stored.*orientation: applied"
    )
    report = check_dataset(spec, 0)
    assert report.status == "faulty" and len(report.faults) == 1
    records = DatasetCatalog.get(spec.name)
    for read in (
        make_mapper(True),
        make_mapper(False),
        read_pair,
        read_record_image,
    ):
        read(records[0])
        with pytest.raises(ValueError, match=message):
            read(records[1])
    spec = streets(tag, orientation="stored")
    assert check_dataset(spec, 0).status == "ready"
    image, label = read_pair(DatasetCatalog.get(spec.name)[1])
    assert image.shape == (4, 8, 3) and ((image[..., 0] > 0) == label).all()
    mapped = make_mapper(True)(DatasetCatalog.get(spec.name)[1])
    assert ((mapped["image"][0] > 0) == mapped["sem_seg"]).all()


@pytest.mark.parametrize("tag", [3, 6])
def test_labels_drawn_on_what_viewers_show(streets, tag):
    label = TURNS[tag](np.repeat([[1, 1, 0, 0, 0, 0, 0, 0]], 4, 0).astype(np.uint8)).copy()
    spec = streets(tag, label=label, orientation="applied")
    image, read = read_pair(DatasetCatalog.get(spec.name)[1])
    assert ((image[..., 0] > 0) == read).all() and (read == label).all()


def test_sizes_that_differ_name_exif(streets):
    spec = streets(6, orientation="applied")
    (fault,) = check_dataset(spec, 0).faults
    expected = (
        "has 4 x 8 pixels, its label .* 8 x 4; .*EXIF orientation of the image is 6.*orientation: "
        "applied. Is it stored?"
    )
    record = DatasetCatalog.get(spec.name)[1]
    for read in (read_pair, make_mapper(True)):
        with pytest.raises(ValueError, match=expected):
            read(record)
    assert "EXIF" in fault
    evaluator = SemSegEvaluator(spec.name)
    with pytest.raises(
        ValueError, match=r"label map of \(4, 8\).*EXIF orientation of the image is 6"
    ):
        evaluator.process([record], [{"sem_seg_labels": torch.zeros(8, 4, dtype=torch.int64)}])


def test_halves_and_foreign_records(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cityscapes(tmp_path)
    records = DatasetCatalog.get(find_dataset("city_halves").name)
    pixels = np.asarray(Image.open(records[0]["file_name"]))
    path = tmp_path / "cityscapes/leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"
    tagged(path, pixels, 3)
    for record in records[:2]:
        with pytest.raises(ValueError, match="EXIF orientation is 3"):
            read_record_image(record)
    np.testing.assert_array_equal(
        read_record_image({**records[0], "orientation": "stored"}), pixels[:, 32:]
    )
    np.testing.assert_array_equal(
        read_record_image({**records[0], "orientation": "applied"}), pixels[::-1, ::-1][:, 32:]
    )
    # registered with Detectron2 alone
    with pytest.raises(ValueError, match="EXIF orientation is 3"):
        read_record_image({"file_name": str(path), "sem_seg_file_name": "x.png"})
    np.testing.assert_array_equal(read_record_image({"file_name": str(path)}), pixels[::-1, ::-1])


def test_a_tagged_picture_of_ade20k(tmp_path):
    tagged(tmp_path / "a.jpg", np.zeros((4, 8, 3), np.uint8), 6)
    with pytest.raises(ValueError, match="--orientation stored .*a.jpg.*EXIF orientation is 6"):
        prep.read_pixels(tmp_path / "a.jpg")
    assert prep.read_pixels(tmp_path / "a.jpg", "stored").shape == (4, 8, 3)
    assert prep.read_pixels(tmp_path / "a.jpg", "applied").shape == (8, 4, 3)


def test_orientation_in_xmp_counts_and_damaged_exif_does_not(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", xmp=xmp)
    assert exif_orientation(tmp_path / "a.jpg") == 3
    Image.new("RGB", (8, 4)).save(tmp_path / "b.jpg", exif=b"Exif\0\0rubbish")
    assert exif_orientation(tmp_path / "b.jpg") == 1 and read_image(tmp_path / "b.jpg").shape == (
        4,
        8,
        3,
    )


# 16 bits and many pixels


def dark16(path, bits=12, channels=1):
    values = (
        (np.arange(12 * 20) % (1 << bits) * ((1 << bits) // 240)).reshape(12, 20).astype(np.uint16)
    )
    values[0, 0] = (1 << bits) - 1
    values = np.repeat(values[..., None], channels, 2)
    if channels > 1:
        values[..., 1] //= 2
    cv2.imwrite(str(path), values[..., 0] if channels == 1 else values[..., ::-1])
    return values


@pytest.mark.parametrize(("bits", "channels"), [(10, 1), (12, 1), (12, 3), (14, 3), (8, 1), (8, 3)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_few_bits_in_sixteen(tmp_path, caplog, bits, channels, suffix):
    path = tmp_path / f"a{suffix}"
    values = dark16(path, bits, channels)
    before = read_image(path)
    assert (
        f"INPUT.IMAGE_BITS {bits}" in caplog.text
        and str(path) in caplog.text
        and f"image_bits: {bits} in" in caplog.text
    )
    as_before = values[..., 0] // 256 if channels == 3 else (values[..., 0] / 257 + 0.5).astype(int)
    np.testing.assert_array_equal(before[..., 0], as_before)
    caplog.clear()
    scaled = read_image(path, image_bits=bits)
    assert not caplog.text and scaled.max() == 255
    np.testing.assert_array_equal(
        scaled,
        np.broadcast_to((values * 255.0 / (2**bits - 1) + 0.5).astype(np.uint8), scaled.shape),
    )
    with pytest.raises(
        ValueError, match=f"got values up to {values.max()}, more than {bits - 1} bits hold"
    ):
        read_image(path, image_bits=bits - 1)


def test_twelve_bits_that_the_file_declares(tmp_path, caplog):
    values = random_values(12, width=8)
    write_tiff(tmp_path / "a.tif", values, 12)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif")[..., 0], (values / 4095 * 255 + 0.5).astype(int)
    )
    assert not caplog.text


def test_full_16_bits_and_black_do_not_warn(tmp_path, caplog):
    for k, values in enumerate(([[0, 40000]], [[0, 0]])):
        Image.fromarray(np.array(values, np.uint16)).save(tmp_path / f"{k}.png")
        read_image(tmp_path / f"{k}.png")
        cv2.imwrite(
            str(tmp_path / f"{k}c.png"), np.repeat(np.array(values, np.uint16)[..., None], 3, 2)
        )
        read_image(tmp_path / f"{k}c.png")
    assert not caplog.text


def test_bits_of_a_data_set_and_of_a_config(streets, tmp_path, caplog):
    spec = streets(1)
    for name in ("a", "b"):
        values = dark16(tmp_path / f"photos/{name}.png")
        Image.fromarray(np.zeros((12, 20), np.uint8)).save(tmp_path / f"masks/{name}.png")
    with caplog.at_level(logging.WARNING):
        assert check_dataset(spec, 0).status == "ready"
    assert caplog.text.count("image_bits: 12") == 1  # once for the folder
    cfg = load_config(
        "configs/quickstart/hyperclip.yaml", ["INPUT.IMAGE_BITS", "12", "INPUT.MIN_SIZE_TEST", "0"]
    )
    record = DatasetCatalog.get(spec.name)[0]
    bright = (values[..., 0] * 255.0 / 4095 + 0.5).astype(int)
    np.testing.assert_array_equal(
        SemSegMapper(cfg, is_train=False)(record)["image"][0].numpy(), bright
    )
    spec = streets(1, image_bits=12)
    dark16(tmp_path / "photos/a.png")
    np.testing.assert_array_equal(
        read_record_image(DatasetCatalog.get(spec.name)[0])[..., 0], bright
    )


def test_more_pixels_than_pillow_allows(tmp_path, streets, monkeypatch):
    spec = streets(1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 32 pixels are more than twice that
    record = DatasetCatalog.get(spec.name)[0]
    for read in (read_record_image, read_record_label):
        with pytest.raises(
            ValueError, match="exceeds limit of 20 pixels.* max_pixels .* INPUT.MAX_PIXELS"
        ):
            read(record)
    assert check_dataset(spec, 0).status == "faulty"
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["INPUT.MAX_PIXELS", "32"])
    mapped = SemSegMapper(cfg, is_train=False)(record)
    assert mapped["height"] == 4 and read_record_label(mapped).shape == (4, 8)
    assert check_dataset(streets(1, max_pixels=32), 0).status == "ready"
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="32 pixels are more than 31"):
        read_image(record["file_name"], max_pixels=31)


@pytest.mark.parametrize(("height", "width"), [(1, 6000), (6000, 1), (1, 5121), (2, 20000)])
def test_very_narrow_images(tmp_path, height, width):
    Image.fromarray(np.full((height, width, 3), 77, np.uint8)).save(tmp_path / "a.png")
    cfg = load_config(
        "configs/quickstart/hyperclip.yaml",
        ["INPUT.MIN_SIZE_TEST", "640", "INPUT.MAX_SIZE_TEST", "2560"],
    )
    mapped = SemSegMapper(cfg, is_train=False)({"file_name": str(tmp_path / "a.png")})
    assert sorted(mapped["image"].shape[1:]) == [1, 2560] and (mapped["image"] == 77).all()


# The small inputs that went wrong


@pytest.mark.skipif(not CASES.is_dir(), reason="the small inputs (../shared/cases) are not here")
def test_recorded_cases(caplog):
    (bits,) = register_files([CASES / "labels_of_2_bits/d.yaml"])
    assert set(np.unique(read_record_label(DatasetCatalog.get(bits.name)[0]))) == {0, 3}
    (turned,) = register_files([CASES / "exif_orientation_3/d.yaml"])
    report = check_dataset(turned, 0)
    assert (
        report.status == "faulty"
        and len(report.faults) == 3
        and all("EXIF orientation is 3" in f for f in report.faults)
    )
    read_image(CASES / "gray12_in_16.png")
    assert "INPUT.IMAGE_BITS 12" in caplog.text
    assert read_image(CASES / "gray12_in_16.png", image_bits=12).max() > 240
