"""Datasets: the registry, layouts, label maps, records, the mapper. What is exported is loaded when
it is first used.

:mod:`hyperclip.data.detectron2_catalog` registers the datasets with Detectron2; making a config
imports it.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "detectron2_catalog": ("register", "registered_names", "vocabulary_of"),
    "mapper": ("SemSegMapper", "read_image"),
    "records": ("load_records",),
    "registry": ("DATASETS", "DatasetSpec", "dataset_root", "find_dataset"),
}
"""What each module exports."""
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
