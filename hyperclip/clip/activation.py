"""Which activation, quick or usual GELU, a CLIP model was trained with; no shape or key tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from .open_clip_folders import read_folder_config

QUICK_GELU, GELU = "quick_gelu", "gelu"
ACTIVATIONS = ("auto", QUICK_GELU, GELU)
"""What MODEL.CLIP_ACTIVATION may be; "auto" is what the weights were trained with."""

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Entries that only state dicts in OpenAI's own format have; the quick GELU goes with it."""


def activation_of(model: nn.Module) -> str:
    """The activation that a model's blocks compute with, both names if it has both, "" if none."""
    kinds = {type(module) for module in model.modules()}
    return "+".join(
        name for name, kind in ((GELU, nn.GELU), (QUICK_GELU, QuickGELU)) if kind in kinds
    )


def activation_of_config(config: Mapping[str, Any] | None) -> str:
    """What a configuration of open_clip says."""
    return QUICK_GELU if (config or {}).get("quick_gelu", False) else GELU


def activation_of_tag(architecture: str, tag: str) -> str:
    """What open_clip says of the weights behind a tag, or without one of the architecture."""
    if tag == "openai":
        return QUICK_GELU
    if tag:
        return activation_of_config(open_clip.get_pretrained_cfg(architecture, tag))
    return activation_of_config(open_clip.get_model_config(architecture))


def activation_of_file(name: str, path: Path, content: Mapping[str, Tensor]) -> str:
    """What a weights file was trained with, by its state dict, its folder's configuration, or the
    architecture's name; "" where nothing tells: under OpenAI's name (ViT-B/16), unlike open_clip's
    (ViT-B-16, ViT-B-16-quickgelu), weights of the usual format may be anybody's.
    """
    if any(extra in content for extra in OPENAI_EXTRAS):
        return QUICK_GELU
    for folder in (path.parent, Path(name)):
        config = read_folder_config(folder)
        if config is not None and (folder == Path(name) or path.name.startswith("open_clip_")):
            return activation_of_config(config)
    architecture, _, tag = name.partition(":")
    return activation_of_tag(architecture, tag) if architecture in open_clip.list_models() else ""
