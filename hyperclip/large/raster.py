"""Images that are read by windows: GeoTIFF and other TIFF files, of any size, and those formats
that can only be decoded as a whole.

Shapes: H W image, or a part of it.
"""

from __future__ import annotations

import abc
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_files import IMAGE_SUFFIXES, exif_orientation
from ..data.mapper import read_image
from ..runtime.extras import how_to_install
from .lattice import Box, Lattice, anchor_of, mirrored
from .values import choose_bands, choose_range, eight_bits

INSTALL = how_to_install("maps")
"""What brings rasterio."""
CACHE = 128 * 2**20
"""Bytes of a file's blocks that are kept in memory."""
LARGEST_BLOCK = 2**27
"""Bytes of the largest block, which is read as a whole."""


class Raster(abc.ABC):
    """An image of H x W pixels, of which parts are read.

    Attributes:
        crs, transform: where a map is in the world, as rasterio has them; None of other images.
        row, column: a pixel at which the lattice of windows begins a cell.
        settings: plain values that decide the pixels. remark: how it is read.
    """

    path: Path
    height: int
    width: int
    crs: Any = None
    transform: Any = None
    row = 0
    column = 0
    settings: dict[str, Any]
    remark: str

    @abc.abstractmethod
    def read_box(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a part, uint8 RGB (H, W, 3), and which of them are there, bool (H, W)."""

    @property
    def whole(self) -> Box:
        """All pixels."""
        return Box(0, self.height, 0, self.width)

    def lattice(self, window: int) -> Lattice:
        """The lattice of windows of this side."""
        s = window // 2 or 1
        return Lattice(window, self.row % s, self.column % s)

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`read_box`, of a part that may lie outside, where the image is mirrored."""
        if box.common(self.whole) == box:
            return self.read_box(box)
        rows = mirrored(box.top, box.bottom, self.height)
        columns = mirrored(box.left, box.right, self.width)
        inner = Box(*(int(x) for k in (rows, columns) for x in (k.min(), k.max() + 1)))
        pixels, valid = self.read_box(inner)
        places = np.ix_(rows - inner.top, columns - inner.left)
        return pixels[places], valid[places]


class PictureRaster(Raster):
    """An image of a format that Pillow decodes as a whole."""

    def __init__(self, path: Path, image_bits: int = 0, max_pixels: int = 0) -> None:
        self.path, self.settings = path, {"bits": image_bits}
        self.pixels = read_image(path, image_bits=image_bits, max_pixels=max_pixels)
        self.height, self.width = self.pixels.shape[:2]
        size = f"{self.pixels.nbytes / 1e6:.0f} MB"
        self.remark = f"{path}: decoded as a whole, {size}; only TIFF files are read by windows"

    def read_box(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Raster`."""
        pixels = self.pixels[box.within(self.whole)]
        return pixels, np.ones(pixels.shape[:2], bool)


class TiffRaster(Raster):
    """A TIFF file, or what else GDAL reads by windows.

    Args:
        dataset: rasterio's. bands: of red, green and blue, or of grey; () for the file's own.
        value_range: values that become black and white; None for 8 bits as they are.
    Raises:
        ValueError: bands, values or blocks that cannot be read so.
    """

    def __init__(
        self, dataset: Any, bands: Sequence[int], value_range: Sequence[float] | None
    ) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        self.path, self.dataset = Path(dataset.name), dataset
        self.height, self.width = dataset.height, dataset.width
        _check_blocks(dataset)
        self.bands = choose_bands(dataset, bands)
        self.limits = choose_range(dataset, self.bands, value_range)
        self.colors: np.ndarray | None = None
        if dataset.colorinterp[self.bands[0] - 1] == ColorInterp.palette:
            known = dataset.colormap(self.bands[0])
            self.colors = np.array([known.get(i, (0, 0, 0))[:3] for i in range(256)], np.uint8)
        flags = [dataset.mask_flag_enums[band - 1] for band in self.bands]
        self.masked = any(MaskFlags.all_valid not in own for own in flags)
        if dataset.crs is not None:
            self.crs, self.transform = dataset.crs, dataset.transform
            self.row, self.column = anchor_of(tuple(dataset.transform)[:6])
        elif (turned := exif_orientation(self.path)) != 1:
            raise ValueError(
                f"{str(self.path)!r}: its orientation tag is {turned}, so viewers turn or mirror "
                "it, and it cannot be read by windows. Save it upright"
            )
        self.settings = {"bands": list(self.bands), "value range": self.limits}
        self.remark = f"{self.path}: bands {list(self.bands)} of {dataset.count}"

    def read_box(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Raster`: a pixel is there if any of its bands is, and all are finite."""
        from rasterio.windows import Window

        (height, width), bands = box.size, list(self.bands)
        window = Window(box.left, box.top, width, height)
        values = self.dataset.read(bands, window=window)
        valid = np.ones((height, width), bool)
        if self.masked:
            valid = self.dataset.read_masks(bands, window=window).any(axis=0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if self.colors is not None:
            return self.colors[values[0]], valid
        pixels = eight_bits(values, self.limits)
        return np.broadcast_to(pixels, (3, height, width)).transpose(1, 2, 0), valid


def _check_blocks(dataset: Any) -> None:
    """ValueError for blocks that are too large to be read."""
    height, width = dataset.block_shapes[0]
    size = height * width * np.dtype(dataset.dtypes[0]).itemsize
    size *= dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
    if size > LARGEST_BLOCK:
        raise ValueError(
            f"{dataset.name!r}: got blocks of {height} x {width} pixels, {size / 1e6:.0f} MB each, "
            f"expected at most {LARGEST_BLOCK / 1e6:.0f} MB. Store it in tiles: rio convert "
            "INPUT OUTPUT --co tiled=true"
        )


def need_rasterio() -> None:
    """ValueError unless rasterio is installed."""
    if importlib.util.find_spec("rasterio") is None:
        raise ValueError(f"large images need rasterio, which is not installed: {INSTALL}")


@contextmanager
def quiet_rasterio() -> Iterator[None]:
    """GDAL with a small cache, and no warnings of images that are no maps."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(
    path: Path,
    bands: Sequence[int] = (),
    value_range: Sequence[float] | None = None,
    image_bits: int = 0,
    max_pixels: int = 0,
) -> Iterator[Raster]:
    """An image file; see :class:`TiffRaster` for ``bands`` and ``value_range`` and
    :func:`read_image` for the others, which count for other formats.

    Raises:
        FileNotFoundError: no such file.
        ValueError: none that can be read, options that do not fit it, no rasterio.
    """
    need_rasterio()
    if not path.is_file():
        raise FileNotFoundError(f"image {str(path)!r} does not exist")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in (".tif", ".tiff"):
        if bands or value_range is not None:
            option = "bands" if bands else "value range"
            raise ValueError(f"{option}: got a {suffix[1:]} file, expected a TIFF file for it")
        yield PictureRaster(path, image_bits, max_pixels)
        return
    import rasterio

    with quiet_rasterio():
        try:
            dataset = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"image {str(path)!r} cannot be read ({reason})") from error
        with dataset:
            yield TiffRaster(dataset, bands, value_range)
