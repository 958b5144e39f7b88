"""YOLO's polygons: a text file for each image, with a line "class x y x y x y …" for each object.

Coordinates are parts of the image's width and height, 0 to 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..image_files import image_size
from .painting import paint, shortened
from .source import FolderSource, LabelReader

SLACK = 1e-3
"""How far outside of the image a point may be: rounding of the program that wrote it."""


def read_polygons(path: Path) -> list[tuple[int, list[float]]]:
    """(class, [x, y, …]) of each line, coordinates from 0 to 1.

    Raises FileNotFoundError, and ValueError, which names the line, for boxes and other text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text file in UTF-8 ({error})") from error
    polygons = []
    for number, line in enumerate(lines, 1):
        if words := line.split():
            where = f"{str(path)!r}, line {number}"
            polygons.append(_polygon(words, where))
    return polygons


def _polygon(words: list[str], where: str) -> tuple[int, list[float]]:
    expected = "expected the number of a class, then x and y of at least three points"
    try:
        category, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError(f"{where}: got {' '.join(words)[:60]!r}, {expected}") from None
    if len(numbers) == 4:
        problem = "got a box, or a polygon of two points"
        raise ValueError(f"{where}: {problem}, {expected}. Export masks or polygons instead")
    if category < 0 or len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{where}: got class {category} with {len(numbers)} numbers, {expected}")
    outside = [n for n in numbers if not (math.isfinite(n) and -SLACK <= n <= 1 + SLACK)]
    if outside:
        problem = f"got the coordinate {outside[0]:g}, expected parts of the image's sides, 0 to 1"
        raise ValueError(f"{where}: {problem}")
    return category, numbers


@dataclass(frozen=True)
class YoloFile(LabelReader):
    """Polygons with values by class number, the smaller over the larger; see :func:`paint`."""

    values: Mapping[int, int] = field(hash=False)
    unlabelled: int

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        path = Path(record["sem_seg_file_name"])
        height, width = self.size(record)
        regions = []
        for category, numbers in read_polygons(path):
            if category not in self.values:
                raise ValueError(
                    f"{str(path)!r}: got class {category}, expected one of label_map's, "
                    f"{shortened(self.values)}. Add it, as a class or as ignore"
                )
            scaled = [n * (height if k % 2 else width) for k, n in enumerate(numbers)]
            regions.append((self.values[category], False, [scaled]))
        return paint(regions, height, width, self.unlabelled)

    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return image_size(record["file_name"], record.get("orientation", ""))


class YoloPolygons(FolderSource):
    """A text file for each image; an empty one says that nothing is in it. Keys are numbers."""

    format = "yolo"
    suffixes = (".txt",)
    others = ("classes.txt", "labels.txt", "README.txt")

    def reader(self) -> LabelReader:
        return YoloFile({int(key): v for key, v in self.values.items()}, self.unlabelled)
