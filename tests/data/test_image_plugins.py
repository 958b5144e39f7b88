"""Formats that Pillow reads through plug-ins, and the raw files of cameras."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hyperclip.commands.demo_inputs import PHOTO_SUFFIXES
from hyperclip.data import image_plugins, read_image
from PIL import Image

MISSING = {
    "a.heic": "HEIC needs pip install pillow-heif",
    "a.HEIF": "HEIC needs pip install pillow-heif",
    "a.hif": "HEIC needs pip install pillow-heif",
    "a.avif": "AVIF needs pip install pillow-avif-plugin",
    "a.jxl": "JPEG XL needs pip install pillow-jxl-plugin",
}


@pytest.fixture
def plain_pillow(monkeypatch):
    """Pillow without plug-ins, whatever is installed; yields its table of suffixes."""
    Image.init()
    known = {k: v for k, v in Image.EXTENSION.items() if k not in image_plugins.PLUGINS}
    monkeypatch.setattr(Image, "EXTENSION", known)
    for plugin in image_plugins.PLUGINS.values():
        monkeypatch.setitem(sys.modules, plugin.module, None)
    return known


@pytest.mark.parametrize("name", MISSING)
def test_a_plugin_that_is_not_installed(tmp_path, plain_pillow, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=f"image .*{name}' cannot be read: {MISSING[name]}$"):
        read_image(tmp_path / name)
    assert name.lower().endswith(PHOTO_SUFFIXES)


def test_a_plugin_is_registered_when_a_file_needs_it(tmp_path, plain_pillow, monkeypatch):
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.heic")  # what stands for HEIC reads PNG files
    calls = []

    def register():
        calls.append("heif")
        plain_pillow[".heic"] = "PNG"

    fake = SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    for _ in range(2):
        np.testing.assert_array_equal(read_image(tmp_path / "a.heic"), picture)
    assert calls == ["heif"]
    (tmp_path / "a.heic").rename(tmp_path / "a.jxl")
    monkeypatch.setitem(sys.modules, "pillow_jxl", SimpleNamespace())  # importing it is enough
    np.testing.assert_array_equal(read_image(tmp_path / "a.jxl"), picture)


@pytest.mark.parametrize("name", ["a.dng", "b.CR2", "c.nef"])
def test_raw_files_are_refused(tmp_path, name):
    """Pillow would read the preview in it: many are TIFF files."""
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / name)
    expected = f"{name}' is the raw file of a camera. Develop it to a TIFF or JPEG file first"
    with pytest.raises(ValueError, match=expected):
        read_image(tmp_path / name)
    assert not name.lower().endswith(PHOTO_SUFFIXES)


def test_avif_without_a_plugin(tmp_path):
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this build of Pillow does not read AVIF")
    Image.fromarray(np.full((6, 8, 3), 200, np.uint8)).save(tmp_path / "a.avif", quality=100)
    assert abs(read_image(tmp_path / "a.avif").astype(int) - 200).max() <= 2
