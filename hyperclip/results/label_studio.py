"""Label Studio's tasks with masks of brushes, and the labelling interface that they belong to.

A mask is Label Studio's own run-length code of the red, green, blue and alpha of all pixels. We
write it ourselves, since label-studio-sdk, which has an encoder, wants an older OpenCV than ours;
tests decode what is written with its decoder. Sources: labelstud.io/guide/predictions, the package
rle-pack, which Label Studio reads masks with.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .answer import Answer, Region
from .indexed_masks import voc_colors
from .limits import need_distinct, need_plain

CHANNELS = 4
LENGTH_BITS = (3, 4, 8, 16)
"""Bits of the four kinds of lengths in a code; a run takes the shortest that holds it."""


class LabelStudio(NamedTuple):
    """A task to import, and the labelling interface, XML, to give its project first."""

    task: dict[str, Any]
    config: str


def label_studio(
    answer: Answer,
    image: str,
    *,
    as_annotations: bool = False,
    from_name: str = "label",
    to_name: str = "image",
    instances: bool = False,
    smallest: int = 1,
) -> LabelStudio:
    """One image as a task of Label Studio; ValueError as :func:`label_studio_config`.

    Args:
        image: where Label Studio finds it, an address or "/data/local-files/?d=photo.jpg", say.
        as_annotations: finished annotations, else predictions, which people accept or mend.
        from_name, to_name: the names of the brush and the image in the labelling interface.
        instances, smallest: as :meth:`Answer.regions`.
    """
    config = label_studio_config(answer.names, from_name, to_name)
    height, width = answer.labels.shape
    common = {
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    regions = answer.regions(instances, smallest)
    found = [
        {"id": f"region{i}", **common, **_value(answer.names, region)}
        for i, region in enumerate(regions, 1)
    ]
    task: dict[str, Any] = {"data": {to_name: image}}
    if as_annotations:
        task["annotations"] = [{"result": found}]
    else:
        task["predictions"] = [{"model_version": "hyperclip", "result": found}]
    return LabelStudio(task, config)


def label_studio_config(
    names: Sequence[str], from_name: str = "label", to_name: str = "image"
) -> str:
    """The labelling interface, XML, with a brush for each name; ValueError for a name that is there
    twice, or that XML cannot hold.
    """
    need_label_studio_names(names)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": to_name, "value": f"${to_name}"})
    brushes = ElementTree.SubElement(view, "BrushLabels", {"name": from_name, "toName": to_name})
    for name, color in zip(names, itertools.cycle(voc_colors()[1:]), strict=False):
        about = {"value": name, "background": f"#{color.tobytes().hex()}"}
        ElementTree.SubElement(brushes, "Label", about)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def need_label_studio_names(names: Sequence[str]) -> None:
    """ValueError for names that are there twice, or that XML cannot hold."""
    need_distinct("format label-studio", names)
    need_plain("format label-studio", names)


def brush_code(mask: np.ndarray) -> list[int]:
    """Label Studio's code of a mask, bool (H, W), at least one pixel, as bytes: the number of
    values in 32 bits, the bits of a value less 1 in 5, those of the four kinds of lengths less 1
    in 4 each, and the runs. All channels of a pixel of the mask are 255, of others 0.
    """
    inside = mask.ravel()
    starts = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    places = [0, *starts.tolist(), inside.size]
    bits = [f"{CHANNELS * inside.size:032b}", f"{8 - 1:05b}"]
    bits += [f"{n - 1:04b}" for n in LENGTH_BITS]
    for start, end in zip(places, places[1:], strict=False):
        bits.append(_run(CHANNELS * (end - start), 255 * int(inside[start])))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: int) -> str:
    """A bit that says it is a run, the kind of length, the length less 1, and the value."""
    longest, parts = 2 ** LENGTH_BITS[-1], []
    for start in range(0, length, longest):
        part = min(longest, length - start)
        kind = next(i for i, n in enumerate(LENGTH_BITS) if part <= 2**n)
        parts.append(f"1{kind:02b}{part - 1:0{LENGTH_BITS[kind]}b}{value:08b}")
    return "".join(parts)


def _value(names: Sequence[str], region: Region) -> dict[str, Any]:
    code = brush_code(region.mask)
    value = {"format": "rle", "rle": code, "brushlabels": [names[region.category]]}
    return {"score": region.score, "value": value}
