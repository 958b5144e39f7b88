"""LabelMe's JSON: a file for each image, with polygons, rectangles, circles and masks."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...runtime.files import read_json
from ..image_files import image_size
from .painting import is_near, shortened
from .source import FolderSource, LabelReader, require_size

AREAS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
"""Types of shapes that have an area, with the points that each needs at least."""

OUTSIDE = ("__ignore__", "_background_", "__unlabeled__")
"""Names by which LabelMe's own scripts mean no class."""


def read_document(path: Path) -> dict[str, Any]:
    """A file of LabelMe; ValueError for another one, FileNotFoundError for none."""
    document = read_json(path, "LabelMe file")
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        expected = "expected LabelMe's object with a list of shapes"
        raise ValueError(f"{str(path)!r}: {expected}. Is it another file?")
    for number, shape in enumerate(shapes, 1):
        if fault := shape_fault(shape):
            raise ValueError(f"{str(path)!r}: shape {number}: {fault}")
    return document


def kind_of(shape: Mapping[str, Any]) -> str:
    """The type of a shape; files of old versions do not name that of polygons."""
    return shape.get("shape_type") or "polygon"


def shape_fault(shape: Mapping[str, Any]) -> str:
    """What is wrong with a shape; "" if nothing is."""
    kind, points = kind_of(shape), shape.get("points")
    if not isinstance(shape.get("label"), str):
        return f"label: got {shape.get('label')!r}, expected a text"
    if not isinstance(kind, str) or kind not in AREAS:
        return f"got a {kind!r}, which has no area; expected one of {list(AREAS)}. Remove it"
    if not isinstance(points, list) or not all(map(_is_point, points)):
        return "points: expected a list of [x, y]"
    if len(points) < AREAS[kind]:
        return f"a {kind} of {len(points)} points; expected {AREAS[kind]}. Mend or remove it"
    return ""


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(n) in (int, float) and -math.inf < n < math.inf for n in point)
    )


def draw(label: np.ndarray, shape: Mapping[str, Any], value: int) -> None:
    """Paint a shape into a label (H, W) as LabelMe does, outline included; ValueError for one far
    outside of the image, and for a mask that is no PNG or does not fit its box.
    """
    kind, points = kind_of(shape), [tuple(point) for point in shape["points"]]
    if not is_near(chain.from_iterable(points), *label.shape):
        raise ValueError(f"a {kind} of {shape['label']!r} has a point far outside of the image")
    if kind == "mask":
        _paste(label, shape, value)
        return
    canvas = Image.new("1", label.shape[::-1])
    pen = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), on_it = points[:2]
        radius = math.dist((x, y), on_it)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle":
        xs, ys = zip(*points, strict=True)
        pen.rectangle([min(xs), min(ys), max(xs), max(ys)], outline=1, fill=1)
    else:
        pen.polygon(points, outline=1, fill=1)
    label[np.asarray(canvas)] = value


def _paste(label: np.ndarray, shape: Mapping[str, Any], value: int) -> None:
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            mask = np.asarray(image).astype(bool)
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"a mask of {shape['label']!r} is no PNG ({error!r})") from error
    left, top = (round(number) for number in shape["points"][0])
    if mask.ndim != 2 or left < 0 or top < 0:
        raise ValueError(f"a mask of {shape['label']!r} has no place in the image")
    place = label[top : top + mask.shape[0], left : left + mask.shape[1]]
    if place.shape != mask.shape:
        raise ValueError(f"a mask of {shape['label']!r} reaches beyond the image")
    place[mask] = value


@dataclass(frozen=True)
class LabelMeFile(LabelReader):
    """Shapes in their order, a later one over an earlier one, with values by name."""

    values: Mapping[str, int] = field(hash=False)
    unlabelled: int

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        path = Path(record["sem_seg_file_name"])
        document = read_document(path)
        size = _size(document, record)
        require_size(record, *size)
        label = np.full(size, self.unlabelled, np.int32)
        for shape in document["shapes"]:
            if shape["label"] not in self.values:
                raise ValueError(
                    f"{str(path)!r}: got a shape of {shape['label']!r}, expected a name of "
                    f"label_map, {shortened(self.values)}. Add it, as a class or as ignore"
                )
            try:
                draw(label, shape, self.values[shape["label"]])
            except ValueError as error:
                raise ValueError(f"{str(path)!r}: {error}. Draw it again") from error
        return label

    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return _size(read_document(Path(record["sem_seg_file_name"])), record)


def _size(document: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that the file says, or, as in those of old versions, the image's."""
    height, width = document.get("imageHeight"), document.get("imageWidth")
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return height, width
    return image_size(record["file_name"], record.get("orientation", ""))


class LabelMe(FolderSource):
    """A JSON file for each image, beside the images or in a folder of their own. Keys are names."""

    format = "labelme"
    suffixes = (".json",)

    @classmethod
    def is_key(cls, key: Any) -> bool:
        return isinstance(key, str)

    def reader(self) -> LabelReader:
        return LabelMeFile({str(key): v for key, v in self.values.items()}, self.unlabelled)
