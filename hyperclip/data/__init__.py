"""Datasets: the registry, label reading, the mapper and the procedural world. Importing it registers them."""

from ..runtime.compat import require_detectron2

require_detectron2()

from .catalog import register, registered_names, vocabulary_of  # noqa: E402
from .mapper import SemSegMapper, read_image  # noqa: E402
from .records import load_records  # noqa: E402
from .registry import DATASETS, DatasetSpec, dataset_root, find_dataset  # noqa: E402

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "SemSegMapper",
    "dataset_root",
    "find_dataset",
    "load_records",
    "read_image",
    "register",
    "registered_names",
    "vocabulary_of",
]
