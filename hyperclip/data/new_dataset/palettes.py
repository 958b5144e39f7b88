"""Palettes by which published datasets colour their masks, and the classes they stand for."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...vocabulary import builtin

VOID = "#e0e0c0"
"""The colour of VOC's borders."""

_CITYSCAPES = """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e
000046 003c64 005064 0000e6 770b20
"""
"""Of the 19 classes, in the order of their train ids."""


@dataclass(frozen=True)
class Palette:
    """Colours "#rrggbb" with names of classes; "ignore" for what does not count. ``values``, if it
    has any, are the indices at which masks of indices have the colours.
    """

    dataset: str
    names: dict[str, str]
    values: dict[int, str]


def voc_colour(index: int) -> str:
    """VOC's colour of an index, 0 to 255: its bits, from the lowest on, go to red, green and blue
    in turn, from the highest bit of each on.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def voc() -> Palette:
    """VOC's: background, 20 classes, and the borders."""
    names = ["ignore", *builtin("clean_voc20").names]
    values = {**dict(enumerate(names)), 255: "ignore"}
    return Palette("VOC", {voc_colour(k): name for k, name in values.items()}, values)


def cityscapes() -> Palette:
    """Cityscapes': 19 classes, and black for what does not count."""
    colours = [f"#{code}" for code in _CITYSCAPES.split()]
    names = dict(zip(colours, builtin("clean_cityscapes").names, strict=True))
    return Palette("Cityscapes", {"#000000": "ignore", **names}, {})


def palette_of_colours(codes: Iterable[str]) -> Palette | None:
    """The palette that has all of these colours, at least one of them a class; None if none has."""
    found = set(codes)
    for palette in (voc(), cityscapes()):
        named = [code for code in found if palette.names.get(code, "ignore") != "ignore"]
        if named and found <= palette.names.keys():
            return palette
    return None


def palette_of_indices(values: Iterable[int], colours: dict[int, str]) -> Palette | None:
    """VOC's palette, if masks of these values (with the colours that their files have for them) use
    it; None if they do not.
    """
    palette = voc()
    found = set(values)
    if not found & palette.values.keys() - {0, 255} or not found <= palette.values.keys():
        return None
    same = all(colours.get(value) == voc_colour(value) for value in found)
    return palette if same else None
