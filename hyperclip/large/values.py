"""From the values of an image's bands to RGB of 8 bits, and which bands these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SAMPLED = 4
"""So many squares a side are looked at for the range of a file's values, each of 256 pixels."""
SHARES = (1, 99)
"""Percentiles of the values that a range is proposed of."""


def choose_bands(dataset: Any, bands: Sequence[int]) -> tuple[int, ...]:
    """One band or three, from 1 on: the given ones, or those that are called red, green and blue,
    or the first three, or the first; ValueError for others than the file has.
    """
    count = dataset.count
    if bands:
        if len(bands) not in (1, 3) or not all(1 <= band <= count for band in bands):
            got = f"got {','.join(map(str, bands))}"
            expected = f"expected three of 1 to {count} (red, green, blue), or one (grey)"
            raise ValueError(f"bands: {got}, {expected}")
        return tuple(bands)
    names = [color.name for color in dataset.colorinterp]
    if all(name in names for name in ("red", "green", "blue")):
        return tuple(names.index(name) + 1 for name in ("red", "green", "blue"))
    return (1, 2, 3) if count >= 3 else (1,)


def choose_range(
    dataset: Any, bands: Sequence[int], given: Sequence[float] | None
) -> tuple[float, float] | None:
    """The values that become black and white; None for 8 bits as they are.

    Raises:
        ValueError: a range that is none, or none given for other values than 8 bits.
    """
    kinds = sorted({np.dtype(dataset.dtypes[band - 1]) for band in bands}, key=str)
    if any(kind.kind not in "iuf" for kind in kinds):
        raise ValueError(f"{dataset.name!r}: got {kinds[0]} values, expected real numbers")
    if given is not None:
        low, high = given
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            expected = "expected two numbers, the lower one (black) first"
            raise ValueError(f"value range: got {low:g} {high:g}, {expected}")
        return low, high
    if kinds == [np.dtype(np.uint8)]:
        bits = dataset.tags(bands[0], ns="IMAGE_STRUCTURE").get("NBITS", "8")
        return None if bits == "8" else (0.0, 2.0 ** int(bits) - 1)
    low, high = likely_range(dataset, bands)
    raise ValueError(
        f"{dataset.name!r}: got {kinds[0]} values, expected 8 bits, or the range that becomes "
        f"black to white. {SHARES[1] - SHARES[0]} % of those looked at are in "
        f"--value-range {low:g} {high:g}"
    )


def likely_range(dataset: Any, bands: Sequence[int]) -> tuple[float, float]:
    """Percentiles of values from squares all over the image; 0 to 1 where there are none."""
    from rasterio.windows import Window

    found = []
    sides = [min(256, side) for side in (dataset.height, dataset.width)]
    for i in range(SAMPLED):
        for j in range(SAMPLED):
            top = i * (dataset.height - sides[0]) // (SAMPLED - 1)
            left = j * (dataset.width - sides[1]) // (SAMPLED - 1)
            window = Window(left, top, sides[1], sides[0])
            values = dataset.read(list(bands), window=window)
            valid = dataset.read_masks(list(bands), window=window) > 0
            found.append(values[valid & np.isfinite(values)].astype(np.float64))
    whole = np.concatenate(found)
    if not whole.size:
        return 0.0, 1.0
    low, high = np.percentile(whole, SHARES)
    return float(low), float(high if high > low else low + 1)


def eight_bits(values: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Values of any type as uint8: 0 for the lower limit and below, 255 for the upper one; what is
    not finite becomes 0.
    """
    if limits is None:
        return values
    low, high = limits
    scaled = (values.astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.nan_to_num(np.clip(scaled, 0, 255) + np.float32(0.5)).astype(np.uint8)
