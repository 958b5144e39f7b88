"""Rows of the benchmarks' table that are kept between runs, and what tells that they still hold."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from .. import __version__
from ..config import input_keys, load_config, plain_settings
from ..load import registered_systems
from ..runtime.files import local_path, write_text

PACKAGES = (
    "detectron2 sal-detectron2 open_clip_torch timm diffusers transformers pillow "
    "opencv-python-headless numpy scikit-image"
).split()
"""Whose versions may change what an evaluation finds, besides torch's."""


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, of the names and bytes of its files; may be OSError.

    A file is read again only if its size or times change.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        inside = [(str(p.relative_to(path)), content_hash(p)) for p in files]
        return hashlib.sha256(json.dumps(inside).encode()).hexdigest()
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return _hash_of_file(path, status.st_ino, status.st_size, changed)


def named_contents(cfg: CfgNode) -> dict[str, str]:
    """Hashes of the files and folders that a config names and that are here, by its keys; of an
    ensemble also of its members' settings and files. May be OSError, or ValueError of a member.
    """
    values, found = plain_settings(cfg), {}
    for key in input_keys():
        given = values.get(key) or []
        names = given if isinstance(given, list) else [given]
        paths = [path for name in names if (path := local_path(str(name))).exists()]
        if paths:
            found[key] = " ".join(map(content_hash, paths))
    for name in cfg.MODEL.ENSEMBLE.CONFIGS:
        member = load_config(name)
        if not member.MODEL.ENSEMBLE.CONFIGS:  # which none may be
            settings = json.dumps(plain_settings(member), sort_keys=True).encode()
            found[f"{name}:"] = hashlib.sha256(settings).hexdigest()
            found |= {f"{name}: {key}": mark for key, mark in named_contents(member).items()}
    return found


@functools.cache
def _hash_of_file(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def framework_versions() -> dict[str, str]:
    """What computes a row: this framework's version and code, and the libraries below it."""
    versions = {"hyperclip": __version__, "code": _code(), "torch": torch.__version__}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def _code() -> str:
    """Hash of the sources of this package and of all systems', as they were when first asked."""
    modules = {__name__, *(system.__module__ for system in registered_systems().values())}
    packages = [sys.modules[name.partition(".")[0]] for name in modules]
    files = {Path(package.__file__) for package in packages if package.__file__}
    content: list[tuple[str, str]] = []
    for file in sorted(files):
        sources = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        names = [f"{file.parent.name}/{path.relative_to(file.parent)}" for path in sources]
        content += zip(names, map(content_hash, sources), strict=True)
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
    write_text(path, json.dumps({**row, "checksum": _checksum(row)}, indent=1) + "\n")


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
