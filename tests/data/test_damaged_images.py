"""Decoders raise errors of many kinds for damaged files; whoever reads one gets our message."""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hyperclip.commands.demo_results import pixel_size
from hyperclip.data.annotations import labelme
from hyperclip.data.batches import is_wide
from hyperclip.data.image_files import decode, exif_orientation, image_size, read_raw_label
from hyperclip.data.label_conversion import is_readable
from hyperclip.data.new_dataset.kinds import kind_of_masks
from PIL import Image

from tests.helpers.programs import run_program

FORMATS = ("AVIF", "BMP", "DDS", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")


@functools.cache
def demo():
    spec = importlib.util.spec_from_file_location("onnx_demo", Path("demo/onnx_demo.py").resolve())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pasted_mask(path):
    shape = {"mask": base64.b64encode(path.read_bytes()).decode(), "label": "cat"}
    shape["points"] = [[0, 0], [30, 20]]
    labelme._paste(np.zeros((30, 40), np.uint8), shape, 1)


READERS = {
    "decode": lambda path: decode(path, "image"),
    "size": image_size,
    "label": read_raw_label,
    "masks": lambda path: kind_of_masks([path]),
    "mask of LabelMe": pasted_mask,
    "without torch": lambda path: demo().read_image(path),
}
LENIENT = {
    "orientation": lambda path: exif_orientation(path) == 1,
    "wide": lambda path: not is_wide({"file_name": str(path)}),
    "readable": lambda path: not is_readable(path),
    "pixels": lambda path: pixel_size(Source(path)) == (0, 0),
}


class Source:
    """What :func:`pixel_size` asks of an image."""

    is_video = False

    def __init__(self, path):
        self.path = path


@pytest.fixture(params=[RuntimeError, NotImplementedError, AttributeError, SyntaxError, EOFError])
def broken(request, monkeypatch, tmp_path):
    """A file at which the decoder fails in this way."""

    def fail(*_, **__):
        raise request.param("of the decoder")

    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    monkeypatch.setattr(Image, "open", fail)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_any_error_of_a_decoder_becomes_a_message(broken, reader):
    with pytest.raises(ValueError, match="of the decoder"):
        READERS[reader](broken)


@pytest.mark.parametrize("reader", LENIENT)
def test_who_only_looks_leaves_the_message_to_others(broken, reader):
    assert LENIENT[reader](broken)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files(kind, tmp_path):
    """In a process of its own: a decoder may do to it what it likes."""
    done = run_program("-m", __name__, kind, tmp_path / "a.img")
    assert done.returncode == 0, done.stderr[-2000:]


def read_damaged(kind, path):
    """Files of a format with bytes that have changed, most of them early ones, or that were cut."""
    draw, buffer = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (23, 31, 3), np.uint8)).save(buffer, kind)
    for number in range(25):
        content = bytearray(buffer.getvalue())
        for _ in range(1 + number % 4):
            content[int(len(content) ** draw.uniform(0, 1)) - 1] = draw.integers(256)
        path.write_bytes(content[: len(content) >> (number % 5 == 0)])
        for read in READERS.values():
            try:
                read(path)
            except ValueError as error:
                assert len(str(error).splitlines()) == 1
        for look in LENIENT.values():
            look(path)


if __name__ == "__main__":
    read_damaged(sys.argv[1], Path(sys.argv[2]))
