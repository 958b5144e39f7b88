"""From a dataset's folders to Detectron2's records: which image belongs to which label, and what is
wrong with the tree.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from .image_files import IMAGE_SUFFIXES
from .label_maps import HALVES
from .layouts import Layout
from .pairing import ListReader, find_files, find_path, kinds_of, left_out, read_list, walk
from .registry import DatasetSpec, dataset_root

__all__ = [
    "IMAGE_SUFFIXES",
    "LISTED_FAULTS",
    "Pairing",
    "find_layouts",
    "load_records",
    "make_records",
    "pair_files",
    "read_list",
    "require_no_faults",
]

logger = logging.getLogger("hyperclip.data")

LISTED_FAULTS = 20


@dataclass(frozen=True)
class Pairing:
    """Images and labels of a dataset.

    Attributes:
        layout: the one that was found. pairs: (key, image, label), sorted by key.
        faults: a line for each file without its counterpart, or that is there twice.
    """

    layout: Layout
    pairs: list[tuple[str, Path, Path]]
    faults: list[str]


def load_records(spec: DatasetSpec) -> list[dict]:
    """Detectron2's records: file_name, sem_seg_file_name, label_map, image_id, "half" where images
    are cut, and what the dataset says of its files: "orientation", "image_bits", "max_pixels".

    A number of images that is not the official one is logged as a warning.

    Raises:
        FileNotFoundError: no accepted layout is there (it says which were looked for, and how to
            get the data).
        ValueError: files without a counterpart, or twice; the first 20 are listed.
    """
    found = pair_files(spec)
    require_no_faults(spec, found)
    records = make_records(spec, found)
    if spec.images and len(records) not in spec.images:
        root = spec.root or dataset_root()
        logger.warning(
            "%s is incomplete: %d of %d images in %s", spec.name, len(records), spec.images[0], root
        )
    return records


def require_no_faults(spec: DatasetSpec, found: Pairing) -> None:
    """ValueError with the first 20 faults if there are any, or if there is no image."""
    if not found.faults and found.pairs:
        return
    notes = left_out(*kinds_of(found.layout, spec.root or dataset_root()))
    listed = "\n  ".join([*(found.faults[:LISTED_FAULTS] or ["no image at all"]), *notes])
    raise ValueError(
        f"dataset {spec.name} in {str(spec.root or dataset_root())!r}: {len(found.pairs)} images "
        f"with labels, {len(found.faults)} faults:\n  {listed}"
    )


def make_records(spec: DatasetSpec, found: Pairing) -> list[dict]:
    """Detectron2's records of matched files, see :func:`load_records`."""
    said = {
        "orientation": spec.orientation,
        "image_bits": spec.image_bits,
        "max_pixels": spec.max_pixels,
    }
    said = {key: value for key, value in said.items() if value}
    label_map = found.layout.label_map
    records = [
        {
            "file_name": str(image),
            "sem_seg_file_name": str(label),
            "label_map": label_map,
            "image_id": key,
            **said,
        }
        for key, image, label in found.pairs
    ]
    if not spec.halves:
        return records
    return [
        {**r, "half": half, "image_id": f"{r['image_id']}_{half}"}
        for r in records
        for half in HALVES
    ]


def pair_files(spec: DatasetSpec) -> Pairing:
    """Match a dataset's images with its labels, in the first layout that is complete, or else in
    the one that comes closest.

    Nothing is opened but the list of the split.

    Raises:
        FileNotFoundError: see :func:`load_records`. ValueError: a list that is no text file.
    """
    root = spec.root or dataset_root()
    candidates = []
    for layout in find_layouts(spec, root):
        found = _pair(layout, root)
        samples = len(found.pairs) * (len(HALVES) if spec.halves else 1)
        if not found.faults and (not spec.images or samples in spec.images):
            return found
        candidates.append(found)
    return max(candidates, key=lambda found: (not found.faults, len(found.pairs)))


def _pair(layout: Layout, root: Path) -> Pairing:
    faults: list[str] = []
    kinds = kinds_of(layout, root)
    images, labels = find_files(*kinds, faults)
    split = next((path for name in layout.lists if (path := find_path(root, name)).is_file()), None)
    if split is not None:
        pairs = ListReader(split, *kinds, images, labels).pairs(read_list(split), faults)
        return Pairing(layout, [(i, images[i], labels[k]) for i, k in pairs], faults)
    keys = sorted(images.keys() | labels.keys())
    faults += [f"no image for {labels[key]}" for key in keys if key not in images]
    if layout.superset:
        keys = [key for key in keys if key in labels]
    faults += [f"no label for {images[key]}" for key in keys if key not in labels]
    return Pairing(
        layout, [(k, images[k], labels[k]) for k in keys if k in images and k in labels], faults
    )


def find_layouts(spec: DatasetSpec, root: Path) -> list[Layout]:
    """The accepted layouts whose folders, and one of whose lists, are there.

    Raises:
        FileNotFoundError: none is.
    """
    found, missing = [], []
    for layout in spec.layouts:
        images, labels = kinds_of(layout, root)
        folders = ((images.folder, layout.images), (labels.folder, layout.labels))
        absent = [f"folder {name}" for folder, name in folders if not folder.is_dir()]
        if layout.lists and not any(find_path(root, name).is_file() for name in layout.lists):
            absent.append(f"list {' or '.join(layout.lists)}")
        elif not absent and not any(map(labels.takes, walk(labels.folder))):
            label = "*".join(layout.label_affix)
            absent.append(
                "; ".join([f"label {label} in {layout.labels}", *left_out(images, labels)])
            )
        if not absent:
            found.append(layout)
        missing.append(f"{layout.images} with {layout.labels}: no {', no '.join(absent)}")
    if found:
        return found
    if spec.root:
        how = f"To get it: {spec.help}"
    else:
        how = (
            f"To get it: {spec.help} (datasets/README.md). The root is the environment variable "
            "DETECTRON2_DATASETS"
        )
    listed = "\n  ".join(missing)
    raise FileNotFoundError(
        f"dataset {spec.name}: not found below {str(root)!r}. Accepted are\n  {listed}\n{how}"
    )
