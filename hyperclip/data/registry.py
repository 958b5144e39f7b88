"""The registered datasets, one table. Each row knows its folders, its vocabulary and how its labels are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..vocabulary import Vocabulary, builtin
from . import tinyscenes
from .labels import IGNORE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    Attributes:
        name: what configs call it (CAT-Seg's name where it has one).
        images: image folder below the root.
        labels: candidate label folders below the root, each with the remap that its values need (None: class
            indices). The first that exists is used.
        vocabulary: a built-in class list, or "tinyscenes:<part>".
        help: how to get the data.
        ignore: label of pixels without a class.
    """

    name: str
    images: str
    labels: tuple[tuple[str, str | None], ...]
    vocabulary: str
    help: str
    ignore: int = IGNORE


_COCO_HELP = "download COCO 2017 images and stuffthingmaps_trainval2017, see datasets/README.md"
_TINY_HELP = "run: python datasets/prepare_tinyscenes.py"


def _coco_stuff(name: str, split: str) -> DatasetSpec:
    labels = ((f"coco-stuff/annotations_detectron2/{split}", None), (f"coco-stuff/annotations/{split}", "coco_stuff"))
    return DatasetSpec(name, f"coco-stuff/images/{split}", labels, "coco_stuff", _COCO_HELP)


def _tinyscenes(split: str, part: str) -> DatasetSpec:
    labels = ((f"tinyscenes/{split}/labels", None),)
    return DatasetSpec(f"tinyscenes_{split}", f"tinyscenes/{split}/images", labels, f"tinyscenes:{part}", _TINY_HELP)


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        _coco_stuff("coco_2017_train_stuff_all_sem_seg", "train2017"),
        _coco_stuff("coco_2017_test_stuff_all_sem_seg", "val2017"),
        *(_tinyscenes(split, s.part) for split, s in tinyscenes.SPLITS.items()),
    )
}


def dataset_root() -> Path:
    """Folder of all datasets: the environment variable DETECTRON2_DATASETS, read at every call, or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def load_records(spec: DatasetSpec) -> list[dict]:
    """Detectron2's records of a dataset: file_name, sem_seg_file_name, label_remap, image_id.

    Raises:
        FileNotFoundError: a folder is missing (it says which, and how to get the data).
        ValueError: images without a label or labels without an image; the first 20 are listed.
    """
    root = dataset_root()
    images = root / spec.images
    labels, remap = next(((root / f, r) for f, r in spec.labels if (root / f).is_dir()), (None, None))
    if not images.is_dir() or labels is None:
        tried = [str(images), *(str(root / folder) for folder, _ in spec.labels)]
        raise FileNotFoundError(
            f"dataset {spec.name}: expected its folders {tried} (one of the label folders is enough). To get them: "
            f"{spec.help}. The root is the environment variable DETECTRON2_DATASETS, now {str(root)!r}"
        )
    by_stem = {p.stem: p for p in sorted(images.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
    label_of = {p.stem: p for p in sorted(labels.iterdir()) if p.suffix.lower() in LABEL_SUFFIXES}
    faults = [f"no label for {by_stem[s]}" for s in by_stem if s not in label_of]
    faults += [f"no image for {label_of[s]}" for s in label_of if s not in by_stem]
    if faults or not by_stem:
        listed = "\n  ".join(faults[:20]) or "no image at all"
        raise ValueError(
            f"dataset {spec.name} in {str(root)!r}: {len(by_stem)} images, {len(faults)} without a counterpart:\n  {listed}"
        )
    return [
        {"file_name": str(p), "sem_seg_file_name": str(label_of[s]), "label_remap": remap, "image_id": s}
        for s, p in by_stem.items()
    ]


def vocabulary_of(dataset: str) -> Vocabulary:
    """The vocabulary of a registered dataset; a dataset registered elsewhere gives its ``stuff_classes``.

    Raises:
        ValueError: a dataset that nobody registered.
    """
    if dataset in DATASETS:
        name = DATASETS[dataset].vocabulary
        if name.startswith("tinyscenes:"):
            part = name.split(":")[1]
            return Vocabulary.from_names(tinyscenes.class_names(part), f"tinyscenes_{part}", "1")
        return builtin(name)
    if dataset not in DatasetCatalog.list():
        raise ValueError(f"dataset: got {dataset!r}, expected one of {sorted(DATASETS)}, or one that you registered")
    return Vocabulary.from_names(list(MetadataCatalog.get(dataset).stuff_classes), dataset)


def register_all() -> None:
    """Register every row with Detectron2. Nothing is read from disk before a dataset is used."""
    for spec in DATASETS.values():
        if spec.name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(spec.name, lambda spec=spec: load_records(spec))
        names = vocabulary_of(spec.name).names
        MetadataCatalog.get(spec.name).set(evaluator_type="sem_seg", ignore_label=spec.ignore, stuff_classes=names)


register_all()
