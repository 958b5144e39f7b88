"""COCO's JSON of instances (polygons and run lengths of both kinds), and of panoptic PNGs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..image_files import image_size, read_colours
from ..index_files import by_image, read_index
from .painting import paint, polygon_fault, shortened
from .source import IndexSource, Key, LabelReader, require_size

ENTRY = {"image_id": int}
IMAGES = {"id": int, "file_name": str}
CATEGORIES = {"id": int, "name": str}
INSTANCES: dict[str, dict[str, type]] = {
    "images": {**IMAGES, "height": int, "width": int},
    "annotations": {**ENTRY, "category_id": int},
    "categories": CATEGORIES,
}
PANOPTIC: dict[str, dict[str, type]] = {
    "images": IMAGES,
    "annotations": {**ENTRY, "file_name": str},
    "categories": CATEGORIES,
}
"""Keys that the entries of both kinds of file need, with their types."""


@dataclass(frozen=True)
class Regions(LabelReader):
    """An image's regions (value, whether it is a crowd, segmentation); see :func:`paint`."""

    height: int
    width: int
    regions: tuple[tuple[int, bool, Any], ...]
    unlabelled: int

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        require_size(record, self.height, self.width)
        try:
            return paint(self.regions, self.height, self.width, self.unlabelled)
        except ValueError as error:
            raise ValueError(f"{where(record)}: {error}") from error

    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class Segments(LabelReader):
    """The values of the segments of a panoptic PNG, whose pixels are ids as R + 256 G + 65536 B."""

    values: tuple[tuple[int, int], ...]
    unlabelled: int

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        path = record["sem_seg_file_name"]
        options = {key: record[key] for key in ("orientation", "max_pixels") if key in record}
        colours, _ = read_colours(path, **options)
        ids, places = np.unique(colours.astype(np.int32) @ [1, 256, 65536], return_inverse=True)
        known = {0: self.unlabelled, **dict(self.values)}
        if unknown := [i for i in ids.tolist() if i not in known]:
            raise ValueError(
                f"panoptic label {path!r}: got the segment ids {shortened(unknown)}, which its "
                "segments_info does not list. Do the PNGs belong to the JSON file?"
            )
        values = np.array([known[i] for i in ids.tolist()], np.int32)
        return values[places].reshape(colours.shape[:2])

    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return image_size(record["sem_seg_file_name"], record.get("orientation", ""))


class CocoInstances(IndexSource):
    """COCO's instances: "images", "annotations" and "categories" in one JSON file."""

    format = "coco"
    paths = ("file",)

    def entries(self, path: Path, root: Path) -> dict[str, tuple[Path, LabelReader]]:
        index = read_index(path, **INSTANCES)
        check_categories(self, index, path)
        annotations = by_image(index["annotations"])
        found: dict[str, tuple[Path, LabelReader]] = {}
        for image in images_of(index, path):
            size = image["height"], image["width"]
            regions = tuple(self._region(a, size, path) for a in annotations.pop(image["id"], ()))
            reader = Regions(*size, regions, self.unlabelled)
            found[image["file_name"]] = path, reader
        refuse_without_image(annotations, path)
        return found

    def _region(
        self, annotation: Mapping[str, Any], size: tuple[int, int], path: Path
    ) -> tuple[int, bool, Any]:
        category, segmentation = annotation["category_id"], annotation.get("segmentation")
        where = (
            f"{str(path)!r}: annotation {annotation.get('id')} of image {annotation['image_id']}"
        )
        if not segmentation:
            problem = "has no segmentation; a box alone is no mask. Remove it, or draw it"
            raise ValueError(f"{where} {problem}")
        for polygon in segmentation if isinstance(segmentation, list) else ():
            if fault := polygon_fault(polygon, *size):
                raise ValueError(f"{where}: its polygon {fault}. Mend or remove it")
        crowd = bool(annotation.get("iscrowd"))
        return value_of(self, category, crowd, where), crowd, segmentation


class CocoPanoptic(IndexSource):
    """COCO's panoptic labels: a JSON file, and a folder with the PNGs that it names."""

    format = "coco_panoptic"
    paths = ("file", "folder")

    def entries(self, path: Path, root: Path) -> dict[str, tuple[Path, LabelReader]]:
        index = read_index(path, **PANOPTIC)
        check_categories(self, index, path)
        annotations = by_image(index["annotations"])
        found: dict[str, tuple[Path, LabelReader]] = {}
        for image in images_of(index, path):
            for annotation in annotations.pop(image["id"], ()):
                label = root / self.folder / annotation["file_name"]
                reader = Segments(self._segments(annotation, path), self.unlabelled)
                found[image["file_name"]] = label, reader
        refuse_without_image(annotations, path)
        return found

    def _segments(self, annotation: Mapping[str, Any], path: Path) -> tuple[tuple[int, int], ...]:
        where = f"{str(path)!r}: annotation of image {annotation['image_id']}"
        segments = annotation.get("segments_info")
        if not isinstance(segments, list) or not all(map(_is_segment, segments)):
            expected = "expected a list of objects with the whole numbers id and category_id"
            raise ValueError(f"{where}: segments_info: {expected}. Is it another file?")
        return tuple(
            (s["id"], value_of(self, s["category_id"], bool(s.get("iscrowd")), where))
            for s in segments
        )


def _is_segment(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        type(entry.get(key)) is int for key in ("id", "category_id")
    )


def where(record: Mapping[str, Any]) -> str:
    """What messages call the label of a record."""
    return f"label of {record.get('file_name', '')!r} in {record['sem_seg_file_name']!r}"


def value_of(source: IndexSource, category: Key, crowd: bool, where: str) -> int:
    """The value of a region of a category; ValueError if the label map does not name that."""
    if crowd and source.crowd is not None:
        return source.crowd
    if category not in source.values:
        raise ValueError(
            f"{where}: category id: got {category}, expected one of the label_map's, "
            f"{shortened(source.values)}. Add it to label_map, as a class or as ignore"
        )
    return source.values[category]


def check_categories(source: IndexSource, index: Mapping[str, Any], path: Path) -> None:
    """ValueError for an id of the label map that the file does not list among its categories."""
    listed = {category["id"] for category in index["categories"]}
    if unknown := [key for key in source.values if key not in listed]:
        raise ValueError(
            f"label_map: got the category ids {shortened(unknown)}, which {str(path)!r} does not "
            f"list; it has {shortened(sorted(listed))}. Remove them, or name another file"
        )


def images_of(index: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The images of a file; ValueError if two of them have the same id or the same name."""
    images = index["images"]
    for key in ("id", "file_name"):
        seen: set[Any] = set()
        for image in images:
            if image[key] in seen:
                problem = f"two images have the {key} {image[key]!r}"
                raise ValueError(f"{str(path)!r}: {problem}. Remove or rename one")
            seen.add(image[key])
    return images


def refuse_without_image(annotations: Mapping[int, Any], path: Path) -> None:
    """ValueError if annotations are left over, whose image the file does not list."""
    if annotations:
        problem = f"annotations of the image ids {shortened(annotations)}, which it does not list"
        raise ValueError(f"{str(path)!r}: {problem} among its images. Is the file cut?")
