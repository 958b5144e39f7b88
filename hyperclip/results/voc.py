"""Pascal VOC's segmentation: a palette PNG of class indices, and labelmap.txt, which CVAT and
datumaro read.
"""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from .answer import Answer
from .indexed_masks import index_mask, voc_colors
from .limits import need_8_bits, need_distinct, need_other_than, need_plain

NO_CLASS_NAME = "background"


class Voc(NamedTuple):
    """The mask for SegmentationClass, of Pillow's mode P, whose index 0 is the background, which
    here are pixels of no class; and the text of labelmap.txt.
    """

    mask: Image.Image
    labelmap: str


def voc(answer: Answer) -> Voc:
    """One image in Pascal VOC's format; ValueError as :func:`need_voc_names`."""
    labelmap = voc_labelmap(answer.names)
    mask = Image.fromarray(index_mask(answer))
    mask.putpalette(voc_colors().ravel().tolist())
    return Voc(mask, labelmap)


def voc_labelmap(names: Sequence[str]) -> str:
    """labelmap.txt, ``name:r,g,b::`` in the order of the indices; see :func:`need_voc_names`."""
    need_voc_names(names)
    colors = voc_colors().tolist()
    lines = ["# label:color_rgb:parts:actions"]
    for name, (red, green, blue) in zip([NO_CLASS_NAME, *names], colors, strict=False):
        lines.append(f"{name}:{red},{green},{blue}::")
    return "\n".join(lines) + "\n"


def need_voc_names(names: Sequence[str]) -> None:
    """ValueError for more than 254 classes, one called "background", and names that labelmap.txt
    cannot hold.
    """
    what = "format voc"
    need_8_bits(what, names)
    need_distinct(what, names)
    need_plain(what, names)
    need_other_than(what, names, NO_CLASS_NAME)
    for name in names:
        if ":" in name or name.startswith("#") or name != name.strip():
            raise ValueError(
                f"{what}: got the name {name!r}, which labelmap.txt cannot hold: expected no ':', "
                "no '#' in front and no space around it. Rename the class"
            )
