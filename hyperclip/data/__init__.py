"""Datasets: the registry, label reading, the mapper and the procedural world. Importing it registers them."""

from ..compat import require_detectron2

require_detectron2()

from .mapper import SemSegMapper, read_image  # noqa: E402
from .registry import DATASETS, dataset_root, vocabulary_of  # noqa: E402

__all__ = ["DATASETS", "SemSegMapper", "dataset_root", "read_image", "vocabulary_of"]
