"""The values or colours of all masks, counted; no more than one mask is in memory."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..annotations.colours import code, packed
from ..image_files import read_colours, read_raw_label
from ..label_maps import LARGEST
from .found import PLACEHOLDER, FoundClass, FoundLabels
from .palettes import VOID, Palette, palette_of_colours, palette_of_indices

MOST = 1000
"""So many values or colours are no classes."""

SMOOTH = 0.5
"""In a mask more than this share of neighbouring pixels are equal; in photos it is less."""

FEW = 64
"""Masks of so few values are masks, however fine their regions are."""


class Census:
    """Counts values of masks: pixels, and masks with each."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.pixels: Counter[int] = Counter()
        self.masks: Counter[int] = Counter()
        self._equal = self._neighbours = self._files = 0

    def add(self, values: np.ndarray) -> None:
        """Count the values (H, W) of a mask; ValueError where there are too many for a mask."""
        found, counts = np.unique(values, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            self.pixels[value] += count
            self.masks[value] += 1
        self._files += 1
        self._equal += int((values[:, 1:] == values[:, :-1]).sum())
        self._neighbours += values[:, 1:].size
        if len(self.pixels) >= MOST:
            self._refuse()

    def require_masks(self) -> None:
        """ValueError where neighbouring pixels differ as in photos."""
        if len(self.pixels) > FEW and self._equal < SMOOTH * self._neighbours:
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"MASKS: got {len(self.pixels)} {self.what} in {self._files} files: these look like "
            f"photos, not masks. Expected fewer than {MOST}, in regions. Were IMAGES and MASKS "
            "swapped, do pixels hold numbers of instances, or were masks scaled with smoothing or "
            "saved as JPEG?"
        )

    def remark(self, value: int) -> str:
        """What was found of a value, in words."""
        share = 100 * self.pixels[value] / sum(self.pixels.values())
        masks = self.masks[value]
        return f"{share:.2g} % of the pixels, in {masks} mask{'s' if masks > 1 else ''}"


def find_values(paths: Iterable[Path], read: Callable[[Path], np.ndarray], what: str) -> Census:
    """Count the values of all masks; raises what ``read`` does, and ValueError for photos."""
    census = Census(what)
    for path in paths:
        census.add(read(path))
    census.require_masks()
    return census


def index_classes(paths: list[Path], orientation: str) -> FoundLabels:
    """The classes of masks of indices, named where the palette of the files is a known one."""
    census = find_values(paths, lambda path: read_raw_label(path, orientation), "values")
    values = sorted(census.pixels)
    if outside := [value for value in values if not 0 <= value <= LARGEST]:
        expected = f"expected whole numbers from 0 to {LARGEST}"
        raise ValueError(f"MASKS: got the values {outside[:5]}, {expected}. Number them anew")
    palette = palette_of_indices(values, _file_palette(paths[0]))
    if palette:
        found = _by_palette(palette)
        for value, name in palette.values.items():
            remark = census.remark(value) if value in census.pixels else "in no mask"
            found.classes.append(FoundClass(value, name, remark))
        return found
    found = FoundLabels(named=False)
    void = {255, 65535} if set(values) - {0, 255, 65535} else set()
    for value in values:
        name = "ignore" if value in void else PLACEHOLDER(value)
        found.classes.append(FoundClass(value, name, census.remark(value)))
    return found


def colour_classes(paths: list[Path], orientation: str) -> FoundLabels:
    """The classes of colour-coded masks, the most frequent first, named by a known palette."""

    def read(path: Path) -> np.ndarray:
        colours, transparent = read_colours(path, orientation)
        return np.where(transparent, -1, packed(colours))

    census = find_values(paths, read, "colours")
    found = FoundLabels(named=False)
    numbers = [number for number, _ in census.pixels.most_common() if number >= 0]
    if -1 in census.pixels:
        found.notes.append(f"{census.remark(-1)} are transparent: they have no label")
    codes = [code(number) for number in numbers]
    palette = palette_of_colours(codes)
    if palette:
        notes = found.notes
        found = _by_palette(palette)
        found.notes += notes
    for place, (number, colour) in enumerate(zip(numbers, codes, strict=True), 1):
        name = palette.names[colour] if palette else PLACEHOLDER(place)
        if colour == VOID:
            name = "ignore"
        found.classes.append(FoundClass(colour, name, census.remark(number)))
    return found


def _by_palette(palette: Palette) -> FoundLabels:
    note = (
        f"the names are those of {palette.dataset}, whose palette the masks have. Tools give it to "
        "masks of other classes, too: look at the names"
    )
    return FoundLabels(notes=[note])


def _file_palette(path: Path) -> dict[int, str]:
    """The colours of a file's palette by index; empty without one."""
    with Image.open(path) as image:
        entries = image.getpalette("RGB") or []
    triples = zip(entries[::3], entries[1::3], entries[2::3], strict=False)
    return {k: "#" + "".join(f"{c:02x}" for c in rgb) for k, rgb in enumerate(triples)}
