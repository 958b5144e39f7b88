"""How many bytes a value keeps: an encoded image, or scores, of whatever system."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def kept_bytes(value: Any) -> int:
    """Bytes of all arrays and tensors within a value, each memory once."""
    return sum(_storages(value, {}).values())


def _storages(value: Any, known: dict[int, int]) -> dict[int, int]:
    """The sizes of memories by their addresses."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        known[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        known[value.ctypes.data] = value.nbytes
    else:
        for part in _parts(value):
            _storages(part, known)
    return known


def _parts(value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
