"""Index files of published datasets, JSON or pickle: read as data alone, and checked."""

import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..runtime.files import read_json


def need(path: Path, how: str) -> Path:
    """The path itself; FileNotFoundError, with ``how`` to get it, if it does not exist."""
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist. {how}")
    return path


def read_index(path: Path, **entries: Mapping[str, type]) -> dict[str, Any]:
    """A JSON file that holds an object of lists, whose ``entries`` need keys of these types.

    Raises ValueError if it holds something else; the first entry that lacks a key is named.
    """
    index = read_json(path, "index file")
    if not isinstance(index, dict) or not entries.keys() <= index.keys():
        expected = f"expected an object with {list(entries)}, which this is not"
        raise ValueError(f"{str(path)!r}: {expected}. Is it another file?")
    for name, needed in entries.items():
        if not isinstance(index[name], list):
            problem = f"{name}: got {type(index[name]).__name__}, expected a list"
            raise ValueError(f"{str(path)!r}: {problem}. Is it another file?")
        for k, entry in enumerate(index[name]):
            if fault := _fault_of_entry(entry, needed):
                raise ValueError(f"{str(path)!r}: {name}, entry {k}: {fault}. Get the file again")
    return index


def _fault_of_entry(entry: Any, needed: Mapping[str, type]) -> str:
    if not isinstance(entry, dict):
        return f"got {type(entry).__name__}, expected an object"
    for key, kind in needed.items():
        if key not in entry:
            return f"no key {key!r}"
        if type(entry[key]) is not kind:
            expected = "a whole number" if kind is int else "a text"
            return f"{key}: got {entry[key]!r}, expected {expected}"
    return ""


def by_image(annotations: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Annotations in their order, by their "image_id"."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        found[annotation["image_id"]].append(annotation)
    return found


class _DataOnly(pickle.Unpickler):
    """Opens pickles of arrays and containers alone; others can call any function."""

    admitted = {
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("numpy._core.numeric", "_frombuffer"),
        *(("numpy", kind) for kind in ("dtype", "ndarray")),
        *(("numpy._core.multiarray", name) for name in ("_reconstruct", "scalar")),
        *(("builtins", kind) for kind in ("bytearray", "bytes", "complex", "frozenset", "set")),
    }

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if (module, name) not in self.admitted:
            what = f"it asks for {module}.{name}, which an index of images does not need"
            raise pickle.UnpicklingError(what)
        return super().find_class(module, name)


def read_ade_index(path: Path) -> list[PurePosixPath]:
    """Paths of ADE20K's images in ``index_ade20k.pkl``, relative to the folder of all datasets.

    Raises ValueError for a damaged file, another one, or one that holds more than data.
    """
    try:
        with path.open("rb") as file:
            index = _DataOnly(file).load()
        listed = zip(index["folder"], index["filename"], strict=True)
        images = [PurePosixPath(*parts) for parts in listed]
    except Exception as error:  # a broken pickle can raise anything
        problem = f"is not the index of ADE20K_2021_17_01, or is damaged: {error!r}"
        raise ValueError(f"{str(path)!r} {problem}") from error
    if outside := [str(p) for p in images if p.is_absolute() or ".." in p.parts]:
        expected = "expected paths below the folder of the datasets"
        raise ValueError(f"{str(path)!r}: got {outside[:3]}, {expected}")
    return images
