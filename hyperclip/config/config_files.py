"""Reading config files: the chain of _BASE_ files, each as a table of keys, and what is wrong."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.files import local_path, user_path
from ..runtime.yaml_files import load_yaml
from .key_rules import LEGACY
from .value_parsing import ConfigLoader, from_command_line, shown

BASE = "_BASE_"


@dataclass(frozen=True)
class Layer:
    """Keys, with dots, and values of one file, or of the command line."""

    where: str  # what messages call it
    folder: Path | None  # of the file
    values: Mapping[str, Any]


def read_layers(path: str | Path) -> tuple[list[Layer], list[str]]:
    """The keys of a config file and its bases, those first that the later ones override, and what
    to say of bases that do not exist.

    Raises:
        FileNotFoundError: the file itself does not exist.
        ValueError: a file that is not YAML, has a key twice, holds no keys, or is its own base.
    """
    file = local_path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"config file: got {str(path)!r}, which {what}. The shipped ones are in configs/"
        )
    missing: list[str] = []
    return list(_layers(file, (), missing)), missing


def command_line_layer(overrides: Sequence[Any]) -> Layer:
    """KEY VALUE pairs as a layer; ValueError if one is not a pair."""
    if len(overrides) % 2:
        raise ValueError(f"overrides: got {list(overrides)}, expected pairs KEY VALUE")
    pairs = zip(overrides[0::2], overrides[1::2], strict=True)
    return Layer("command line", None, {str(k): from_command_line(v) for k, v in pairs})


def _layers(path: Path, chain: tuple[Path, ...], missing: list[str]) -> Iterator[Layer]:
    where = f"config {str(path)!r}"
    content = load_yaml(path, "config", ConfigLoader)
    if not isinstance(content, dict):
        got = "nothing" if content in (None, "") else shown(content)[:60]
        example = "MODEL: {META_ARCHITECTURE: HyperCLIP}"
        raise ValueError(f"{where}: got {got}, expected sections of keys, for example {example}")
    bases = content.pop(BASE, [])
    chain = (*chain, path.resolve())
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base or "://" in base:
            expected = "the name of a config file here"
            raise ValueError(f"{where}: {BASE}: got {shown(base)}, expected {expected}")
        # Relative to the file that names it, else a shipped one
        below = path.parent / user_path(base)
        below = below if below.is_file() else local_path(base)
        if below.resolve() in chain:
            names = " -> ".join(p.name for p in (*chain, below.resolve()))
            raise ValueError(
                f"{where}: {BASE}: got {base!r}, which leads back to a file being read ({names})"
            )
        if below.is_file():
            yield from _layers(below, chain, missing)
        else:
            missing.append(f"{where}: {BASE}: got {base!r}, but {str(below)!r} does not exist")
    yield Layer(str(path), path.parent, dict(flat_config(content)))


def flat_config(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and values, of a config: a CfgNode, or plain dicts in dicts."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def key_faults(layer: Layer, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each key of a layer that means nothing, with what to say of it: "" of an empty section."""
    for key, value in layer.values.items():
        old = next((name for name in LEGACY if f"{key}.".startswith(f"{name}.")), None)
        if old is not None:
            yield key, f"config key {key} ({layer.where}) has no meaning here: {LEGACY[old]}"
        elif inside := [name for name in known if name.startswith(f"{key}.")][:3]:
            got = f"config key {key} ({layer.where}): got {shown(value)}"
            yield key, "" if value == {} else f"{got}, expected keys below it, such as {inside}"
        elif key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
            yield key, f"unknown config key {key} ({layer.where}). Nearest valid keys: {near}"
