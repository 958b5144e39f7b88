"""Datasets: the registry, layouts, label maps, records, the mapper. What is exported is loaded when
it is first used.

:mod:`hyperclip.data.catalog` registers the datasets with Detectron2; making a config imports it.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "DATASETS": "registry",
    "DatasetSpec": "registry",
    "SemSegMapper": "mapper",
    "dataset_root": "registry",
    "find_dataset": "registry",
    "load_records": "records",
    "read_image": "mapper",
    "register": "catalog",
    "registered_names": "catalog",
    "vocabulary_of": "catalog",
}
"""The module of each exported name."""

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
