"""The CLIP of a model as a folder in open_clip's format, which other systems and programs read."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..adapters import adapters
from ..clip import activation_of
from ..clip.activation import QUICK_GELU
from ..clip.building import config_of
from ..clip.loading import split_name
from ..clip.open_clip_folders import CONFIG, WEIGHTS, is_model_folder
from ..clip.packaged import PACKAGED
from ..runtime.files import local_name
from ..segmenter import Segmenter
from .portable import copy_folder, save_tensors
from .saving import new_folder


def clip_config(cfg: CfgNode) -> dict[str, Any]:
    """open_clip's configuration of a config's CLIP; ValueError for one that has none here."""
    name = cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED
    found = {} if name in PACKAGED else config_of(split_name(local_name(name))[0])
    if not found:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED: got {name!r}, which has no configuration in "
            "open_clip's format here. Expected an architecture of open_clip, or a folder"
        )
    return found


def require_free(folder: Path) -> None:
    """FileExistsError for a file, or a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"folder of CLIP: got {str(folder)!r}, which is there and not empty. Choose another "
            "one, or remove it"
        )


def save_clip(model: Segmenter, cfg: CfgNode, folder: Path) -> Path:
    """Write the CLIP of a config's model, adapters merged, as a new folder, in full or not at all;
    its path. MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED takes it, and so does ``open_clip``.

    Raises:
        ValueError: adapters that are not merged, or see :func:`clip_config`.
        FileExistsError: a folder that holds something. OSError: it cannot be written.
    """
    require_free(folder)
    target = folder.resolve()
    if any(True for _ in adapters(model.clip)):
        raise ValueError("CLIP has adapters that are not merged: load the model with merged=True")
    mean, std = (
        [value / 255 for value in values.flatten().tolist()]
        for values in (model.pixel_mean, model.pixel_std)
    )
    settings = dict(clip_config(cfg))
    settings["quick_gelu"] = activation_of(model.clip) == QUICK_GELU
    content = {"model_cfg": settings, "preprocess_cfg": {"mean": mean, "std": std}}
    source = Path(local_name(cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED))
    if target.is_dir():
        target.rmdir()  # empty, and made anew in one go
    with new_folder(target) as new:
        if is_model_folder(source):  # a tokenizer's files, say
            copy_folder(source, new, weights=False)
        (new / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_tensors(model.clip.state_dict(), new / WEIGHTS[0], {})
    return target
