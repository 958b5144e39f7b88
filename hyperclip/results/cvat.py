"""CVAT's XML "CVAT for images 1.1" with masks, and the labels that a task needs to take it.
Source: docs.cvat.ai, formats/format-cvat.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .answer import Answer, Region
from .indexed_masks import voc_colors
from .limits import need_distinct, need_plain

LONGEST_NAME = 64
"""Characters of a label in CVAT, which cuts longer ones."""


class Cvat(NamedTuple):
    """The text of an XML file to upload as annotations, and the labels, JSON for the raw view of a
    new task's or project's labels.
    """

    annotations: str
    labels: list[dict[str, Any]]


def cvat(answer: Answer, file_name: str, instances: bool = False, smallest: int = 1) -> Cvat:
    """One image for CVAT, which finds it in a task by ``file_name``; the other arguments as
    :meth:`Answer.regions`, ValueError as :func:`need_cvat_names`.
    """
    labels = cvat_labels(answer.names)
    image = cvat_image(answer, file_name, instances, smallest)
    return Cvat("".join(cvat_lines(answer.names, [image], 1)), labels)


def cvat_labels(names: Sequence[str]) -> list[dict[str, Any]]:
    """The labels, with colours that repeat after 255; see :func:`need_cvat_names`."""
    need_cvat_names(names)
    colors = voc_colors()[1:]
    return [
        {"name": name, "color": f"#{color.tobytes().hex()}", "type": "mask", "attributes": []}
        for name, color in zip(names, itertools.cycle(colors), strict=False)
    ]


def cvat_image(answer: Answer, file_name: str, instances: bool, smallest: int) -> str:
    """The element of an image, with id 0 until :func:`cvat_lines` numbers it."""
    height, width = answer.labels.shape
    about = {"id": "0", "name": file_name, "width": str(width), "height": str(height)}
    image = ElementTree.Element("image", about)
    for region in answer.regions(instances, smallest):
        ElementTree.SubElement(image, "mask", _mask(answer.names[region.category], region))
    return ElementTree.tostring(image, encoding="unicode")


def cvat_lines(names: Sequence[str], images: Iterable[str], count: int) -> Iterator[str]:
    """The lines of annotations.xml for ``count`` elements of images, which get ids from 0 on."""
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    yield ElementTree.tostring(_meta(names, count), encoding="unicode") + "\n"
    for number, text in enumerate(images):
        image = ElementTree.fromstring(text)
        image.set("id", str(number))
        yield ElementTree.tostring(image, encoding="unicode") + "\n"
    yield "</annotations>\n"


def need_cvat_names(names: Sequence[str]) -> None:
    """ValueError for names that are there twice, that XML cannot hold, or that CVAT cuts."""
    what = "format cvat"
    need_distinct(what, names)
    need_plain(what, names)
    for name in names:
        if len(name) > LONGEST_NAME:
            raise ValueError(
                f"{what}: got a name of {len(name)} characters, {name!r}, expected at most "
                f"{LONGEST_NAME}. Shorten it"
            )


def _meta(names: Sequence[str], count: int) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "size").text = str(count)
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for known in cvat_labels(names):
        label = ElementTree.SubElement(labels, "label")
        for key in ("name", "color", "type"):
            ElementTree.SubElement(label, key).text = known[key]
    return meta


def _mask(name: str, region: Region) -> dict[str, str]:
    left, top, width, height = region.box
    inside = region.mask[top : top + height, left : left + width].ravel()
    starts = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    lengths = np.diff([0, *starts.tolist(), inside.size]).tolist()
    if inside[0]:  # the first length is of pixels outside
        lengths.insert(0, 0)
    return {
        "label": name,
        "source": "auto",
        "occluded": "0",
        "rle": ", ".join(map(str, lengths)),
        "left": str(left),
        "top": str(top),
        "width": str(width),
        "height": str(height),
        "z_order": "0",
    }
