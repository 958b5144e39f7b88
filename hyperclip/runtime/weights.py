"""Reading weights files without running code from them, in whatever container the state dict is."""

import argparse
import collections
import contextlib
import datetime
import json
import pathlib
import re
import types
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONTAINERS = (
    "model state_dict model_state_dict model_state module net network weights params"
).split()
"""Names under which trainers keep a model's state dict; of several, the first one counts."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DistributedDataParallel, torch.compile and FSDP put between a module and its own names."""

HOLDS, TRAINED = "holds", "trained"
"""A note of a weights file, and what it says if the file has only what was trained over CLIP."""

DICTS = (
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "detectron2.config.config.CfgNode",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "mmengine.config.config.ConfigDict",
    "addict.addict.Dict",
)
"""Configs in checkpoints: read as plain dicts, whether their package is installed or not."""


class UnreadableWeightsError(ValueError):
    """A weights file that is cut short, of another kind, or that holds what is not opened."""


def read_weights(path: str | Path, key: str) -> Any:
    """Read a file of torch (``weights_only=True``) or safetensors, by its content; ``key`` is the
    config key that named it, for messages.

    Besides tensors and Python's own types, NumPy's scalars and arrays, paths, dates and
    ``argparse.Namespace`` are read.

    Raises:
        FileNotFoundError: no such file. UnreadableWeightsError: a damaged file, or objects of other
            classes, which are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{key}: got {str(path)!r}, which does not exist. Give the path of a local file"
        )
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(str(path))
        with torch.serialization.safe_globals(list(harmless_globals())):
            refused: list[str] = []
            with contextlib.suppress(Exception):  # an older format, or damaged: reading says more
                refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if not refused:
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.findall(r"GLOBAL (\S+) was not an allowed global", str(error))
        if not refused:
            reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]
            raise UnreadableWeightsError(
                f"{key} {str(path)!r} cannot be read ({type(error).__name__}: {reason}). Expected "
                "a file saved by torch or a safetensors file; was the copy or download cut short?"
            ) from error
    classes = " ".join(", ".join(sorted(refused)).split())  # in a damaged file they are anything
    raise UnreadableWeightsError(
        f"{key} {str(path)!r} holds objects of {classes}, which are not opened "
        "since they could run code. If you trust the file, save its state dict alone: content = "
        "torch.load(FILE, weights_only=False); torch.save(content['state_dict'], NEW); or allow "
        "the classes in your program with torch.serialization.add_safe_globals"
    )


def read_notes(path: str | Path) -> dict[str, str]:
    """What a safetensors file says besides tensors, by name; {} for another file, or none."""
    path = Path(path)
    if not path.is_file() or not is_safetensors(path):
        return {}
    try:
        with safe_open(str(path), "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        problem = f"cannot be read ({error}); was the copy or download cut short?"
        raise UnreadableWeightsError(f"weights {str(path)!r} {problem}") from error


def holds_trained_alone(path: str | Path) -> bool:
    """Whether a weights file says that it has only what was trained over CLIP."""
    return json.loads(read_notes(path).get(HOLDS, "null")) == TRAINED


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header (8 bytes), then its JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


@cache
def harmless_globals() -> tuple[Any, ...]:
    """Classes that hold data alone, under the names of several versions: a file may create them."""
    from numpy._core.multiarray import _reconstruct, scalar  # type: ignore[attr-defined]
    from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

    allowed: list[Any] = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    allowed += {np.ndarray, np.dtype, np.recarray, np.record, *np.sctypeDict.values()}
    allowed += [getattr(datetime, n) for n in "datetime date time timedelta timezone".split()]
    allowed += [bool, int, float, str, bytes, list, tuple, dict, frozenset, slice, range]
    allowed += [argparse.Namespace, types.SimpleNamespace, (_plain_dict, "collections.defaultdict")]
    allowed += [(collections.OrderedDict, name) for name in DICTS]
    for package in ("numpy._core", "numpy.core"):  # of NumPy 2 and 1
        allowed += [(f, f"{package}.multiarray.{f.__name__}") for f in (_reconstruct, scalar)]
        allowed.append((_frombuffer, f"{package}.numeric._frombuffer"))
    for module in ("pathlib", "pathlib._local"):  # a path of another system can only be described
        for system in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
            pure = system.__name__
            allowed += [(system, f"{module}.{name}") for name in (pure, pure.removeprefix("Pure"))]
    return tuple(allowed)


def _plain_dict(*_: object) -> dict[Any, Any]:
    """A dict in place of a ``defaultdict``, whose default is of no use here."""
    return {}


def find_state_dict(content: Any, what: str) -> dict[str, Tensor]:
    """The state dict of what a file, ``what``, holds: the content itself, or what is in one of its
    containers, however deep; UnreadableWeightsError for none, or several unnamed ones.
    """
    if not isinstance(content, Mapping):
        got = f"{what} holds a {type(content).__name__}"
        raise UnreadableWeightsError(f"{got}, expected a state dict or a dict that holds one")
    state = _search(content, what)
    if state is None:
        keys = ", ".join(map(str, list(content)[:10])) or "nothing"
        raise UnreadableWeightsError(
            f"{what} holds no state dict of tensors; it holds {keys}. Is it a model's checkpoint?"
        )
    return state


def _search(content: Mapping[Any, Any], what: str) -> dict[str, Tensor] | None:
    if not all(isinstance(name, str) for name in content):
        return None
    arrays = (Tensor, np.ndarray, np.generic)
    if content and all(isinstance(value, arrays) for value in content.values()):
        return {
            name: value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
            for name, value in content.items()
        }
    inside = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    searched = {name: _search(value, what) for name, value in inside.items()}
    states = {name: state for name, state in searched.items() if state is not None}
    for name in CONTAINERS:
        if name in states:
            return states[name]
        if name in content and content[name] == {}:
            return {}
    if len(states) > 1:
        several = f"several state dicts: {', '.join(states)}"
        raise UnreadableWeightsError(f"{what} holds {several}. Save the one that is meant alone")
    plain = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return next(iter(states.values()), plain or None)


def plain_name(name: str) -> str:
    """A parameter's name without wrappers: ``model._orig_mod.module.clip.x`` is ``clip.x``."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "model":  # a LightningModule that holds the model
        parts = parts[1:]
    return ".".join(parts)


def rename_for(state: Mapping[str, Tensor], own: Collection[str], what: str) -> dict[str, Tensor]:
    """Rename the entries of a state dict to a module's own names, wrappers on either side aside;
    these win over what looks like a wrapper. ValueError for two entries of the same name.
    """
    own = set(own)
    targets = {plain_name(name): name for name in own}
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        plain = plain_name(name)
        target = name if name in own else targets.get(plain, plain)
        if target in renamed:
            twice = f"{what} holds {plain} twice, once wrapped and once not"
            raise ValueError(f"{twice}. Save one of the two models alone")
        renamed[target] = value
    return renamed


def require_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str, advice: str
) -> None:
    """ValueError, one line, unless a file's state dict has the names and shapes of a module's."""
    both = sorted(own.keys() & state.keys())
    faults = {
        "keys missing from the file": sorted(own.keys() - state.keys()),
        "keys unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name}: file {tuple(state[name].shape)}, model {tuple(own[name].shape)}"
            for name in both
            if state[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        said = [f"{len(items)} {kind}: {_first(items)}" for kind, items in faults.items()]
        raise ValueError(f"{what}: {'; '.join(said)}. {advice}")


def _first(items: list[str], count: int = 5) -> str:
    more = f" … and {len(items) - count} more" if len(items) > count else ""
    return (", ".join(items[:count]) + more) or "none"
