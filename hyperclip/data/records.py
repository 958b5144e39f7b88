"""From a data set's folders to Detectron2's records: which picture belongs to which label, and what is wrong with the tree."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from .labels import HALVES
from .layouts import Layout
from .registry import DatasetSpec, dataset_root

logger = logging.getLogger("hyperclip.data")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
LISTED_FAULTS = 20


@dataclass(frozen=True)
class Pairing:
    """Pictures and labels of a data set.

    Attributes:
        layout: the one that was found. pairs: (key, image, label), sorted by key.
        faults: a line for each file without its counterpart, or that is there twice.
    """

    layout: Layout
    pairs: list[tuple[str, Path, Path]]
    faults: list[str]


def load_records(spec: DatasetSpec) -> list[dict]:
    """Detectron2's records: file_name, sem_seg_file_name, label_map, image_id, and "half" where pictures are cut.

    A number of pictures that is not the official one is logged as a warning.

    Raises:
        FileNotFoundError: no accepted layout is there (it says which were looked for, and how to get the data).
        ValueError: files without a counterpart, or twice; the first 20 are listed.
    """
    found = pair_files(spec)
    require_no_faults(spec, found)
    records = make_records(spec, found)
    if spec.images and len(records) not in spec.images:
        root = spec.root or dataset_root()
        logger.warning("%s is incomplete: %d of %d pictures in %s", spec.name, len(records), spec.images[0], root)
    return records


def require_no_faults(spec: DatasetSpec, found: Pairing) -> None:
    """ValueError with the first 20 faults if there are any, or if there is no picture."""
    if not found.faults and found.pairs:
        return
    listed = "\n  ".join(found.faults[:LISTED_FAULTS]) or "no picture at all"
    raise ValueError(
        f"dataset {spec.name} in {str(spec.root or dataset_root())!r}: {len(found.pairs)} pictures with labels, "
        f"{len(found.faults)} faults:\n  {listed}"
    )


def make_records(spec: DatasetSpec, found: Pairing) -> list[dict]:
    """Detectron2's records of matched files, see :func:`load_records`."""
    records = [
        {"file_name": str(image), "sem_seg_file_name": str(label), "label_map": found.layout.label_map, "image_id": key}
        for key, image, label in found.pairs
    ]
    if not spec.halves:
        return records
    return [{**r, "half": half, "image_id": f"{r['image_id']}_{half}"} for r in records for half in HALVES]


def pair_files(spec: DatasetSpec) -> Pairing:
    """Match a data set's pictures with its labels, in the first layout that is complete, or else in the one that comes closest.

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
    images = _files_by_key(root / layout.images, IMAGE_SUFFIXES, layout.image_affix, faults)
    labels = _files_by_key(root / layout.labels, LABEL_SUFFIXES, layout.label_affix, faults)
    split = next((root / name for name in layout.lists if (root / name).is_file()), None)
    if split is not None:
        keys = [_key_of_line(line, images.keys() | labels.keys(), layout.image_affix) for line in read_list(split)]
        faults += [f"{key} is twice in {split}" for key in sorted(k for k, n in Counter(keys).items() if n > 1)]
        faults += [] if keys else [f"{split} is empty"]
        keys = sorted(set(keys))
        faults += [f"no image for {key}, listed in {split}" for key in keys if key not in images]
        faults += [f"no label for {key}, listed in {split}" for key in keys if key not in labels]
    else:
        keys = sorted(images.keys() | labels.keys())
        faults += [f"no image for {labels[key]}" for key in keys if key not in images]
        if layout.superset:
            keys = [key for key in keys if key in labels]
        faults += [f"no label for {images[key]}" for key in keys if key not in labels]
    return Pairing(layout, [(k, images[k], labels[k]) for k in keys if k in images and k in labels], faults)


def find_layouts(spec: DatasetSpec, root: Path) -> list[Layout]:
    """The accepted layouts whose folders, and one of whose lists, are there.

    Raises:
        FileNotFoundError: none is.
    """
    found, missing = [], []
    for layout in spec.layouts:
        absent = [f"folder {folder}" for folder in (layout.images, layout.labels) if not (root / folder).is_dir()]
        if layout.lists and not any((root / name).is_file() for name in layout.lists):
            absent.append(f"list {' or '.join(layout.lists)}")
        elif not absent and not any(_walk(root / layout.labels, LABEL_SUFFIXES, layout.label_affix)):
            absent.append(f"label {'*'.join(layout.label_affix)} in {layout.labels}")
        if not absent:
            found.append(layout)
        missing.append(f"{layout.images} with {layout.labels}: no {', no '.join(absent)}")
    if found:
        return found
    if spec.root:
        how = f"To get it: {spec.help}"
    else:
        how = f"To get it: {spec.help} (datasets/README.md). The root is the environment variable DETECTRON2_DATASETS"
    listed = "\n  ".join(missing)
    raise FileNotFoundError(f"dataset {spec.name}: not found below {str(root)!r}. Accepted are\n  {listed}\n{how}")


def read_list(path: Path) -> list[str]:
    """Lines of a list that are not empty.

    Raises:
        ValueError: not a text file.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"list {str(path)!r} is no text file: {error}") from error


def _key_of_line(line: str, known: Set[str], affix: tuple[str, str]) -> str:
    """The key that a line of a list names: the whole line, or its first word, with or without a suffix and the affixes."""
    for name in (line, line.split()[0]):
        bare = name.rsplit(".", 1)[0] if name.lower().endswith(IMAGE_SUFFIXES + LABEL_SUFFIXES) else name
        for key in (bare, _without_affix(bare, affix)):
            if key in known:
                return key
    return _without_affix(bare, affix)


def _walk(folder: Path, suffixes: tuple[str, ...], affix: tuple[str, str]) -> Iterator[Path]:
    """Files below a folder, links followed, with one of the suffixes and the affixes."""
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(parent) / name
            if path.suffix.lower() in suffixes and path.stem.startswith(affix[0]) and path.stem.endswith(affix[1]):
                yield path


def _files_by_key(folder: Path, suffixes: tuple[str, ...], affix: tuple[str, str], faults: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(_walk(folder, suffixes, affix)):
        key = _without_affix(path.relative_to(folder).with_suffix("").as_posix(), affix)
        if key in found:
            faults.append(f"{found[key]} and {path} have the same name")
        else:
            found[key] = path
    return found


def _without_affix(key: str, affix: tuple[str, str]) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.removeprefix(affix[0]).removesuffix(affix[1])
