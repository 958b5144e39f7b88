"""CVAT's XML "CVAT for images 1.1" with masks. Source: docs.cvat.ai, formats/format-cvat."""

from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

import numpy as np

from .answer import Answer, Region
from .indexed_masks import voc_colors
from .limits import need_distinct, need_plain


def cvat_document(
    answer: Answer, file_name: str = "", instances: bool = False, smallest: int = 1
) -> str:
    """One image as the text of annotations.xml; arguments as :meth:`Answer.regions`, ValueError as
    :func:`need_cvat_names`.
    """
    need_cvat_names(answer.names)
    image = cvat_image(answer, file_name, instances, smallest)
    return "".join(cvat_lines(answer.names, [image], 1))


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
    """ValueError for names that are there twice, or that XML cannot hold."""
    need_distinct("format cvat", names)
    need_plain("format cvat", names)


def _meta(names: Sequence[str], count: int) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "size").text = str(count)
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels, colors = ElementTree.SubElement(task, "labels"), voc_colors()[1:]
    for i, name in enumerate(names):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = f"#{colors[i % len(colors)].tobytes().hex()}"
        ElementTree.SubElement(label, "type").text = "mask"
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
