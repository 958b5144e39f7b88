"""Uploaded images: what they are is seen in their first bytes, before any is decoded."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..data import read_image
from .limits import Limits, Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "PPM", "QOI")
"""Formats of pixels, each known by its first bytes; no language such as PostScript, which Pillow
would hand to an interpreter.
"""


def check_upload(content: bytes, limits: Limits) -> None:
    """Refuse what is no image, or one of too many pixels, without decoding any."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # some builds lack AVIF
    try:
        with Image.open(io.BytesIO(content), formats=known) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refusal("too_large", f"image: {error}. Scale it down") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        expected = f"expected one of {', '.join(FORMATS)}"
        why = "no image, or of an unknown format"
        raise Refusal("bad_request", f"image: cannot be read ({why}); {expected}") from error
    limits.check_pixels(width, height)


def decode_upload(content: bytes, limits: Limits, image_bits: int = 0) -> np.ndarray:
    """The pixels of an upload as :func:`read_image` reads those of a file, uint8 RGB (H, W, 3);
    refuses a damaged file. The file of it is the program's own, and gone afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        path = Path(folder, "image")
        path.write_bytes(content)
        try:
            return read_image(path, image_bits=image_bits, max_pixels=limits.pixels)
        except ValueError as error:
            message = str(error).replace(f"image {str(path)!r}:", "image:")
            message = message.replace(f"image {str(path)!r}", "image:").replace(str(path), "image")
            raise Refusal("bad_request", message) from error
