"""Examples of classes as files: FOLDER/NAME/IMAGE.jpg with its mask FOLDER/NAME/IMAGE_mask.png.

A mask has one channel and is not 0 where the class NAME is; it belongs to what viewers show of the
image. A text file FOLDER/examples_only.txt may list, one a line, the names that say nothing, of
which the examples alone decide. Shapes: H W image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from .image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_raw_label
from .mapper import read_image

ALONE = "examples_only.txt"
MASK = "_mask"


@dataclass(frozen=True)
class ExampleFiles:
    """An image and its mask, the name of the class, and whether the name's words count."""

    name: str
    image: Path
    mask: Path
    words: bool = True

    def read(self, image_bits: int = 0, max_pixels: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The image, uint8 RGB (H, W, 3), and the mask, bool (H, W); ValueError or OSError for what
        cannot be read, a mask of another size, or an empty one.
        """
        image = read_image(self.image, image_bits=image_bits, max_pixels=max_pixels)
        mask = read_raw_label(self.mask, "applied", max_pixels) != 0
        require_mask(mask, image.shape[:2], repr(str(self.mask)))
        return image, mask


def require_mask(mask: Tensor | np.ndarray, size: tuple[int, int], what: str) -> None:
    """ValueError unless a mask, bool (H, W), has an image's size and covers something of it."""
    if tuple(mask.shape) != tuple(size):
        got = f"got {' x '.join(map(str, mask.shape))}"
        expected = f"expected the image's height and width {size[0]} x {size[1]}"
        raise ValueError(f"mask of {what}: {got}, {expected}. Draw it on this very image")
    if not mask.any():
        expected = "expected pixels other than 0 where the class is"
        raise ValueError(f"mask of {what}: got an empty one, {expected}")


def read_folder(folder: Path, image_bits: int = 0, max_pixels: int = 0) -> list[ExampleFiles]:
    """All examples of a folder, by name and file, each of which is read once to check it, see
    :meth:`ExampleFiles.read`; hidden names are none.

    Raises:
        FileNotFoundError: no such folder, an image without a mask. ValueError: no example, a mask
            without an image, a name of ``ALONE`` that has none, and what
            :meth:`ExampleFiles.read` raises.
    """
    if not folder.is_dir():
        expected = f"expected a folder of NAME/IMAGE.jpg and NAME/IMAGE{MASK}.png"
        raise FileNotFoundError(f"examples: got {str(folder)!r}, {expected}")
    alone = _names_alone(folder / ALONE)
    found = []
    for own in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not own.name.startswith("."):
            pairs = list(_pairs(own))
            found += [ExampleFiles(own.name, *pair, own.name not in alone) for pair in pairs]
    if not found:
        expected = f"expected images NAME/IMAGE.jpg with masks NAME/IMAGE{MASK}.png in it"
        raise ValueError(f"examples: {str(folder)!r} has none, {expected}")
    if strangers := sorted(alone - {files.name for files in found}):
        got = f"got {strangers[0]!r}, which has no examples"
        raise ValueError(f"{str(folder / ALONE)!r}: {got}. Remove it, or add some")
    for files in found:
        files.read(image_bits, max_pixels)
    return found


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each image of a folder and its mask."""
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    masks = {path.stem: path for path in names if path.stem.endswith(MASK)}
    for path in names:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.stem.endswith(MASK):
            continue
        mask = masks.pop(path.stem + MASK, None)
        if mask is None or mask.suffix.lower() not in LABEL_SUFFIXES:
            expected = f"expected {path.stem}{MASK}.png beside it"
            raise FileNotFoundError(f"examples: {str(path)!r} has no mask, {expected}")
        yield path, mask
    for mask in masks.values():
        raise ValueError(f"examples: the mask {str(mask)!r} has no image beside it; add or drop it")


def _names_alone(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()} - {""}
