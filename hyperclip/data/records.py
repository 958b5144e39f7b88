"""From a dataset's folders to Detectron2's records, or to what is wrong with the folders."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from .annotations.source import FolderSource, IndexSource, LabelReader
from .label_maps import HALVES
from .layouts import Layout
from .pairing import Kind, ListReader, find_files, find_listed, find_path, kinds_of, left_out, walk
from .registry import DatasetSpec

logger = logging.getLogger("hyperclip.data")

LISTED_FAULTS = 20
READING_KEYS = ("orientation", "image_bits", "max_pixels")
"""Fields of a dataset that its records repeat, since they say how to read its files."""


@dataclass(frozen=True)
class Pairing:
    """Images and labels of a layout: (key, image, label), sorted by key, and a line of ``faults``
    for each file without its counterpart, or that is there twice. By the key of an image,
    ``readers`` read labels that are no masks of indices.
    """

    layout: Layout
    kinds: tuple[Kind, Kind]
    pairs: list[tuple[str, Path, Path]]
    faults: list[str]
    readers: dict[str, LabelReader] = field(default_factory=dict)


def first_faults(faults: list[str], indent: str = "") -> str:
    """The first 20 faults, one a line, and how many more there are."""
    more = [f"… and {len(faults) - LISTED_FAULTS} more"] if len(faults) > LISTED_FAULTS else []
    return f"\n{indent}".join(faults[:LISTED_FAULTS] + more)


def load_records(spec: DatasetSpec) -> list[dict]:
    """Detectron2's records: file_name, sem_seg_file_name, label_map, image_id, "half" where images
    are cut, "label_reader" for annotations, and what the dataset says of its files: "orientation",
    "image_bits", "max_pixels".

    Logs a warning if the number of images is not the official one. Raises FileNotFoundError if no
    accepted layout is there, and ValueError with the first 20 faults of :func:`pair_files`.
    """
    found = pair_files(spec)
    require_no_faults(spec, found)
    records = make_records(spec, found)
    if spec.images and len(records) not in spec.images:
        counts = len(records), spec.images[0]
        logger.warning("%s is incomplete: %d of %d images in %s", spec.name, *counts, spec.folder)
    return records


def require_no_faults(spec: DatasetSpec, found: Pairing) -> None:
    """ValueError with the first 20 faults if there are any, or if there is no image."""
    if not found.faults and found.pairs:
        return
    notes = left_out(*found.kinds)
    listed = "\n  ".join([*(found.faults[:LISTED_FAULTS] or ["no image at all"]), *notes])
    raise ValueError(
        f"dataset {spec.name} in {str(spec.folder)!r}: {len(found.pairs)} images with labels, "
        f"{len(found.faults)} faults:\n  {listed}"
    )


def make_records(spec: DatasetSpec, found: Pairing) -> list[dict]:
    """Detectron2's records of matched files, see :func:`load_records`."""
    reading = {key: getattr(spec, key) for key in READING_KEYS if getattr(spec, key)}
    reading["label_map"] = found.layout.label_map
    records: list[dict] = []
    for key, image, label in found.pairs:
        names = {"file_name": str(image), "sem_seg_file_name": str(label)}
        record = {**names, **reading, "image_id": key}
        if reader := found.readers.get(key):
            record["label_reader"] = reader
        if spec.halves:
            records += [{**record, "half": half, "image_id": f"{key}_{half}"} for half in HALVES]
        else:
            records.append(record)
    return records


def pair_files(spec: DatasetSpec) -> Pairing:
    """Match images with labels in the first complete layout, or else in the one closest to that.

    Nothing is opened but the list of the split and a file of all annotations. Raises
    FileNotFoundError as :func:`load_records`, and ValueError for a list that is no text file, or
    annotations that are none.
    """
    candidates = []
    for layout in layouts_found(spec):
        found = pair_layout(layout, spec.folder)
        if not found.faults and (not spec.images or len(make_records(spec, found)) in spec.images):
            return found
        candidates.append(found)
    return max(candidates, key=lambda found: (not found.faults, len(found.pairs)))


def pair_layout(layout: Layout, root: Path) -> Pairing:
    """Match the images of a layout with its labels; raises as :func:`pair_files` does."""
    faults: list[str] = []
    kinds = kinds_of(layout, root)
    readers: dict[str, LabelReader] = {}
    if isinstance(layout.source, IndexSource):
        readers = find_listed(layout.source, root, *kinds, faults)
    else:
        find_files(*kinds, faults)
    if isinstance(layout.source, FolderSource):
        readers = dict.fromkeys(kinds[1].files, layout.source.reader())
    images, labels = (kind.files for kind in kinds)
    split = next((path for name in layout.lists if (path := find_path(root, name)).is_file()), None)
    if split is not None:
        keys = ListReader(split, *kinds).pairs(faults)
    else:
        faults += [f"no image for {labels[key]}" for key in sorted(labels.keys() - images.keys())]
        if not layout.superset:
            alone = sorted(images.keys() - labels.keys())
            faults += [f"no label for {images[key]}" for key in alone]
        keys = [(key, key) for key in sorted(images.keys() & labels.keys())]
    pairs = [(i, images[i], labels[k]) for i, k in keys]
    used = {i: readers[k] for i, k in keys} if readers else {}
    return Pairing(layout, kinds, pairs, faults, used)


def layouts_found(spec: DatasetSpec) -> list[Layout]:
    """The accepted layouts that are there. Raises FileNotFoundError if none is."""
    absent = {layout: _what_is_absent(layout, spec.folder) for layout in spec.layouts}
    if found := [layout for layout in spec.layouts if not absent[layout]]:
        return found
    lines = [f"dataset {spec.name}: not found below {str(spec.folder)!r}. Accepted are"]
    lines += [f"  {x.images} with {x.labels}: no {', no '.join(no)}" for x, no in absent.items()]
    root = "(datasets/README.md). The root is the environment variable DETECTRON2_DATASETS"
    lines.append(f"To get it: {spec.help}" if spec.root else f"To get it: {spec.help} {root}")
    raise FileNotFoundError("\n".join(lines))


def _what_is_absent(layout: Layout, root: Path) -> list[str]:
    """Folders, list and labels of a layout that are not there, in words."""
    images, labels = kinds_of(layout, root)
    if isinstance(layout.source, IndexSource):
        absent = [] if find_path(root, layout.images).is_dir() else [f"folder {layout.images}"]
        return absent + ([] if labels.folder.is_file() else [f"file {layout.labels}"])
    names = layout.images, layout.labels
    absent = [f"folder {name}" for name in names if not find_path(root, name).is_dir()]
    if layout.lists and not any(find_path(root, name).is_file() for name in layout.lists):
        absent.append(f"list {' or '.join(layout.lists)}")
    elif not absent and not any(map(labels.takes, walk(labels.folder))):
        label = f"label {'*'.join(layout.label_affix)} in {layout.labels}"
        absent.append("; ".join([label, *left_out(images, labels)]))
    return absent
