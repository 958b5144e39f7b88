"""Model folders as open_clip writes them: a configuration and one file of weights."""

import json
from pathlib import Path
from typing import Any

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in such a folder; the first one that is there is read."""


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder has open_clip's configuration."""
    return (Path(folder) / CONFIG).is_file()


def read_folder_config(folder: Path) -> dict[str, Any] | None:
    """``model_cfg`` of a model folder, None for another one; ValueError if it cannot be read."""
    if not is_model_folder(folder):
        return None
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        towers = (config["vision_cfg"], config["text_cfg"])
        if not all(isinstance(tower, dict) for tower in towers) or not config["embed_dim"]:
            raise TypeError("a tower that is no object, or no embed_dim")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"CLIP model {str(file)!r} cannot be read ({type(error).__name__}: {error}). Expected "
            "JSON with model_cfg: embed_dim, vision_cfg and text_cfg, as open_clip writes it"
        ) from error
    return config


def read_folder_preprocessing(folder: Path) -> dict[str, Any] | None:
    """``preprocess_cfg`` of a model folder, None if it has none with a mean and deviations of R, G
    and B; ValueError if its configuration cannot be read.
    """
    if read_folder_config(folder) is None:
        return None
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    settings = content.get("preprocess_cfg") or {}
    complete = all(len(settings.get(key) or ()) == 3 for key in ("mean", "std"))
    return settings if complete else None


def folder_weights(folder: Path) -> Path:
    """The weights file of a model folder; FileNotFoundError if it has none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"CLIP model {str(folder)!r} has no weights: expected {WEIGHTS[0]} or {WEIGHTS[1]} in it. "
        "Copy the file there, or set MODEL.CLIP_WEIGHTS to it or to 'none'"
    )
