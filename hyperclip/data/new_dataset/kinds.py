"""Which format of labels a folder or file holds."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ...runtime.files import read_json
from ..annotations.formats import FORMATS
from ..annotations.yolo import YoloPolygons
from ..image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES
from ..pairing import walk

MASKS = "masks"
"""Masks of indices, a format that a dataset file does not name."""

KINDS = (MASKS, *FORMATS)
INDEX_MODES = ("1", "L", "P", "I", "F")


def find_kind(images: Path, labels: Path) -> tuple[str, Path]:
    """The format of the labels, one of ``KINDS``, and their folder, or the file with all of them.

    Raises FileNotFoundError if neither folder nor file is there, and ValueError for one that holds
    no labels, or several kinds of them.
    """
    if labels.is_file():
        return kind_of_json(labels), labels
    if not labels.is_dir():
        expected = "expected a folder, or a JSON file of COCO"
        raise FileNotFoundError(f"MASKS: got {str(labels)!r}, which does not exist; {expected}")
    files = list(walk(labels))
    masks = [path for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    jsons = [path for path in files if path.suffix.lower() == ".json"]
    texts = [p for p in files if p.suffix.lower() == ".txt" and p.name not in YoloPolygons.others]
    if labels.resolve() == images.resolve():
        masks = []  # these are the images
    kinds = [kind for kind, found in (("masks", masks), ("JSON", jsons), ("text", texts)) if found]
    if len(kinds) > 1:
        counts = f"{len(masks)} masks, {len(jsons)} JSON files and {len(texts)} text files"
        advice = "Say which by --format, or name the JSON file of COCO instead of its folder"
        raise ValueError(f"MASKS: {str(labels)!r} has {counts}. {advice}")
    if not kinds:
        raise ValueError(f"MASKS: no labels in {str(labels)!r}: {_what_is_there(files)}")
    if texts:
        return "yolo", labels
    if masks:
        return kind_of_masks(masks), labels
    if len(jsons) == 1 and _format_of_json(jsons[0]):
        return kind_of_json(jsons[0]), jsons[0]
    return "labelme", labels


def _what_is_there(files: list[Path]) -> str:
    expected = (
        f"expected masks ({' '.join(LABEL_SUFFIXES)}), LabelMe's .json, YOLO's .txt, or the JSON "
        "file of COCO"
    )
    if not files:
        return f"it is empty; {expected}"
    often = Counter(path.suffix.lower() or path.name for path in files)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in often.most_common(5))
    lossy = any(suffix in IMAGE_SUFFIXES for suffix in often)
    advice = ". JPEG and the like change values: export the masks as PNG" if lossy else ""
    return f"got {listed}; {expected}{advice}"


def kind_of_masks(paths: list[Path]) -> str:
    """Masks of indices, or in colours; ValueError where there are both."""
    colours = [path for path in paths if _has_colours(path)]
    if colours and len(colours) < len(paths):
        other = next(path for path in paths if path not in set(colours))
        raise ValueError(
            f"MASKS: got {len(colours)} masks in colour, such as {colours[0].name!r}, and "
            f"{len(paths) - len(colours)} of indices, such as {other.name!r}; expected one kind. "
            "Put them into two folders, one dataset for each"
        )
    return "colours" if colours else MASKS


def _has_colours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode.partition(";")[0] not in INDEX_MODES
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"label file {str(path)!r} cannot be read ({error})") from error


def kind_of_json(path: Path) -> str:
    """COCO's instances or panoptic labels; ValueError for another file."""
    if kind := _format_of_json(path):
        return kind
    advice = "Name the folder of LabelMe's files, or COCO's file of instances or panoptic labels"
    raise ValueError(f"MASKS: {str(path)!r} is no JSON file of COCO. {advice}")


def _format_of_json(path: Path) -> str:
    content = read_json(path, "MASKS")
    annotations = content.get("annotations") if isinstance(content, Mapping) else None
    if not isinstance(annotations, list) or "images" not in content:
        return ""
    first = next(iter(annotations), None)
    return "coco_panoptic" if isinstance(first, Mapping) and "segments_info" in first else "coco"
