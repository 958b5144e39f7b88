"""Getting a CLIP model from open_clip: by OpenAI's names, open_clip tags, hub ids, local folders or files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from .text import Tokenizer

OPENAI_ARCHITECTURES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""OpenAI's model names (the ones CAT-Seg's configs use) and what open_clip calls the same architectures."""

OPENAI_SHA256 = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L/14@336px",
}
"""SHA-256 of OpenAI's published TorchScript archives: the only ones that are opened."""

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP model in float32 evaluation mode, with its tokenizer and where its weights came from."""

    model: open_clip.CLIP
    tokenizer: Tokenizer
    source: str


def load_clip(name: str, weights: str = "", load: bool = True) -> LoadedClip:
    """Build a CLIP model and load its weights.

    Args:
        name: the architecture: OpenAI's name ("ViT-B/16"), an open_clip name with an optional pre-training tag
            ("ViT-H-14", "ViT-B-16:laion2b_s34b_b88k"), a hub id ("hf-hub:owner/name"), or a local folder
            that holds ``open_clip_config.json``.
        weights: "" for the weights that ``name`` stands for (OpenAI's for OpenAI's names), "none" for random ones,
            a tag of open_clip, or a local file: OpenAI's ``.pt`` (archive or state dict), safetensors, ``.bin``.
        load: False builds the same architecture (activation included) with random weights, for a checkpoint that
            is loaded over it.
    Raises:
        ValueError: an unknown architecture or tag, weights of another architecture, or a model without a
            plain vision transformer and text transformer.
        FileNotFoundError: weights that are neither on this machine nor to be had from the network.
    """
    architecture, tag = split_name(name)
    file = None
    if (Path(architecture) / "open_clip_config.json").is_file():
        file = Path(architecture) / "open_clip_model.safetensors"
    if weights not in ("", "none"):
        file, tag = (None, weights) if _is_tag(architecture, weights) else (Path(weights), "")
    load = load and weights != "none"
    if file is not None and load:
        return _load_file(name, architecture, file)
    if architecture.startswith("hf-hub:"):
        return _finish(_create(architecture, load_weights=load), architecture, architecture if load else "random weights")
    if not load:
        quick = name in OPENAI_ARCHITECTURES or _tag_has_quick_gelu(architecture, tag)
        if weights not in ("", "none") and file is not None and not quick:
            quick = read_state_dict(file)[1]
        return _finish(_build(architecture, quick), architecture, "random weights")
    if not tag:
        raise ValueError(
            f"CLIP weights: {name!r} names an architecture only. Add a tag ({name}:TAG, one of "
            f"{open_clip.list_pretrained_tags_by_model(architecture)}), or set MODEL.CLIP_WEIGHTS to a file or 'none'"
        )
    quick = _tag_has_quick_gelu(architecture, tag)
    return _finish(_create(architecture, tag, force_quick_gelu=quick), architecture, f"{architecture}:{tag}")


def split_name(name: str) -> tuple[str, str]:
    """Split a model name into open_clip's architecture and the tag of its default weights ("" if none).

    Raises:
        ValueError: a name that is neither OpenAI's, nor open_clip's, nor a hub id, nor a model folder.
    """
    if name in OPENAI_ARCHITECTURES:
        return OPENAI_ARCHITECTURES[name], "openai"
    if name.startswith("hf-hub:") or (Path(name) / "open_clip_config.json").is_file():
        return name, ""
    architecture, _, tag = name.partition(":")
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"CLIP model: got {name!r}, expected one of {list(OPENAI_ARCHITECTURES)}, an open_clip architecture "
            "(open_clip.list_models()), 'hf-hub:owner/name', or a local folder with open_clip_config.json"
        )
    if tag and not _is_tag(architecture, tag):
        raise ValueError(
            f"CLIP weights: got tag {tag!r}, expected one of {open_clip.list_pretrained_tags_by_model(architecture)}"
        )
    return architecture, tag


def read_state_dict(path: Path, trusted_sha256: dict[str, str] | None = None) -> tuple[dict[str, Tensor], bool]:
    """Read the state dict of a weights file without running any code from it.

    Args:
        path: safetensors, a pickled state dict (opened with ``weights_only=True``), or a TorchScript archive.
        trusted_sha256: archives that may be opened, by hash; default: OpenAI's published ones.
    Returns:
        the state dict (float32) and whether the file has OpenAI's format, which implies the quick GELU.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is truncated, of another kind, or an archive whose hash is not a published one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file: got {str(path)!r}, which does not exist. Give the path of a local file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(str(path))
        elif _is_torchscript(path):
            state = _read_archive(path, OPENAI_SHA256 if trusted_sha256 is None else trusted_sha256)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, UntrustedArchive):
        raise
    except Exception as error:
        raise ValueError(
            f"weights file {str(path)!r}: cannot be read ({type(error).__name__}: {str(error)[:200]}). Expected "
            "safetensors, a state dict saved by torch, or OpenAI's archive; was the download cut short?"
        ) from error
    content: Any = state.get("state_dict", state.get("model", state))
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"weights file {str(path)!r}: expected a state dict of tensors")
    state = {k.removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in content.items()}
    openai_format = any(k in state for k in OPENAI_EXTRAS)
    return {k: v for k, v in state.items() if k not in OPENAI_EXTRAS}, openai_format


class UntrustedArchive(ValueError):
    """A TorchScript archive, which can carry code, whose hash is not among the published ones."""


def _read_archive(path: Path, trusted: dict[str, str]) -> dict[str, Tensor]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest not in trusted:
        raise UntrustedArchive(
            f"TorchScript archive {str(path)!r}: its SHA-256 {digest} is not one of OpenAI's published models, and an "
            "archive can carry code. Download it again, or convert it to safetensors on a machine where you trust it"
        )
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _is_tag(architecture: str, weights: str) -> bool:
    return architecture in open_clip.list_models() and weights in open_clip.list_pretrained_tags_by_model(architecture)


def _tag_has_quick_gelu(architecture: str, tag: str) -> bool:
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    return tag == "openai" or bool(config.get("quick_gelu", False))


def _build(architecture: str, quick_gelu: bool = False) -> open_clip.CLIP:
    """The architecture of an open_clip name or a local folder, with random weights."""
    folder = Path(architecture)
    if (folder / "open_clip_config.json").is_file():
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(architecture)
    if config.get("custom_text") or "multimodal_cfg" in config:
        raise ValueError(f"CLIP model {architecture!r} has a text tower of its own kind, expected CLIP's")
    return open_clip.CLIP(
        config["embed_dim"],
        open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        open_clip.CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=quick_gelu or config.get("quick_gelu", False),
    )


def _load_file(name: str, architecture: str, path: Path) -> LoadedClip:
    state, openai_format = read_state_dict(path)
    model = _build(architecture, quick_gelu=openai_format or name in OPENAI_ARCHITECTURES)
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [f"{k}: file {tuple(state[k].shape)}, model {tuple(v.shape)}" for k, v in own.items()
             if k in state and state[k].shape != v.shape]
    if missing or unexpected or wrong:
        raise ValueError(
            f"weights file {str(path)!r} does not fit the CLIP architecture {name!r}: {len(missing)} keys missing "
            f"{missing[:5]}, {len(unexpected)} unexpected {unexpected[:5]}, {len(wrong)} of another shape {wrong[:3]}. "
            "Set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED to the architecture of the file"
        )
    model.load_state_dict(state)
    return _finish(model, architecture, str(path))


def _create(architecture: str, tag: str | None = None, **options: bool) -> open_clip.CLIP:
    try:
        return open_clip.create_model(architecture, pretrained=tag, **options)
    except Exception as error:
        what = architecture if tag is None else f"{architecture}:{tag}"
        raise FileNotFoundError(
            f"CLIP {what}: not in the local cache, and the download failed ({type(error).__name__}: "
            f"{str(error)[:200]}). Without a network, set MODEL.CLIP_WEIGHTS to a local file (OpenAI's .pt, "
            "safetensors, .bin), or MODEL.WEIGHTS to a checkpoint that holds the whole model"
        ) from error


def _finish(model: open_clip.CLIP, architecture: str, source: str) -> LoadedClip:
    if not isinstance(model, open_clip.CLIP) or not hasattr(model.visual, "transformer"):
        raise ValueError(
            f"CLIP model {architecture!r}: got {type(model).__name__} with {type(model.visual).__name__}, expected "
            "open_clip's CLIP with a vision transformer"
        )
    context = model.context_length
    if architecture in open_clip.list_models() or architecture.startswith("hf-hub:"):
        tokenizer = open_clip.get_tokenizer(architecture)
    else:
        tokenizer = open_clip.SimpleTokenizer(context_length=context)
    return LoadedClip(model.float().eval(), partial(tokenizer), source)
