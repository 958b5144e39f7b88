"""The classes that annotation files name: COCO's categories, LabelMe's labels, YOLO's numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.yaml_files import load_yaml
from ..annotations.coco import INSTANCES, PANOPTIC
from ..annotations.labelme import read_document
from ..annotations.source import Key
from ..annotations.yolo import read_polygons
from ..index_files import read_index
from .found import PLACEHOLDER, FoundLabels, named_classes

YOLO_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "labels.txt")
"""Where YOLO's tools keep the names of classes, in the folder of the labels or one above it."""


def coco_classes(path: Path) -> FoundLabels:
    """The categories of COCO's instances, with the number of regions of each."""
    index = read_index(path, **INSTANCES)
    often = Counter(annotation["category_id"] for annotation in index["annotations"])
    return _categories(path, index["categories"], often)


def panoptic_classes(path: Path) -> FoundLabels:
    """The categories of COCO's panoptic JSON, with the number of segments of each."""
    index = read_index(path, **PANOPTIC)
    segments = [s for a in index["annotations"] for s in a.get("segments_info") or ()]
    often = Counter(s.get("category_id") for s in segments if isinstance(s, Mapping))
    return _categories(path, index["categories"], often)


def _categories(
    path: Path, categories: Sequence[Mapping[str, Any]], often: Mapping[Any, int]
) -> FoundLabels:
    ids = Counter(category["id"] for category in categories)
    if twice := [category for category, count in ids.items() if count > 1]:
        problem = f"the category ids {twice} are there twice"
        raise ValueError(f"{str(path)!r}: {problem}. Keep one of each")
    return named_classes((c["id"], c["name"], _regions(often.get(c["id"], 0))) for c in categories)


def labelme_classes(paths: Iterable[Path]) -> FoundLabels:
    """The labels of LabelMe's files, the most frequent first."""
    documents = map(read_document, paths)
    often = Counter(shape["label"] for document in documents for shape in document["shapes"])
    return named_classes((name, name, _regions(n)) for name, n in often.most_common())


def yolo_classes(paths: Iterable[Path], folder: Path) -> FoundLabels:
    """The numbers of YOLO's files, with the names that its tools keep beside them."""
    often = Counter(category for path in paths for category, _ in read_polygons(path))
    names = yolo_names(folder)
    numbers = sorted(often.keys() | names.keys())
    found = named_classes((k, names.get(k, PLACEHOLDER(k)), _regions(often[k])) for k in numbers)
    found.named = bool(names)
    if unnamed := sorted(often.keys() - names.keys()) if names else []:
        found.notes.append(f"the classes {unnamed} have no name: please name them")
    return found


def yolo_names(folder: Path) -> dict[int, str]:
    """Names by number, of a data.yaml or classes.txt in the folder of labels, or up to two above;
    empty where there is none.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        for name in YOLO_FILES:
            if (place / name).is_file():
                names = names_of(place / name)
                return {key: name for key, name in names.items() if isinstance(key, int)}
    return {}


def names_of(path: Path) -> dict[Key, str]:
    """Names of values: of a text file, its lines from value 0 on; of a JSON or YAML file, a list, a
    mapping of values to names, or either as "names". Raises FileNotFoundError or ValueError.
    """
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is no text file in UTF-8 ({error})") from error
        return {k: line.strip() for k, line in enumerate(lines) if line.strip()}
    content = load_yaml(path, "file of names")
    if isinstance(content, Mapping):
        content = content.get("names", content)
    listed = dict(enumerate(content)) if isinstance(content, list) else content
    right = isinstance(listed, Mapping) and all(type(k) in (int, str) for k in listed)
    if not right or not all(isinstance(name, str) for name in listed.values()):
        expected = "expected a list of names, or names by value"
        raise ValueError(f"{str(path)!r}: {expected}, which this is not")
    return {int(k) if str(k).isdecimal() else k: name for k, name in listed.items()}


def _regions(count: int) -> str:
    return f"{count} region{'' if count == 1 else 's'}" if count else "in no image"
