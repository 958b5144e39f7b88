"""Which images have a label of the same size, and what is to be told of the others."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..annotations.source import IndexSource
from ..image_files import ORIENTATIONS, exif_orientation, image_size
from ..layouts import Layout
from ..pairing import Kind
from ..records import Pairing, pair_layout


@dataclass
class Matched:
    """Images that have labels, as Detectron2's records, the layout by which they were found, and
    lines on what was left out.
    """

    layout: Layout
    records: list[dict[str, Any]]
    left_out: list[str] = field(default_factory=list)


def match(layout: Layout, root: Path) -> Matched:
    """Match images with labels; names of labels may go on behind those of images, or begin before.

    Raises what :func:`pair_layout` does, and ValueError if no image has a label, or a name is there
    twice.
    """
    found = pair_layout(layout, root)
    images, labels = found.kinds
    if not found.pairs and not isinstance(layout.source, IndexSource):
        layout = _with_affixes(layout, images, labels)
        found = pair_layout(layout, root)
    images, labels = found.kinds
    alone = sorted(images.files.keys() - labels.files.keys())
    spare = sorted(labels.files.keys() - images.files.keys())
    others = [f for f in found.faults if not f.startswith(("no image for", "no label for"))]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise ValueError(f"{others[0]}{more}. Rename or remove one of each")
    if not found.pairs:
        raise ValueError(_nothing_matches(images, labels))
    matched = Matched(layout, _records(found))
    if alone:
        what = f"images without a label, left out: {len(alone)} ({_some(alone)})"
        matched.left_out.append(f"{what}. Label them, or remove them")
    if spare:
        what = f"labels without an image, left out: {len(spare)} ({_some(spare)})"
        matched.left_out.append(f"{what}. Add the images, or rename the labels after them")
    return matched


def _records(found: Pairing) -> list[dict[str, Any]]:
    return [
        {
            "file_name": str(image),
            "sem_seg_file_name": str(label),
            "image_id": key,
            "name": image.relative_to(found.kinds[0].folder).as_posix(),
            **({"label_reader": found.readers[key]} if key in found.readers else {}),
        }
        for key, image, label in found.pairs
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _nothing_matches(images: Kind, labels: Kind) -> str:
    if not images.files:
        return f"IMAGES: no image in {str(images.folder)!r}; expected photos there"
    if not labels.files:
        return f"MASKS: no label in {str(labels.folder)!r}; expected one for each image"
    return (
        f"no image has a label: images are such as {min(images.files)!r}, labels such as "
        f"{min(labels.files)!r}; expected the same names, but for suffixes and what all images, or "
        "all labels, have before or behind. Rename them, or write image_affix and label_affix into "
        "a dataset file by hand (datasets/README.md)"
    )


def _with_affixes(layout: Layout, images: Kind, labels: Kind) -> Layout:
    """The layout with the affixes by which most labels belong to an image."""
    longer = _affix(images.files, labels.files)
    if longer:
        return replace(layout, label_affix=longer)
    shorter = _affix(labels.files, images.files)
    return replace(layout, image_affix=shorter) if shorter else layout


def _affix(short: Iterable[str], long: Iterable[str]) -> tuple[str, str] | None:
    """What the last parts of names have before and behind those of shorter ones, most often."""
    stems = {name.rpartition("/")[2] for name in short}
    often: Counter[tuple[str, str]] = Counter()
    for name in long:
        stem = name.rpartition("/")[2]
        cuts = ((i, j) for i in range(len(stem)) for j in range(i + 1, len(stem) + 1))
        inside = [(j - i, i, j) for i, j in cuts if stem[i:j] in stems]
        if inside:
            _, start, end = max(inside)
            often[stem[:start], stem[end:]] += 1
    return often.most_common(1)[0][0] if often else None


def decide_orientation(records: list[dict[str, Any]], given: str) -> str:
    """What labels follow where EXIF turns an image; "" if none is turned, or none says it.

    Raises ValueError where images are turned, ``given`` is "", and the sizes of labels do not tell.
    """
    turned = [r for r in records if exif_orientation(r["file_name"]) != 1]
    if given or not turned:
        return given
    told: set[str] = set()
    for record in turned:
        both = {how: sizes(record, how) for how in ORIENTATIONS}
        fits = [how for how, (image, label) in both.items() if image == label]
        if len(fits) == 1:
            told.add(fits[0])
    if len(told) != 1:
        raise ValueError(
            f"EXIF turns {len(turned)} images, such as {turned[0]['name']!r}, and the sizes of "
            "labels do not tell whether they were drawn on the pixels as stored or on what viewers "
            "show. Say --orientation stored or --orientation applied"
        )
    return told.pop()


def sizes(record: Mapping[str, Any], orientation: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a record's image and of its label; ValueError if one cannot be read."""
    image = image_size(record["file_name"], orientation)
    reader = record.get("label_reader")
    if reader is not None:
        return image, reader.size({**record, "orientation": orientation})
    return image, image_size(record["sem_seg_file_name"], orientation)


def leave_out_other_sizes(matched: Matched, orientation: str) -> None:
    """Keep the records whose label has the image's size; a line tells of the others. ValueError if
    none is left, or a file cannot be read.
    """
    kept, other = [], []
    for record in matched.records:
        image, label = sizes(record, orientation)
        if image == label:
            kept.append(record)
        else:
            shapes = f"{image[1]} x {image[0]}, its label {label[1]} x {label[0]}"
            other.append(f"{record['name']} is {shapes}")
    if not kept:
        problem = f"no label has the size of its image: {other[0]}"
        raise ValueError(f"{problem}. Export them in full size")
    if other:
        what = f"labels of another size than their image, left out: {len(other)} ({other[0]}"
        more = " …" if len(other) > 1 else ""
        matched.left_out.append(f"{what}{more}). Export them in full size")
    matched.records = kept
