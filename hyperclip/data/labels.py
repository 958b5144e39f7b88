"""Reading label maps: class indices from the files as they are published, remapped while reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

IGNORE = 255

COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Ids of the 182 in the stuffthingmaps that no class uses."""


def coco_stuff_table() -> np.ndarray:
    """Lookup table (256,) from stuffthingmaps values (category id - 1) to the 171 classes or 255."""
    table = np.full(256, IGNORE, np.uint8)
    used = [i for i in range(182) if i not in COCO_STUFF_GAPS]
    table[used] = np.arange(len(used))
    return table


REMAPS = {"coco_stuff": coco_stuff_table}
"""Named lookup tables: what a dataset's raw label values mean."""


def read_label(path: str | Path, remap: str | None = None) -> np.ndarray:
    """Read a label map (H, W) of class indices.

    Args:
        path: an 8-bit or 16-bit greyscale or palette image.
        remap: a table of ``REMAPS``, or None if the file holds class indices already.
    Raises:
        FileNotFoundError: no such file. ValueError: a colour image, an unreadable file or an unknown remap.
    """
    try:
        with Image.open(path) as image:
            label = np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"label file {str(path)!r} does not exist") from None
    except OSError as error:
        raise ValueError(f"label file {str(path)!r} cannot be read: {error}") from error
    if label.ndim != 2:
        raise ValueError(f"label file {str(path)!r}: got shape {label.shape}, expected one channel of class indices")
    if remap is None:
        return label
    if remap not in REMAPS:
        raise ValueError(f"label remap: got {remap!r}, expected one of {sorted(REMAPS)}")
    table = REMAPS[remap]()
    if label.max(initial=0) >= len(table):
        raise ValueError(f"label file {str(path)!r}: got value {label.max()}, expected at most {len(table) - 1}")
    return table[label]
