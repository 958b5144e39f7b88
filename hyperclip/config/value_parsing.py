"""Values of a config: what was written, made a number, text or list as the key's default is."""

import contextlib
import os
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..runtime.files import portable_name, user_path
from ..runtime.yaml_files import UniqueKeyLoader


@dataclass(frozen=True)
class Plain:
    """A value without quotes, as it was written and as YAML reads it: 007 may be a name or 7."""

    text: str
    value: Any

    def __str__(self) -> str:
        return self.text


class ConfigLoader(UniqueKeyLoader):
    """Keeps how numbers, dates and words like "no" were written."""


def _keep_text(loader: Any, node: Any) -> Plain:
    return Plain(node.value, yaml.SafeLoader.yaml_constructors[node.tag](loader, node))


for _kind in ("int", "float", "bool", "null", "timestamp"):
    ConfigLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _keep_text)


def from_command_line(value: Any) -> Any:
    """A value of KEY VALUE, read as Python, without its quotes; a list may be in YAML's style."""
    if not isinstance(value, str):
        return value
    read = _literal(value)
    if isinstance(read, str) and read.startswith("["):
        with contextlib.suppress(yaml.YAMLError, ValueError):
            return yaml.load(read, ConfigLoader)
    return read if isinstance(read, str) else Plain(value, read)


def convert(value: Any, default: Any, texts: bool = False) -> Any:
    """A value from YAML or the command line as the type of a key's default, which is an empty list
    of texts if ``texts``; ValueError for another type says only what is expected.
    """
    if default is None:
        return unwrap(value)
    if isinstance(default, str):
        return _text(value)
    value = _literal(value) if isinstance(value, str) else value
    if isinstance(default, list | tuple):
        return _sequence(value.value if isinstance(value, Plain) else value, default, texts)
    value, kind = unwrap(value), type(default)
    if kind is bool:
        value = {"true": True, "false": False}.get(str(value).lower(), value)
    if kind is float and type(value) is int:
        return float(value)
    expected = {bool: "True or False", int: "a whole number", float: "a number"}
    if kind in expected and type(value) is kind:
        return value
    raise ValueError(expected.get(kind, "a section of keys"))


def unwrap(value: Any) -> Any:
    """A value without its text, through all lists."""
    if isinstance(value, list | tuple):
        return type(value)(unwrap(item) for item in value)
    return value.value if isinstance(value, Plain) else value


def shown(value: Any) -> str:
    """A value as messages show it: as it was written."""
    if isinstance(value, list):
        value = [v.text if isinstance(v, Plain) else v for v in value]
    if isinstance(value, Plain):
        return "nothing (null)" if value.value is None else value.text
    return repr(value)


def locate(value: Any, folder: Path | None) -> Any:
    """A name that may be a path, or a list of them, with ``~`` as the home folder.

    It is relative to the folder of the YAML file that names it (None on the command line) if a
    model is there and the working folder does not lead to the same. All other names stay.
    """
    if isinstance(value, list):
        return [locate(name, folder) for name in value]
    if value in ("", "none") or "://" in value:
        return value
    path = user_path(value)
    if folder is not None and not path.is_absolute():
        beside = folder / path
        if _holds_a_model(beside) and not (path.exists() and path.samefile(beside)):
            return portable_name(beside)
    return str(path) if value.startswith("~") else value


def _holds_a_model(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no name of a file
        return path.is_file() or any(path.glob("*.json"))
    return False


def _literal(text: str) -> Any:
    """A text as Python reads it, (384,) or 1e-4 say; the text itself if Python does not."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return literal_eval(text)
    return text


def _text(value: Any) -> str:
    if isinstance(value, Plain) and value.value is not None:
        return value.text
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if type(value) in (int, float):
        return str(value)
    raise ValueError('a text ("" for none)')


def _sequence(value: Any, default: Sequence[Any], texts: bool) -> Any:
    kind = str if texts else type(default[0]) if default else object
    allowed = {str: (str,), int: (int,), float: (int, float)}.get(kind, ())
    if not isinstance(value, list | tuple):
        items = None
    elif kind is str:
        items = [_text(item) for item in value]
    else:
        items = [_literal(item) if isinstance(item, str) else unwrap(item) for item in value]
    if items is None or (allowed and any(type(item) not in allowed for item in items)):
        names = {str: "texts", int: "whole numbers", float: "numbers"}.get(kind, "values")
        raise ValueError(f"a list of {names}, such as {list(default) or ['name']}")
    return tuple(items) if isinstance(default, tuple) else items
