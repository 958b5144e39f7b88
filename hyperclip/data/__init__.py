"""Datasets: the registry, label reading, the mapper and the procedural world. Importing it registers them."""

from .mapper import SemSegMapper, read_image
from .registry import DATASETS, dataset_root, vocabulary_of

__all__ = ["DATASETS", "SemSegMapper", "dataset_root", "read_image", "vocabulary_of"]
