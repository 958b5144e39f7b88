"""Results of a folder of images as files: what ``demo.py --format`` writes beside its pictures."""

import csv
import difflib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..runtime.files import write_atomically, write_text
from .answer import Answer
from .coco import append, coco_document
from .labelme import labelme_document
from .panoptic import panoptic
from .tables import class_table


class Writer(Protocol):
    """What writes the answers of a run in one format."""

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        """Take the answer of an image, whose results are called ``name``; OSError if it cannot be
        written.
        """

    def close(self) -> None:
        """Write what is about all images, in full or not at all."""


class CocoWriter:
    """``coco.json``, of all images."""

    def __init__(self, folder: Path, instances: bool, smallest: int) -> None:
        self.file, self.instances, self.smallest = folder / "coco.json", instances, smallest
        self.whole: dict[str, Any] = {"images": [], "annotations": [], "categories": []}

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        number, first = len(self.whole["images"]) + 1, len(self.whole["annotations"]) + 1
        own = coco_document(answer, file_name, number, self.instances, self.smallest, first)
        append(self.whole, own)

    def close(self) -> None:
        write_text(self.file, json.dumps(self.whole))


class PanopticWriter:
    """``panoptic/NAME.png`` of each image, and ``panoptic.json``."""

    def __init__(self, folder: Path, instances: bool, smallest: int) -> None:
        self.folder, self.instances, self.smallest = folder, instances, smallest
        self.whole: dict[str, Any] = {"images": [], "annotations": [], "categories": []}

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        number = len(self.whole["images"]) + 1
        picture, own = panoptic(answer, f"{name}.png", number, self.instances, self.smallest)
        _save_png(self.folder / "panoptic" / f"{name}.png", picture)
        own["images"][0]["file_name"] = file_name
        append(self.whole, own)

    def close(self) -> None:
        write_text(self.folder / "panoptic.json", json.dumps(self.whole))


class LabelMeWriter:
    """``labelme/NAME.json`` of each image."""

    def __init__(self, folder: Path, instances: bool, smallest: int) -> None:
        self.folder, self.instances, self.smallest = folder / "labelme", instances, smallest

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        document = labelme_document(answer, file_name, self.instances, self.smallest)
        write_text(self.folder / f"{name}.json", json.dumps(document))

    def close(self) -> None:
        """Each file is there."""


class TableWriter:
    """``table.csv``: a line for each image and class, with its pixels, share and confidence."""

    def __init__(self, folder: Path, instances: bool, smallest: int) -> None:
        self.file, self.lines = folder / "table.csv", io.StringIO()
        self.rows = csv.writer(self.lines, lineterminator="\n")
        self.rows.writerow(["image", "class", "pixels", "share", "confidence"])

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        for row in class_table(answer):
            sure = "" if row.confidence is None else f"{row.confidence:.4f}"
            self.rows.writerow([file_name, row.name, row.pixels, f"{row.share:.6f}", sure])

    def close(self) -> None:
        write_text(self.file, self.lines.getvalue())


class ArrayWriter:
    """``npz/NAME.npz`` of each image: labels, confidence, names."""

    def __init__(self, folder: Path, instances: bool, smallest: int) -> None:
        self.folder = folder / "npz"

    def add(self, name: str, file_name: str, answer: Answer) -> None:
        write_arrays(self.folder / f"{name}.npz", answer)

    def close(self) -> None:
        """Each file is there."""


WRITERS: dict[str, Callable[[Path, bool, int], Writer]] = {
    "coco": CocoWriter,
    "panoptic": PanopticWriter,
    "labelme": LabelMeWriter,
    "table": TableWriter,
    "npz": ArrayWriter,
}
"""What writes each format."""


def build_writers(
    formats: str, folder: Path, instances: bool = False, smallest: int = 1
) -> list[Writer]:
    """Writers of formats, "coco,labelme" say, into a folder; ValueError for one that is unknown.

    Args:
        instances, smallest: as :meth:`Answer.regions`, for formats that list regions.
    """
    wanted = dict.fromkeys(name.strip() for name in formats.split(",") if name.strip())
    for name in wanted:
        if name not in WRITERS:
            near = difflib.get_close_matches(name, WRITERS, n=1)
            meant = f". Did you mean {near[0]}?" if near else ""
            raise ValueError(f"--format: got {name!r}, expected some of {list(WRITERS)}{meant}")
    if smallest < 1:
        raise ValueError(f"--smallest: got {smallest}, expected a number of pixels from 1 on")
    return [WRITERS[name](folder, instances, smallest) for name in wanted]


def write_arrays(target: Path, answer: Answer) -> None:
    """Write labels, confidence and names for ``numpy.load``, in full or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # NumPy would add a suffix to a path
            names = np.array(answer.names, dtype=np.str_)
            np.savez_compressed(
                file, labels=answer.labels, confidence=answer.confidence, names=names
            )

    write_atomically(target, write)


def _save_png(target: Path, picture: np.ndarray) -> None:
    write_atomically(target, lambda part: Image.fromarray(picture).save(part, format="PNG"))


def add_to_all(writers: Sequence[Writer], name: str, file_name: str, answer: Answer) -> None:
    """Give an image's answer to every writer."""
    for writer in writers:
        writer.add(name, file_name, answer)
