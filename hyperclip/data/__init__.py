"""Datasets: the registry, layouts, label maps, records, the mapper; loaded when first used.

:mod:`hyperclip.data.detectron2_catalog` registers the datasets with Detectron2; making a config
imports it.
"""

import importlib
from typing import Any

_EXPORTS = {
    **dict.fromkeys(("register", "registered_names", "vocabulary_of"), "detectron2_catalog"),
    **dict.fromkeys(("SemSegMapper", "read_image"), "mapper"),
    **dict.fromkeys(("DATASETS", "DatasetSpec", "dataset_root", "find_dataset"), "registry"),
    "load_records": "records",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
