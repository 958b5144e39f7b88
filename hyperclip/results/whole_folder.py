"""Formats with one file for all images."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ..runtime.files import write_atomically, write_text
from .answer import Answer
from .coco import categories, coco_document
from .cvat import cvat_image, cvat_labels, cvat_lines, need_cvat_names
from .each_image import save_png
from .label_studio import label_studio, label_studio_config, need_label_studio_names
from .panoptic import panoptic, panoptic_categories
from .tables import class_table, need_table_names
from .writer import Writer

COLUMNS = ("image", "class", "pixels", "share", "confidence")
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


class CocoWriter(Writer):
    """``coco.json``, of all images."""

    format = "coco"

    def entry(self, name: str, file_name: str, answer: Answer) -> dict[str, Any]:
        instances, smallest = self.run.instances, self.run.smallest
        own = coco_document(answer, file_name, instances=instances, smallest=smallest)
        return {"image": own["images"][0], "annotations": own["annotations"]}

    def write_all(self) -> None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, own in enumerate(self.journal.entries(), 1):
            images.append({**own["image"], "id": number})
            for known in own["annotations"]:
                first = {"id": len(annotations) + 1, "image_id": number}
                annotations.append({**known, **first})
        whole = {
            "images": images,
            "annotations": annotations,
            "categories": categories(self.run.names),
        }
        write_text(self.run.folder / "coco.json", json.dumps(whole))


class PanopticWriter(Writer):
    """``panoptic/NAME.png`` of each image, and ``panoptic.json``."""

    format = "panoptic"

    def files(self, name: str) -> list[Path]:
        return [self.run.folder / "panoptic" / f"{name}.png"]

    def entry(self, name: str, file_name: str, answer: Answer) -> dict[str, Any]:
        instances, smallest = self.run.instances, self.run.smallest
        picture, own = panoptic(answer, f"{name}.png", instances=instances, smallest=smallest)
        save_png(self.files(name)[0], Image.fromarray(picture))
        image = {**own["images"][0], "file_name": file_name}
        return {"image": image, "annotation": own["annotations"][0]}

    def write_all(self) -> None:
        images, annotations = [], []
        for number, own in enumerate(self.journal.entries(), 1):
            images.append({**own["image"], "id": number})
            annotations.append({**own["annotation"], "image_id": number})
        things = panoptic_categories(self.run.names, self.run.instances)
        whole = {"images": images, "annotations": annotations, "categories": things}
        write_text(self.run.folder / "panoptic.json", json.dumps(whole))


class TableWriter(Writer):
    """``table.csv``: a line for each image and class, with its pixels, share and confidence."""

    format = "table"
    is_text = True
    checks = (need_table_names,)

    def entry(self, name: str, file_name: str, answer: Answer) -> list[list[str]]:
        rows = []
        for row in class_table(answer):
            sure = "" if row.confidence is None else f"{row.confidence:.4f}"
            rows.append([file_name, row.name, str(row.pixels), f"{row.share:.6f}", sure])
        return rows

    def write_all(self) -> None:
        lines = io.StringIO()
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(COLUMNS)
        for of_image in self.journal.entries():
            rows.writerows(of_image)
        write_text(self.run.folder / "table.csv", lines.getvalue())


class LabelStudioWriter(Writer):
    """``label_studio.json``, a task with predictions for each image, and ``label_studio.xml``, the
    labelling interface.
    """

    format = "label-studio"
    is_text = True
    checks = (need_label_studio_names,)

    def entry(self, name: str, file_name: str, answer: Answer) -> dict[str, Any]:
        instances, smallest = self.run.instances, self.run.smallest
        image = LOCAL_FILES + quote(file_name)
        return label_studio(answer, image, instances=instances, smallest=smallest).task

    def write_all(self) -> None:
        config = label_studio_config(self.run.names)
        write_text(self.run.folder / "label_studio.xml", config)
        tasks = (json.dumps(task) for task in self.journal.entries())
        lines = (f"{',' if i else ''}\n{task}" for i, task in enumerate(tasks))
        _write_lines(self.run.folder / "label_studio.json", ("[", *lines, "\n]\n"))


class CvatWriter(Writer):
    """``cvat.xml``, of all images, and ``cvat_labels.json``."""

    format = "cvat"
    is_text = True
    checks = (need_cvat_names,)

    def entry(self, name: str, file_name: str, answer: Answer) -> str:
        return cvat_image(answer, file_name, self.run.instances, self.run.smallest)

    def write_all(self) -> None:
        labels = json.dumps(cvat_labels(self.run.names), indent=1)
        write_text(self.run.folder / "cvat_labels.json", labels + "\n")
        lines = cvat_lines(self.run.names, self.journal.entries(), len(self.journal))
        _write_lines(self.run.folder / "cvat.xml", lines)


def _write_lines(target: Path, lines: Iterable[str]) -> None:
    """Write a text file piece by piece, in full or not at all."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)

    write_atomically(target, write)
