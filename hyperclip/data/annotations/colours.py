"""Colour-coded masks: each colour is a class."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..image_files import LABEL_SUFFIXES, image_size, read_colours
from .painting import shortened
from .source import FolderSource, LabelReader


def packed(colours: np.ndarray) -> np.ndarray:
    """Colours, uint8 (..., 3), as whole numbers 65536 R + 256 G + B, int32 (...)."""
    return colours.astype(np.int32) @ [65536, 256, 1]


def code(number: int) -> str:
    """A packed colour as "#rrggbb"."""
    return f"#{number:06x}"


@dataclass(frozen=True)
class ColourMask(LabelReader):
    """Values by colour "#rrggbb"; pixels that are wholly transparent have no label."""

    values: Mapping[str, int] = field(hash=False)
    unlabelled: int

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        path = record["sem_seg_file_name"]
        options = {key: record[key] for key in ("orientation", "max_pixels") if key in record}
        colours, transparent = read_colours(path, **options)
        found, places = np.unique(packed(colours), return_inverse=True)
        values = [self.values.get(code(number), -1) for number in found.tolist()]
        label = np.array(values, np.int32)[places].reshape(colours.shape[:2])
        label[transparent] = self.unlabelled
        if (label < 0).any():
            unknown = [code(n) for n in np.unique(packed(colours[label < 0])).tolist()]
            raise ValueError(
                f"label file {path!r}: got the colours {shortened(unknown)}, which label_map does "
                f"not name; it has {shortened(self.values)}. Add them, as classes or as ignore, "
                "and save masks without smoothing"
            )
        return label

    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return image_size(record["sem_seg_file_name"], record.get("orientation", ""))


class Colours(FolderSource):
    """PNG, TIFF or BMP files in colour. Keys are written as "#rrggbb" in small letters."""

    format = "colours"
    suffixes = LABEL_SUFFIXES

    @classmethod
    def is_key(cls, key: Any) -> bool:
        return isinstance(key, str) and re.fullmatch("#[0-9a-f]{6}", key) is not None

    def reader(self) -> LabelReader:
        return ColourMask({str(key): value for key, value in self.values.items()}, self.unlabelled)
