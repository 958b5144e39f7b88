"""Image files as they are stored: samples of any depth, EXIF orientation, and Pillow's limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from .image_plugins import need_plugin

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif",
    ".jp2", ".j2k", ".avif", ".mpo", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".qoi",
)  # fmt: skip
"""Names of images end like this, in small or capital letters."""

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Names of labels end like this: formats that keep every value. GIF may renumber its colours."""

LABEL_FORMATS = ("PNG", "TIFF", "BMP")

ORIENTATIONS = ("stored", "applied")
"""Pixels that labels belong to where EXIF turns an image: those in the file, or as viewers show."""

_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image upright, by orientation tag. All undo themselves, but 6 undoes 8."""

_LIMIT = threading.Lock()
"""Pillow's limit is a global of its module: one thread at a time raises it."""


@dataclass(frozen=True)
class ImageFile:
    """A decoded file.

    Attributes:
        path: where it came from. image: Pillow's, as stored, not turned.
        orientation: its EXIF tag, 1 (upright) to 8.
        raw_mode: Pillow's name of the stored samples, "L;4" for grey of four bits.
        format: "PNG", "JPEG", … signed: whether samples are. compression: of a TIFF, else "".
    """

    path: str
    image: Image.Image
    orientation: int
    raw_mode: str
    format: str
    signed: bool
    compression: str

    def oriented(self, how: str) -> Image.Image:
        """The image as stored ("stored") or as viewers show it ("applied").

        Raises ValueError for another word, and for "" if EXIF turns the image.
        """
        if how and how not in ORIENTATIONS:
            raise ValueError(f"orientation: got {how!r}, expected one of {list(ORIENTATIONS)}")
        if self.orientation == 1 or how == "stored":
            return self.image
        if how == "applied":
            return self.image.transpose(_TURNS[self.orientation])
        raise ValueError(turned_fault(self.path, self.orientation))


def decode(path: str | Path, what: str, max_pixels: int = 0) -> ImageFile:
    """Read an image file in full; messages call it ``what``.

    Raises FileNotFoundError, ValueError for a file that is empty, cut short, no image, or of more
    than ``max_pixels``: 0 for Pillow's limit of about 179 million, and what :func:`need_plugin`
    does.
    """
    need_plugin(path, what)
    try:
        # Not opened by its name: Pillow would map an uncompressed TIFF into memory, and garble it
        # where it has to be turned.
        with _pixel_limit(max_pixels), open(path, "rb") as stream, Image.open(stream) as image:
            count = image.width * image.height
            if 0 < max_pixels < count:
                raise Image.DecompressionBombError(f"{count} pixels are more than {max_pixels}")
            raw_mode = _raw_mode(image)  # Pillow forgets it in load()
            signed = 2 in _listed(getattr(image, "tag_v2", {}).get(339))
            orientation = orientation_of(image)
            image.load()
            pixels: Image.Image = image
            # Pillow turns TIFF files while it reads them
            if orientation != 1 and orientation_of(image) == 1:
                pixels = image.transpose(_TURNS[{6: 8, 8: 6}.get(orientation, orientation)])
            kind, compression = image.format or "", str(image.info.get("compression", ""))
            return ImageFile(str(path), pixels, orientation, raw_mode, kind, signed, compression)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {str(path)!r} does not exist") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{what} {str(path)!r} cannot be read ({error}). If it is to be trusted, allow more by "
            "max_pixels in the dataset's YAML file, or by the config key INPUT.MAX_PIXELS"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image, or of an unknown format" if unknown else str(error)
        problem = f"cannot be read ({reason}); is it empty or cut short?"
        raise ValueError(f"{what} {str(path)!r} {problem}") from error


def turned_fault(path: str, orientation: int) -> str:
    """Message of a file that EXIF turns, in a dataset that does not say what its labels follow."""
    return (
        f"{path!r}: its EXIF orientation is {orientation}, so viewers turn or mirror it, and "
        "nothing says which pixels labels belong to. Write `orientation: stored` (they were drawn "
        "on the pixels in the file) or `orientation: applied` (on what viewers show) into the "
        "dataset's YAML file, see datasets/README.md"
    )


def exif_orientation(path: str | Path) -> int:
    """:func:`orientation_of` a file; 1 where it cannot be read."""
    # of any kind, as in decode; whoever reads the pixels reports it
    with suppress(Exception), Image.open(path) as image:
        return orientation_of(image)
    return 1


def read_raw_label(path: str | Path, orientation: str = "", max_pixels: int = 0) -> np.ndarray:
    """The stored values (H, W) of a label file: grey of 1 to 32 bits, or indices of a palette.

    Raises what :func:`decode` does, and ValueError for a colour image, fractions, a lossy format,
    or a file that EXIF turns where ``orientation`` is neither "stored" nor "applied".
    """
    file = _decode_lossless(path, max_pixels)
    values = np.asarray(file.oriented(orientation))
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ValueError(
            f"label file {file.path!r}: got an image of mode {file.image.mode} and shape "
            f"{values.shape}, expected one channel of class indices (grey of 1 to 32 bits, or a "
            "palette). If its colours are the classes, write labels: {format: colours, folder: …}, "
            "see datasets/README.md"
        )
    return _undo_scaling(values, file)


def read_colours(
    path: str | Path, orientation: str = "", max_pixels: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The colours, uint8 RGB (H, W, 3), of a label file, and which pixels are wholly transparent,
    bool (H, W).

    Raises what :func:`decode` does, and ValueError for a lossy format, more than 8 bits a channel,
    pixels that are half transparent, or a file that EXIF turns where ``orientation`` is "".
    """
    file = _decode_lossless(path, max_pixels)
    image = file.oriented(orientation)
    if "16" in file.raw_mode or image.mode in ("I", "F") or image.mode.startswith("I;"):
        expected = "expected 8 bits a channel of colours. Save it with 8 bits"
        raise ValueError(f"label file {file.path!r}: got {file.raw_mode or image.mode}, {expected}")
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3]
    if ((alpha > 0) & (alpha < 255)).any():
        raise ValueError(
            f"label file {file.path!r}: got pixels that are half transparent, expected alpha 0 "
            "(no label) or 255. Save it without smoothing"
        )
    return np.ascontiguousarray(pixels[..., :3]), alpha == 0


def image_size(path: str | Path, orientation: str = "") -> tuple[int, int]:
    """Height and width of an image file, of which only the first bytes are read.

    "applied" turns them as viewers do. Raises what :func:`decode` does for a file that is no image.
    """
    try:
        with Image.open(path) as image:
            height, width = image.height, image.width
            turned = orientation == "applied" and orientation_of(image) >= 5
    except FileNotFoundError:
        raise FileNotFoundError(f"image {str(path)!r} does not exist") from None
    except Exception as error:  # of any kind, as in decode
        raise ValueError(f"image {str(path)!r} cannot be read ({error})") from error
    return (width, height) if turned else (height, width)


def _decode_lossless(path: str | Path, max_pixels: int) -> ImageFile:
    """A label file, decoded; ValueError for a format that changes values."""
    file = decode(path, "label file", max_pixels)
    if file.format not in LABEL_FORMATS or "jpeg" in file.compression or "webp" in file.compression:
        kind = " ".join(filter(None, (file.format, file.compression)))
        raise ValueError(
            f"label file {file.path!r}: got a {kind} file, which need not keep values as they "
            f"were; expected one of {list(LABEL_FORMATS)}, without lossy compression"
        )
    return file


def _undo_scaling(values: np.ndarray, file: ImageFile) -> np.ndarray:
    """Undo what Pillow does to grey samples of 1 to 8 bits: spreading and inverting them."""
    mode, _, stored = file.raw_mode.partition(";")
    if mode not in ("1", "L"):
        return values
    largest = 1 if mode == "1" else {"2": 3, "4": 15}.get(stored[:1], 255)
    values = values.astype(np.uint8) if mode == "1" else values // (255 // largest)
    if "I" in stored:  # a TIFF that counts from white
        return largest - values
    return values.view(np.int8) if file.signed else values


def _raw_mode(image: Any) -> str:
    tiles = getattr(image, "tile", None)
    first = _listed(tiles[0][3] if tiles else "")[:1]
    return first[0] if first and isinstance(first[0], str) else ""


def orientation_of(image: Image.Image) -> int:
    """Its EXIF tag, 1 (upright) to 8; 1 where that cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata, by which no viewer turns anything either
        return 1
    return found if found in _TURNS else 1


def _listed(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@contextmanager
def _pixel_limit(pixels: int) -> Iterator[None]:
    """Have Pillow open files of so many pixels, if that is more than it would."""
    if Image.MAX_IMAGE_PIXELS is None or pixels <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
