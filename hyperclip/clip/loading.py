"""Getting a CLIP model from open_clip: by OpenAI's names, open_clip tags, hub ids, local folders or
files.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from ..runtime.files import local_name
from ..runtime.weights import (
    UnreadableWeightsError,
    find_state_dict,
    plain_name,
    read_weights,
    require_fit,
)
from .activation import (
    ACTIVATIONS,
    GELU,
    OPENAI_EXTRAS,
    QUICK_GELU,
    activation_of,
    activation_of_file,
    activation_of_tag,
)
from .folders import folder_weights, is_model_folder, read_folder_config
from .text_tower import Tokenizer

OPENAI_ARCHITECTURES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""OpenAI's model names (the ones CAT-Seg's configs use) and what open_clip calls the same
architectures.
"""

OPENAI_SHA256 = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L/14@336px",
}
"""SHA-256 of OpenAI's published TorchScript archives: the only ones that are opened."""


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP model in float32 evaluation mode, with its tokenizer and where its weights came
    from.
    """

    model: open_clip.CLIP
    tokenizer: Tokenizer
    source: str


def load_clip(
    name: str, weights: str = "", load: bool = True, activation: str = "auto"
) -> LoadedClip:
    """Build a CLIP model and load its weights.

    Args:
        name: the architecture: OpenAI's name ("ViT-B/16"), an open_clip name with an optional
            pre-training tag ("ViT-H-14", "ViT-B-16:laion2b_s34b_b88k"), a hub id
            ("hf-hub:owner/name"), or a local folder that holds ``open_clip_config.json``.
        weights: "" for the weights that ``name`` stands for (OpenAI's for OpenAI's names), "none"
            for random ones, a tag of open_clip, or a local file: OpenAI's ``.pt`` (archive or state
            dict), safetensors, ``.bin``.
        load: False builds the same architecture (activation included) with random weights, for a
            checkpoint that is loaded over it.
        activation: "quick_gelu" or "gelu" where the weights do not tell what they were trained
            with; "auto": they do.
    Raises:
        ValueError: an unknown architecture or tag, weights of another architecture or of unknown
            activation, or a model without a plain vision transformer and text transformer.
        FileNotFoundError: weights that are neither on this machine nor to be had from the network.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"MODEL.CLIP_ACTIVATION: got {activation!r}, expected one of {list(ACTIVATIONS)}"
        )
    name, weights = local_name(name), local_name(weights)
    architecture, tag = split_name(name)
    file = None
    if weights not in ("", "none"):
        file, tag = (None, weights) if _is_tag(architecture, weights) else (Path(weights), "")
    elif is_model_folder(architecture) and weights == "":
        file = folder_weights(Path(architecture)) if load else None
    load = load and weights != "none"
    if file is not None and load:
        return _load_file(name, architecture, file, activation)
    if architecture.startswith("hf-hub:"):
        source = architecture if load else "random weights"
        return _checked(
            _finish(_create(architecture, load_weights=load), architecture, source), activation
        )
    if not load:
        kind = (
            activation
            if activation != "auto"
            else _expected_activation(name, architecture, tag, file)
        )
        return _finish(_build(architecture, kind), architecture, "random weights")
    if not tag:
        raise ValueError(
            f"CLIP weights: {name!r} names an architecture only. Add a tag ({name}:TAG, one of "
            f"{open_clip.list_pretrained_tags_by_model(architecture)}), or set MODEL.CLIP_WEIGHTS "
            "to a file or 'none'"
        )
    quick = activation_of_tag(architecture, tag) == QUICK_GELU
    loaded = _finish(
        _create(architecture, tag, force_quick_gelu=quick), architecture, f"{architecture}:{tag}"
    )
    return _checked(loaded, activation)


def split_name(name: str) -> tuple[str, str]:
    """Split a model name into open_clip's architecture and the tag of its default weights ("" if
    none).

    Raises:
        ValueError: a name that is neither OpenAI's, nor open_clip's, nor a hub id, nor a model
            folder.
    """
    if name in OPENAI_ARCHITECTURES:
        return OPENAI_ARCHITECTURES[name], "openai"
    if name.startswith("hf-hub:") or is_model_folder(name):
        return name, ""
    architecture, _, tag = name.partition(":")
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"CLIP model: got {name!r}, expected one of {list(OPENAI_ARCHITECTURES)}, an open_clip "
            "architecture (open_clip.list_models()), 'hf-hub:owner/name', or a local folder with "
            "open_clip_config.json"
        )
    if tag and not _is_tag(architecture, tag):
        raise ValueError(
            f"CLIP weights: got tag {tag!r}, expected one of "
            f"{open_clip.list_pretrained_tags_by_model(architecture)}"
        )
    return architecture, tag


def read_state_dict(
    path: Path, trusted_sha256: dict[str, str] | None = None, key: str = "MODEL.CLIP_WEIGHTS"
) -> tuple[dict[str, Tensor], bool]:
    """Read the state dict of a weights file without running any code from it.

    Args:
        path: safetensors, a pickled state dict (opened with ``weights_only=True``), or a
            TorchScript archive.
        trusted_sha256: archives that may be opened, by hash; default: OpenAI's published ones.
        key: the config key that named the file, for messages.
    Returns:
        the state dict (float32) and whether the file has OpenAI's format, which implies the quick
            GELU.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is truncated, of another kind, or an archive whose hash is not a
            published one.
    """
    state = _read_file(path, trusted_sha256, key)
    openai_format = any(extra in state for extra in OPENAI_EXTRAS)
    return {k: v for k, v in state.items() if k not in OPENAI_EXTRAS}, openai_format


def _read_file(path: Path, trusted_sha256: dict[str, str] | None, key: str) -> dict[str, Tensor]:
    """Every entry of a file's state dict in float32, without the names that wrappers added."""
    what = f"{key} {str(path)!r}"
    content = (
        _read_archive(path, trusted_sha256)
        if _is_torchscript(path)
        else find_state_dict(read_weights(path, key), what)
    )
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        if plain_name(name) in state:
            raise UnreadableWeightsError(
                f"{what} holds {plain_name(name)} twice, once wrapped and once not"
            )
        state[plain_name(name)] = value.float() if value.is_floating_point() else value
    return state


class UntrustedArchive(ValueError):
    """A TorchScript archive, which can carry code, whose hash is not among the published ones."""


def _read_archive(path: Path, trusted_sha256: dict[str, str] | None) -> dict[str, Tensor]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest not in (OPENAI_SHA256 if trusted_sha256 is None else trusted_sha256):
        raise UntrustedArchive(
            f"TorchScript archive {str(path)!r}: its SHA-256 {digest} is not one of OpenAI's "
            "published models, and an archive can carry code. Download it again, or convert it to "
            "safetensors on a machine where you trust it"
        )
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())


def _is_torchscript(path: Path) -> bool:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _is_tag(architecture: str, weights: str) -> bool:
    return (
        architecture in open_clip.list_models()
        and weights in open_clip.list_pretrained_tags_by_model(architecture)
    )


def _expected_activation(name: str, architecture: str, tag: str, file: Path | None) -> str:
    """The activation of what the config names, for a model that a checkpoint is loaded over."""
    if file is not None and file.is_file():
        return _require_activation(name, file, _read_file(file, None, "MODEL.CLIP_WEIGHTS"))
    if is_model_folder(architecture):
        return _configured_activation(architecture)
    return (
        QUICK_GELU
        if name in OPENAI_ARCHITECTURES and tag in ("", "openai")
        else activation_of_tag(architecture, tag)
    )


def _configured_activation(folder: str) -> str:
    return QUICK_GELU if (read_folder_config(Path(folder)) or {}).get("quick_gelu", False) else GELU


def _require_activation(name: str, file: Path, content: dict[str, Tensor]) -> str:
    kind = activation_of_file(name, file, content)
    if not kind:
        raise ValueError(
            f"MODEL.CLIP_WEIGHTS {str(file)!r}: nothing in it says which activation it was trained "
            f"with, and under the name {name!r} both are common. Set MODEL.CLIP_ACTIVATION to "
            "quick_gelu (OpenAI's weights, DFN's, MetaCLIP's) or gelu (LAION's, DataComp's), or "
            f"CLIP_PRETRAINED to {OPENAI_ARCHITECTURES[name]} (gelu)"
        )
    return kind


def _build(architecture: str, activation: str) -> open_clip.CLIP:
    """The architecture of an open_clip name or a local folder, with random weights."""
    config = read_folder_config(Path(architecture)) or open_clip.get_model_config(architecture)
    if config.get("custom_text") or "multimodal_cfg" in config:
        raise ValueError(
            f"CLIP model {architecture!r} has a text tower of its own kind, expected CLIP's"
        )
    try:
        vision, text = (
            open_clip.CLIPVisionCfg(**config["vision_cfg"]),
            open_clip.CLIPTextCfg(**config["text_cfg"]),
        )
    except TypeError as error:
        raise ValueError(
            f"CLIP model {architecture!r}: a setting that open_clip does not know ({error})"
        ) from error
    return open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=activation == QUICK_GELU)


def _load_file(name: str, architecture: str, path: Path, activation: str) -> LoadedClip:
    content = _read_file(path, None, "MODEL.CLIP_WEIGHTS")
    state = {k: v for k, v in content.items() if k not in OPENAI_EXTRAS}
    kind = activation_of_file(name, path, content) or activation
    model = _build(architecture, kind)
    require_fit(
        model.state_dict(),
        state,
        f"weights file {str(path)!r} does not fit the CLIP architecture {name!r}",
        "Set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED to the architecture of the file",
    )
    if kind == "auto":
        _require_activation(name, path, content)
    model.load_state_dict(state)
    return _checked(_finish(model, architecture, str(path)), activation)


def _checked(loaded: LoadedClip, activation: str) -> LoadedClip:
    """The model; ValueError if the config says another activation than the weights were trained
    with.
    """
    kind = activation_of(loaded.model)
    if activation not in ("auto", kind):
        raise ValueError(
            f"MODEL.CLIP_ACTIVATION: got {activation!r}, but {loaded.source} was trained with "
            f"{kind!r}. Set it to 'auto'"
        )
    return loaded


def _create(architecture: str, tag: str | None = None, **options: bool) -> open_clip.CLIP:
    try:
        return open_clip.create_model(architecture, pretrained=tag, **options)
    except Exception as error:
        what = architecture if tag is None else f"{architecture}:{tag}"
        raise FileNotFoundError(
            f"CLIP {what}: not in the local cache, and the download failed "
            f"({type(error).__name__}: {str(error)[:200]}). Without a network, set "
            "MODEL.CLIP_WEIGHTS to a local file (OpenAI's .pt, safetensors, .bin), or "
            "MODEL.WEIGHTS to a checkpoint that holds the whole model"
        ) from error


def _finish(model: open_clip.CLIP, architecture: str, source: str) -> LoadedClip:
    if not isinstance(model, open_clip.CLIP) or not hasattr(model.visual, "transformer"):
        raise ValueError(
            f"CLIP model {architecture!r}: got {type(model).__name__} with "
            f"{type(model.visual).__name__}, expected open_clip's CLIP with a vision transformer"
        )
    context = model.context_length
    if architecture in open_clip.list_models() or architecture.startswith("hf-hub:"):
        tokenizer = open_clip.get_tokenizer(architecture)
    else:
        tokenizer = open_clip.SimpleTokenizer(context_length=context)
    return LoadedClip(model.float().eval(), partial(tokenizer), source)
