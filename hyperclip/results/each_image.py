"""Formats with files of their own for each image."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..runtime.files import write_atomically, write_text
from .answer import Answer
from .cityscapes import cityscapes, cityscapes_meta, need_cityscapes_names
from .labelme import labelme_document
from .voc import need_voc_names, voc, voc_labelmap
from .writer import Writer


class LabelMeWriter(Writer):
    """``labelme/NAME.json`` of each image."""

    format = "labelme"

    def files(self, name: str) -> list[Path]:
        return [self.run.folder / "labelme" / f"{name}.json"]

    def entry(self, name: str, file_name: str, answer: Answer) -> None:
        document = labelme_document(answer, file_name, self.run.instances, self.run.smallest)
        write_text(self.files(name)[0], json.dumps(document))

    def write_all(self) -> None:
        """Each file is there."""


class ArrayWriter(Writer):
    """``npz/NAME.npz`` of each image: labels, confidence, names."""

    format = "npz"

    def files(self, name: str) -> list[Path]:
        return [self.run.folder / "npz" / f"{name}.npz"]

    def entry(self, name: str, file_name: str, answer: Answer) -> None:
        write_arrays(self.files(name)[0], answer)

    def write_all(self) -> None:
        """Each file is there."""


class VocWriter(Writer):
    """``voc/SegmentationClass/NAME.png`` of each image, ``voc/labelmap.txt``, and the list of the
    images in ``voc/ImageSets/Segmentation/default.txt``.
    """

    format = "voc"
    is_text = True
    checks = (need_voc_names,)

    def files(self, name: str) -> list[Path]:
        return [self.run.folder / "voc" / "SegmentationClass" / f"{name}.png"]

    def entry(self, name: str, file_name: str, answer: Answer) -> None:
        if name != name.strip() or name.startswith("#"):
            raise OSError(f"voc cannot list the file name {name!r}. Rename it")
        save_png(self.files(name)[0], voc(answer).mask)

    def write_all(self) -> None:
        folder = self.run.folder / "voc"
        write_text(folder / "labelmap.txt", voc_labelmap(self.run.names))
        lines = "".join(f"{name}\n" for name in self.journal.names())
        write_text(folder / "ImageSets" / "Segmentation" / "default.txt", lines)


class CityscapesWriter(Writer):
    """``NAME_gtFine_labelIds.png``, ``_instanceIds.png`` and ``_color.png`` of each image in
    ``cityscapes/gtFine/default``, and ``cityscapes/dataset_meta.json``.
    """

    format = "cityscapes"
    checks = (need_cityscapes_names,)

    def files(self, name: str) -> list[Path]:
        folder = self.run.folder / "cityscapes" / "gtFine" / "default"
        kinds = ("labelIds", "instanceIds", "color")
        return [folder / f"{name}_gtFine_{kind}.png" for kind in kinds]

    def entry(self, name: str, file_name: str, answer: Answer) -> None:
        label_ids, colors, _ = cityscapes(answer)
        pictures = [Image.fromarray(picture) for picture in (label_ids, label_ids, colors)]
        for target, picture in zip(self.files(name), pictures, strict=True):
            save_png(target, picture)

    def write_all(self) -> None:
        meta = json.dumps(cityscapes_meta(self.run.names))
        write_text(self.run.folder / "cityscapes" / "dataset_meta.json", meta)


def write_arrays(target: Path, answer: Answer) -> None:
    """Write labels, confidence and names for ``numpy.load``, in full or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # NumPy would add a suffix to a path
            names = np.array(answer.names, dtype=np.str_)
            np.savez_compressed(
                file, labels=answer.labels, confidence=answer.confidence, names=names
            )

    write_atomically(target, write)


def save_png(target: Path, picture: Image.Image) -> None:
    """Write a PNG, in full or not at all."""
    write_atomically(target, lambda part: picture.save(part, format="PNG"))
