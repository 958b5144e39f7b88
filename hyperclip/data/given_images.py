"""Images and masks as people give them to :class:`hyperclip.Predictor`, as arrays.

Shapes: H W image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..runtime.files import user_path
from .image_files import read_raw_label
from .mapper import read_image

AnyMask = str | Path | Image.Image | np.ndarray | Tensor
"""What :func:`mask_of` takes."""

AnyImage = str | Path | Image.Image | np.ndarray | Tensor
"""What :func:`pixels_of` takes."""


def pixels_of(image: AnyImage) -> np.ndarray:
    """An image as uint8 RGB (H, W, 3): a file, turned upright by its EXIF tag, one of Pillow's with
    8 bits a channel, likewise, an array like that, or a tensor, uint8 (3, H, W).

    Raises:
        ValueError: another shape, type or mode, a damaged file. FileNotFoundError: no such file.
    """
    if isinstance(image, str | Path):
        return read_image(user_path(str(image)))
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            got = f"got Pillow's mode {image.mode!r}"
            raise ValueError(f"image: {got}, expected 8 bits a channel; scale it, or give the file")
        upright = ImageOps.exif_transpose(image)
        return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
    if isinstance(image, Tensor):
        if image.dim() != 3 or len(image) != 3 or image.dtype != torch.uint8:
            got = f"got a tensor {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
            raise ValueError(f"image: {got}, expected uint8 (3, H, W), RGB")
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"got {image.dtype} {image.shape}"
        raise ValueError(f"image: {got}, expected uint8 (H, W, 3), RGB")
    return image


def file_name_of(image: AnyImage, file_name: str = "") -> dict[str, str]:
    """What a record says of an image's file: "file_name", its own or the given one, if any."""
    own = str(image) if isinstance(image, str | Path) else ""
    name = file_name or own
    return {"file_name": str(user_path(name))} if name else {}


def mask_of(mask: AnyMask) -> np.ndarray:
    """A mask as bool (H, W): what is not 0 in a file of one channel, an image or an array; raises
    as :func:`hyperclip.data.image_files.read_raw_label`, and ValueError for another shape.
    """
    if isinstance(mask, str | Path):
        return read_raw_label(user_path(str(mask)), "applied") != 0
    values = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        got = f"got {values.dtype} {values.shape}"
        raise ValueError(f"mask: {got}, expected bool or whole numbers (H, W), 0 for the rest")
    return values != 0
