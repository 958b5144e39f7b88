"""Rows of the benchmarks' table that are kept between runs, and what tells that they still hold."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..load import registered_systems
from ..runtime.files import write_atomically

PACKAGES = (
    "detectron2 sal-detectron2 open_clip_torch timm diffusers transformers pillow "
    "opencv-python-headless numpy"
).split()
"""Whose versions may change what an evaluation finds, besides torch's."""


class ContentHashes:
    """SHA-256 of files and folders. A file is read again only if its size or times change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """Of a file's bytes; of a folder, of the names and bytes of its files.

        Raises:
            OSError: a file that cannot be read.
        """
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            inside = [(str(p.relative_to(path)), self.of(p)) for p in files]
            return hashlib.sha256(json.dumps(inside).encode()).hexdigest()
        status = path.stat()
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        key = (str(path), status.st_ino, status.st_size, changed)
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[key]


def framework_versions() -> dict[str, str]:
    """What computes a row: this framework's version and code, and the libraries below it."""
    versions = {"hyperclip": __version__, "code": _code(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def _code() -> str:
    """Hash of the sources of this package and of all systems', as they were when first asked."""
    names = {__name__, *(system.__module__ for system in registered_systems().values())}
    packages = [sys.modules[name.partition(".")[0]] for name in sorted(names)]
    files = [Path(package.__file__) for package in packages if package.__file__]
    hashes, content = ContentHashes(), []
    for file in sorted(set(files)):
        sources = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        for path in sources:
            content.append((f"{file.parent.name}/{path.relative_to(file.parent)}", hashes.of(path)))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_row(path: Path, mark: str) -> dict[str, Any] | None:
    """A row that was written before; None if its fingerprint differs or its file was changed."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and row.pop("checksum", None) == _checksum(row)
    return row if whole and row.get("fingerprint") == mark else None


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row with a checksum, in full or not at all."""
    text = json.dumps({**row, "checksum": _checksum(row)}, indent=1) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
