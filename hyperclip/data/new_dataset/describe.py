"""From two folders to the text of a dataset file that passes the framework's own check."""

import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...runtime.files import write_text
from ..annotations.formats import FORMATS
from ..annotations.source import AnnotationSource, Key
from ..checking import check_dataset
from ..dataset_file import read_dataset_file
from ..label_maps import LabelMap
from ..layouts import Layout
from ..records import first_faults
from . import annotated, masks
from .annotated import names_of
from .found import FoundLabels, with_names
from .kinds import KINDS, MASKS, find_kind
from .matching import Matched, decide_orientation, leave_out_other_sizes, match
from .yaml_text import Content, dataset_yaml

SAMPLES = 20
"""So many images are opened with their labels before the file is written."""


@dataclass(frozen=True)
class Request:
    """What the owner of a dataset says.

    Attributes:
        images: a folder. labels: a folder, or COCO's JSON file.
        output: the dataset file to write. name: of the dataset.
        format: one of ``KINDS``; "" to find it out. png_folder: of COCO's panoptic PNGs; "" for
            the folder beside the JSON file of the same name.
        names: a file with the names of values; None for none.
        orientation: "stored", "applied", or "" to find it out.
        hold_out: every so manieth image is for validation; 0 for none.
    """

    images: Path
    labels: Path
    output: Path
    name: str
    format: str = ""
    png_folder: str = ""
    names: Path | None = None
    orientation: str = ""
    hold_out: int = 5


@dataclass
class Description:
    """What to write, and what to tell. ``files``: text by path, the dataset file last."""

    format: str
    found: FoundLabels
    images: dict[str, int]
    left_out: list[str]
    files: dict[Path, str] = field(default_factory=dict)


def describe_dataset(request: Request) -> Description:
    """Look at images and labels, and describe them; nothing is written.

    Raises FileNotFoundError for a folder that is not there, and ValueError for labels that are
    damaged, of no known format, or of no image.
    """
    if not request.images.is_dir():
        got = f"got {str(request.images)!r}, which is no folder"
        raise FileNotFoundError(f"IMAGES: {got}; expected a folder of images")
    if request.format:
        _need(request)
        kind, labels = request.format, request.labels
    else:
        kind, labels = find_kind(request.images, request.labels)
    found, matched = _look(request, kind, labels)
    splits = split(matched.records, request.hold_out)
    description = Description(
        kind, found, {name: len(records) for name, records in splits.items()}, matched.left_out
    )
    listed = len(splits) > 1 or bool(matched.left_out)
    lists = {name: f"{request.output.stem}_{name}.txt" for name in splits} if listed else {}
    for name, file in lists.items():
        text = "".join(f"{record['name']}\n" for record in splits[name])
        description.files[request.output.parent / file] = text
    content = _content(request, matched, description, labels, lists)
    description.files[request.output] = dataset_yaml(content)
    _check(content, description, request.output)
    return description


def _need(request: Request) -> None:
    """ValueError for a format that is none, FileNotFoundError for labels that are not there."""
    if request.format not in KINDS:
        raise ValueError(f"--format: got {request.format!r}, expected one of {list(KINDS)}")
    wants_file = "file" in FORMATS[request.format].paths if request.format in FORMATS else False
    there = request.labels.is_file() if wants_file else request.labels.is_dir()
    if not there:
        expected = f"expected a {'JSON file' if wants_file else 'folder'} for --format"
        raise FileNotFoundError(f"MASKS: got {str(request.labels)!r}, {expected} {request.format}")


def _look(request: Request, kind: str, labels: Path) -> tuple[FoundLabels, Matched]:
    """Classes and matching files; the size of each label is its image's."""
    found = FoundLabels()
    if kind in ("coco", "coco_panoptic"):
        read = annotated.coco_classes if kind == "coco" else annotated.panoptic_classes
        found = read(labels)
    folder = str(_png_folder(request, labels)) if kind == "coco_panoptic" else ""
    source = _source(kind, found, folder)
    layout = Layout(_text(request.images), _text(labels), LabelMap({}), source=source)
    matched = match(layout, Path(os.path.abspath(request.images)))
    orientation = decide_orientation(matched.records, request.orientation)
    leave_out_other_sizes(matched, orientation)
    if not found.classes:
        found = _classes_of_files(kind, matched, labels, orientation)
    if request.names:
        found = with_names(found, names_of(request.names))
    if not found.names:
        raise ValueError("no class was found: no label has a region that counts")
    for record in matched.records:
        record["orientation"] = orientation
    return found, matched


def _classes_of_files(kind: str, matched: Matched, labels: Path, orientation: str) -> FoundLabels:
    paths = [Path(record["sem_seg_file_name"]) for record in matched.records]
    if kind == MASKS:
        return masks.index_classes(paths, orientation)
    if kind == "colours":
        return masks.colour_classes(paths, orientation)
    if kind == "labelme":
        return annotated.labelme_classes(paths)
    return annotated.yolo_classes(paths, labels)


def _text(path: Path) -> str:
    return os.path.abspath(path)


def _png_folder(request: Request, labels: Path) -> Path:
    folder = Path(_text(Path(request.png_folder) if request.png_folder else labels.with_suffix("")))
    if not folder.is_dir():
        problem = f"no folder {str(folder)!r} of the PNGs that {labels.name} names"
        raise FileNotFoundError(f"MASKS: {problem}. Name it by --png-folder")
    return folder


def _source(kind: str, found: FoundLabels, folder: str) -> AnnotationSource | None:
    """What reads the labels while they are looked at."""
    if kind == MASKS:
        return None
    values: dict[Key, int] = {one.key: k for k, one in enumerate(found.classes)}
    return FORMATS[kind](values, len(values), len(values) + 1, folder)


def split(records: list[dict[str, Any]], hold_out: int) -> dict[str, list[dict[str, Any]]]:
    """Records for "train" and for "val", every ``hold_out``-th of them, or all for "train"."""
    held = records[hold_out - 1 :: hold_out] if hold_out else []
    if not held or len(held) == len(records):
        return {"train": records}
    names = {record["name"] for record in held}
    return {"train": [r for r in records if r["name"] not in names], "val": held}


def _content(
    request: Request, matched: Matched, found: Description, labels: Path, lists: dict[str, str]
) -> Content:
    """What the dataset file says, with paths below the folder that holds images and labels."""
    layout = matched.layout
    pngs = [layout.source.folder] if layout.source and layout.source.folder else []
    places = [layout.images, layout.labels, *pngs]
    root = Path(os.path.commonpath(places))
    root = root.parent if root.is_file() else root
    images, place, *below = (Path(os.path.relpath(one, root)).as_posix() for one in places)
    entry: str | dict[str, str] = place
    if found.format != MASKS:
        key = "file" if labels.is_file() else "folder"
        entry = {"format": found.format, key: place}
        if below:
            entry["folder"] = below[0]
    shared: dict[str, Any] = {"images": images, "labels": entry}
    for key in ("image_affix", "label_affix"):
        if any(getattr(layout, key)):
            shared[key] = getattr(layout, key)
    splits = {name: {**shared, **({"list": lists[name]} if lists else {})} for name in found.images}
    return Content(
        request.name,
        relative_root(root, request.output.parent),
        found.format,
        splits,
        found.found,
        matched.records[0]["orientation"],
        tuple(matched.left_out),
    )


def relative_root(root: Path, folder: Path) -> str:
    """How a dataset file in a folder names its root: relative, unless they share no folder.

    Links are followed first, since ".." behind a link is another folder.
    """
    root, folder = Path(os.path.realpath(root)), Path(os.path.realpath(folder))
    shared = Path(os.path.commonpath([root, folder]))
    if shared == shared.parent:
        return root.as_posix()
    return Path(os.path.relpath(root, folder)).as_posix()


def _check(content: Content, description: Description, output: Path) -> None:
    """ValueError with the faults that the framework's own check finds."""
    root = (output.parent / content.root).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in description.files.items():
            write_text(folder / path.name, text)
        file = folder / output.name
        write_text(file, dataset_yaml(replace(content, root=root.as_posix())))
        for spec in read_dataset_file(file):
            report = check_dataset(spec, SAMPLES)
            if report.status != "ready":
                raise ValueError(
                    f"the description does not pass the check: {first_faults(report.faults)}"
                )
