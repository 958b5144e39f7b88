"""What a format of annotations has to say: where its labels are, and how each becomes values."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..image_files import image_size

Key = int | str
"""What a file calls a class: COCO's category id, YOLO's number, LabelMe's name, "#rrggbb"."""


class LabelReader(ABC):
    """Reads the label of one record. Records hold it as "label_reader", so it can be pickled."""

    @abstractmethod
    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        """Values of the record's label map, int32 (H, W).

        Raises ValueError or OSError for a damaged label.
        """

    @abstractmethod
    def size(self, record: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the label, without reading its pixels where that is possible."""


def require_size(record: Mapping[str, Any], height: int, width: int) -> None:
    """ValueError for a label of so many pixels if its image has not as many, before memory for a
    label of a size is taken that is just a text in a file.
    """
    own_height, own_width = image_size(record["file_name"], record.get("orientation", ""))
    if height * width != own_height * own_width:
        raise ValueError(
            f"{record['file_name']} has {own_width} x {own_height} pixels, its label "
            f"{record['sem_seg_file_name']} {width} x {height}; expected the same size"
        )


@dataclass(frozen=True)
class AnnotationSource(ABC):
    """Annotations of a dataset: each :data:`Key` of ``values`` gets a value of the label map.

    Attributes:
        format: what a YAML file calls it. paths: the keys of ``labels`` that it needs.
        unlabelled: the value of pixels that nothing covers. crowd: that of COCO's crowd regions if
            they do not count; None where they count as their class.
        folder: of the PNGs that a JSON file names, absolute or below the dataset's root.
    """

    format: ClassVar[str]
    paths: ClassVar[tuple[str, ...]]
    values: Mapping[Key, int] = field(hash=False)
    unlabelled: int
    crowd: int | None = None
    folder: str = ""

    @classmethod
    def is_key(cls, key: Any) -> bool:
        """Whether this may be a key of the dataset's ``label_map``."""
        return type(key) is int and key >= 0


class FolderSource(AnnotationSource):
    """A format with a label file for each image, in a folder; names without suffix are the same.

    Attributes:
        suffixes: how the names of labels end. others: names of files that are no labels.
    """

    paths = ("folder",)
    suffixes: ClassVar[tuple[str, ...]]
    others: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def reader(self) -> LabelReader:
        """The reader of all labels."""


class IndexSource(AnnotationSource):
    """A format with one file for all images."""

    @abstractmethod
    def entries(self, path: Path, root: Path) -> dict[str, tuple[Path, LabelReader]]:
        """For the name of each image in the file ``path``: the file of its label, and a reader.

        Raises FileNotFoundError, and ValueError for another file or one that contradicts itself.
        """
