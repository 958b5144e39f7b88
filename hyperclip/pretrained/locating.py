"""Finding a pretrained model: in the zoo, in a folder, or on the Hugging Face hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub, zoo
from ..config import input_keys, output_keys
from ..config.config_files import read_layers
from ..runtime.files import user_path
from ..runtime.program import register_systems
from .layout import CONFIG, ENTRIES, WEIGHTS


@dataclass(frozen=True)
class LocatedModel:
    """A config file, KEY VALUE overrides of it, and a line that says what they are."""

    config: str
    overrides: tuple[str, ...]
    what: str
    measured: str = ""  # see :class:`hyperclip.zoo.ZooModel`


def locate_model(name: str | Path = "", revision: str = "", sha256: str = "") -> LocatedModel:
    """The model of a name of :mod:`hyperclip.zoo`, a folder, or a repository OWNER/NAME of the hub,
    downloaded if need be; without a name the best of the zoo's that is all here.

    Args:
        revision: of a repository: branch, tag or commit.
        sha256: that the file of the weights must have; "" for any, but one that the zoo knows.
    Raises:
        ValueError: a name that is none of these, another hash, a downloaded config that reaches
            outside its folder.
        OSError: a folder or a repository without the files that it needs, or that is not reached.
    """
    register_systems()
    text = str(name)
    if not text or text in zoo.ZOO:
        if revision:
            got = f"revision: got {revision!r} for {text!r}, a model of the zoo"
            raise ValueError(f"{got}. Leave it out: only repositories of the hub have revisions")
        return _from_zoo(zoo.named(text) if text else zoo.best_here(), text, sha256)
    folder = user_path(text)
    if folder.is_dir():
        _require_no_revision(text, revision)
        return _from_folder(folder, f"{text}, a model in a folder", sha256)
    if isinstance(name, Path) or text.startswith((".", "~", "/")) or folder.is_file():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(
            f"model: got {text!r}, which {problem}. Expected a folder that save_pretrained wrote; "
            "for a config file there is Predictor.from_config"
        )
    if not hub.is_repository(text):
        zoo.named(text)  # raises, with the names that there are
    folder = hub.fetch_folder(text, CONFIG, revision)
    require_own_files_alone(folder, text)
    return _from_folder(folder, f"{text}, a model of the hub ({folder.name[:12]})", sha256)


def _require_no_revision(name: str, revision: str) -> None:
    if revision:
        problem = "which is a folder of this machine, expected none"
        raise ValueError(f"revision: got {revision!r} for {name!r}, {problem}")


def _from_zoo(model: zoo.ZooModel, name: str, sha256: str) -> LocatedModel:
    if model.weights is None:
        if sha256:
            problem = "which has no weights file of its own to check"
            raise ValueError(f"sha256: got {sha256!r} for {name!r}, {problem}. Leave it out")
        return LocatedModel(model.config, model.overrides, model.what, model.measured)
    overrides = (*model.overrides, "MODEL.WEIGHTS", str(model.weights.fetch(sha256)))
    return LocatedModel(model.config, overrides, model.what, model.measured)


def _from_folder(folder: Path, what: str, sha256: str) -> LocatedModel:
    require_files(folder)
    if sha256 and not (folder / WEIGHTS).is_file():
        raise ValueError(f"sha256: got {sha256!r}, but {str(folder)!r} has no {WEIGHTS} to check")
    if sha256:
        hub.require_sha256(folder / WEIGHTS, sha256)
    return LocatedModel(str(folder / CONFIG), (), what)


def require_files(folder: Path) -> None:
    """FileNotFoundError unless a folder has a config, and the files of the folder that it names."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"model folder {str(folder)!r} has no {CONFIG}: it is none that save_pretrained wrote, "
            "or it was copied in part"
        )
    for key, name in _named_files(folder):
        own = Path(name).parts[:1]
        if own and own[0] in ENTRIES and not (folder / name).exists():
            raise FileNotFoundError(
                f"model folder {str(folder)!r} has no {name}, which {key} in its {CONFIG} names: "
                "it was copied or uploaded in part"
            )


def require_own_files_alone(folder: Path, name: str) -> None:
    """ValueError if the config of a downloaded model imports modules, or names files outside its
    folder or addresses.
    """
    advice = f"Look at {str(folder / CONFIG)!r}; if you trust it, load that folder by its path"
    for key, value in _values(folder):
        if value and (key == "IMPORTS" or key in output_keys()):
            raise ValueError(f"model {name}: its config sets {key} to {value}. {advice}")
    for key, value in _named_files(folder):
        path = user_path(value)
        if "://" in value or path.is_absolute() or ".." in path.parts:
            problem = f"names {value!r} in {key}, which is outside its folder"
            raise ValueError(f"model {name}: its config {problem}. {advice}")


def _values(folder: Path) -> Iterator[tuple[str, Any]]:
    layers, _ = read_layers(folder / CONFIG)
    for layer in layers:
        yield from layer.values.items()


def _named_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(key, name) of what a config names that may be a file."""
    for key, value in _values(folder):
        if key in input_keys():
            yield from (
                (key, str(name)) for name in (value if isinstance(value, list) else [value])
            )
