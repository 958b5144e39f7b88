"""Label maps: what values of published label files mean, and reading such files as class indices.

Classes are 0..T-1, and what does not count has the dataset's ignore value. Every other raw value is
an error, since it means that files and classes do not belong together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..labels import IGNORE
from ..vocabulary import builtin
from .image_files import read_raw_label

ILLEGAL = -1
LARGEST = 65535
"""Largest raw value that a label map may name: what 16 bits hold."""

COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182)
"""Values (category id - 1) that are none of the 171 classes of COCO-Stuff; the last is "other"."""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of Cityscapes' 19 classes by train id; the other ids up to 33 do not count."""

HALVES = ("right", "left")


@dataclass(frozen=True)
class LabelMap:
    """What raw values of a label file (0..65535, else ValueError) mean: the index of a class, or
    ``ignore`` for what does not count. Messages and rows of results call it by its name.
    """

    classes: Mapping[int, int] = field(hash=False)
    ignore: int = IGNORE
    name: str = "custom"

    def __post_init__(self) -> None:
        if outside := sorted(raw for raw in self.classes if not 0 <= raw <= LARGEST):
            expected = f"expected whole numbers from 0 to {LARGEST}"
            raise ValueError(f"label map: got the label values {outside[:5]}, {expected}")
        object.__setattr__(self, "classes", MappingProxyType(dict(self.classes)))

    @cached_property
    def table(self) -> np.ndarray:
        """Class index by raw value, int32 (at least 256,); ``ILLEGAL`` where there is none."""
        table = np.full(max(256, max(self.classes) + 1), ILLEGAL, np.int32)
        table[list(self.classes)] = list(self.classes.values())
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its table, and a built-in one as its name: every record holds one."""
        if LABEL_MAPS.get(self.name) == self:
            return _built_in, (self.name,)
        return LabelMap, (dict(self.classes), self.ignore, self.name)

    def look_up(self, raw: np.ndarray) -> np.ndarray:
        """Class indices, int32, of raw values of any integer type, or ``ILLEGAL``."""
        if raw.dtype == np.uint8:  # the table holds them all
            return self.table[raw]
        inside = (raw >= 0) & (raw < len(self.table))
        return np.where(inside, self.table[np.where(inside, raw, 0)], ILLEGAL)


def indices(classes: int, *ignored: int, ignore: int = IGNORE) -> LabelMap:
    """Files of class indices 0..T-1; the values ``ignored`` and ``ignore`` do not count."""
    meanings = {k: k for k in range(classes)}
    return LabelMap(meanings | dict.fromkeys((*ignored, ignore), ignore), ignore)


def from_one(classes: int, background: int = IGNORE) -> LabelMap:
    """Files that count classes from 1; 0 becomes ``background``, and 255 does not count."""
    return LabelMap({0: background, **{k + 1: k for k in range(classes)}, IGNORE: IGNORE})


def _in_order(used: Iterable[int], uncounted: Iterable[int]) -> LabelMap:
    """Files whose values ``used`` are the classes, in order, while ``uncounted`` do not count."""
    meanings = dict.fromkeys((*uncounted, IGNORE), IGNORE)
    return LabelMap(meanings | {raw: k for k, raw in enumerate(used)})


def _context_voc_first(background: int) -> LabelMap:
    """Pascal Context as FCN spread it: 0, then the 20 classes of VOC, then the other 39."""
    voc_first, names = builtin("voc20b"), builtin("context59").names
    order = [names.index(name) for name in (*voc_first.names, *voc_first.background)]
    return LabelMap({0: background, **{i + 1: k for i, k in enumerate(order)}, IGNORE: IGNORE})


_BUILT_IN = {
    "coco_stuff": _in_order(sorted({*range(182)} - {*COCO_STUFF_GAPS}), COCO_STUFF_GAPS),
    "cityscapes": _in_order(CITYSCAPES_IDS, range(34)),
    "context_voc_first": _context_voc_first(IGNORE),
    "context_voc_first_background": _context_voc_first(59),
    "context459_indices": indices(459, 65535, ignore=459),
    "ade847_indices": indices(847, ignore=65535),
    **{f"indices_{k}": indices(k) for k in (19, 20, 21, 30, 59, 60, 150, 171)},
    **{
        f"indices_{k}_background": LabelMap({**indices(k).classes, IGNORE: k}) for k in (30, 59, 60)
    },
    **{f"from_one_{k}": from_one(k) for k in (20, 59, 150)},
    **{f"from_one_{k}_background": from_one(k, background=k) for k in (20, 59, 80)},
}
LABEL_MAPS: Mapping[str, LabelMap] = MappingProxyType(
    {name: replace(label_map, name=name) for name, label_map in _BUILT_IN.items()}
)
"""The built-in label maps by name; files of :mod:`hyperclip.data.dataset_file` bring their own."""


def _built_in(name: str) -> LabelMap:
    return LABEL_MAPS[name]


def read_label(
    path: str | Path,
    label_map: LabelMap | None = None,
    half: str | None = None,
    orientation: str = "",
    max_pixels: int = 0,
) -> np.ndarray:
    """Read a label file, or the "left" or "right" square half of a 2:1 one, as class indices, int32
    (H, W); its values are taken as they are if ``label_map`` is None.

    Raises what :func:`read_raw_label` does, and ValueError for values that the map does not know.
    """
    label = read_raw_label(path, orientation, max_pixels)
    if half is not None:
        label = take_half(label, half, path)
    if label_map is None:
        return label.astype(np.int32)
    mapped = label_map.look_up(label)
    illegal = mapped == ILLEGAL
    if illegal.any():
        values = np.unique(label[illegal])
        legal = sorted(label_map.classes)
        takes = legal if len(legal) < 12 else f"{legal[:3]} … {legal[-3:]}"
        raise ValueError(
            f"label file {str(path)!r}: got values {values[:10].tolist()} that label map "
            f"{label_map.name!r} does not know; it takes {takes}. Do the labels belong to this "
            "dataset?"
        )
    return mapped


def read_record_label(record: Mapping) -> np.ndarray:
    """The label, int32 (H, W), of one of Detectron2's records; see :func:`read_label`. A record of
    annotations has a "label_reader", whose values its label map knows.
    """
    if reader := record.get("label_reader"):
        return record["label_map"].look_up(reader.read(record))
    keys = ("label_map", "half", "orientation", "max_pixels")
    return read_label(record["sem_seg_file_name"], **{k: record[k] for k in keys if k in record})


def take_half(array: np.ndarray, half: str, path: str | Path) -> np.ndarray:
    """The left or right half of an image (H, 2 H, …); ValueError for another shape or half."""
    height, width = array.shape[:2]
    if width != 2 * height:
        problem = f"got {width} x {height} pixels, expected exactly 2:1 to cut it into two halves"
        raise ValueError(f"{str(path)!r}: {problem}")
    if half not in HALVES:
        raise ValueError(f"half: got {half!r}, expected one of {list(HALVES)}")
    return array[:, height:] if half == "right" else array[:, :height]
