"""Formats that Pillow reads through a plug-in, and the raw files of cameras, which it does not."""

import importlib
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Plugin(NamedTuple):
    """What reads a format: the module that adds it to Pillow, and its package on PyPI."""

    format: str
    module: str
    package: str


_HEIF = Plugin("HEIC", "pillow_heif", "pillow-heif")

PLUGINS = {
    ".heic": _HEIF,
    ".heif": _HEIF,
    ".hif": _HEIF,
    ".avif": Plugin("AVIF", "pillow_avif", "pillow-avif-plugin"),
    ".jxl": Plugin("JPEG XL", "pillow_jxl", "pillow-jxl-plugin"),
}
"""By suffix, for builds of Pillow that do not read the format themselves."""

RAW_SUFFIXES = (
    ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw",
)  # fmt: skip
"""Raw files of cameras. Pillow takes some for TIFF files, and reads their small preview."""


def need_plugin(path: str | Path, what: str) -> None:
    """Have Pillow read the format that a file's suffix names, ``what`` in messages.

    Raises ValueError if that takes a package that is not installed, or for a camera's raw file.
    """
    suffix = Path(path).suffix.lower()
    if suffix in RAW_SUFFIXES:
        advice = "Develop it to a TIFF or JPEG file first, with darktable-cli or rawpy, say"
        raise ValueError(f"{what} {str(path)!r} is the raw file of a camera. {advice}")
    plugin = PLUGINS.get(suffix)
    if plugin is None or suffix in Image.registered_extensions():
        return
    try:
        module = importlib.import_module(plugin.module)
    except ImportError:
        needed = f"{plugin.format} needs pip install {plugin.package}"
        raise ValueError(f"{what} {str(path)!r} cannot be read: {needed}") from None
    if plugin is _HEIF:  # the others add themselves when they are imported
        module.register_heif_opener()
