"""Loading a CLIP model by OpenAI's names, open_clip tags, hub ids, local folders or files."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from ..runtime.files import local_name
from ..runtime.weights import find_state_dict, read_weights, rename_for, require_fit
from . import activation as activations
from .activation import OPENAI_EXTRAS, QUICK_GELU, activation_of_file, activation_of_tag
from .building import (
    build_model,
    build_tokenizer,
    config_of,
    require_transformers,
    set_preprocessing,
)
from .image_tower import image_tower
from .open_clip_folders import folder_weights, is_model_folder, read_folder_config
from .packaged import PACKAGED, load_packaged
from .text_tower import Tokenizer, text_tower

OPENAI_ARCHITECTURES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""What open_clip calls the architectures that OpenAI's names, used by CAT-Seg's configs, mean."""

OPENAI_SHA256 = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L/14@336px",
}
"""SHA-256 of OpenAI's published TorchScript archives: the only ones that are opened."""


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP model in float32 and evaluation mode, its tokenizer, and where it came from."""

    model: Any
    tokenizer: Tokenizer
    source: str


def load_clip(
    name: str, weights: str = "", load: bool = True, activation: str = "auto"
) -> LoadedClip:
    """Build a CLIP model and load its weights.

    Args:
        name: the architecture: OpenAI's name ("ViT-B/16"), an open_clip name with an optional
            pre-training tag ("ViT-H-14", "ViT-B-16:laion2b_s34b_b88k"), a hub id
            ("hf-hub:owner/name"), a local folder that holds ``open_clip_config.json``, or a model
            of ``PACKAGED``, whose weights its packages bring in any case.
        weights: "" for those that ``name`` stands for, "none" for random ones, a tag of open_clip,
            or a local file: OpenAI's ``.pt`` (archive or state dict), safetensors, ``.bin``.
        load: False gives random weights, for a checkpoint that is loaded over them.
        activation: "quick_gelu" or "gelu" where the weights do not tell, else "auto".
    Raises:
        ValueError: an unknown architecture or tag, weights of another architecture or of unknown
            activation, or a model with a tower that cannot be read.
        FileNotFoundError: weights that are neither on this machine nor to be had from the network.
    """
    if activation not in (known := activations.ACTIVATIONS):
        raise ValueError(
            f"MODEL.CLIP_ACTIVATION: got {activation!r}, expected one of {list(known)}"
        )
    if name in PACKAGED:
        return _packaged(name, weights)
    name, weights = local_name(name), local_name(weights)
    architecture, tag = split_name(name)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    load = load and weights != "none"
    file = None
    if weights in tags:
        tag = weights
    elif weights not in ("", "none"):
        file, tag = Path(weights), ""
    elif load and is_model_folder(architecture):
        file = folder_weights(Path(architecture))
    if file is not None and load:
        return _load_file(name, architecture, file, activation)
    if architecture.startswith("hf-hub:"):
        source = architecture if load else "random weights"
        model = _create(architecture, load_weights=load)
        return _finish(model, architecture, source, activation)
    if not load:
        expected = activation == "auto"
        kind = _expected_activation(name, architecture, tag, file) if expected else activation
        model = build_model(architecture, kind == QUICK_GELU)
        set_preprocessing(model, architecture, tag, file)
        return _finish(model, architecture, "random weights", kind)
    if not tag:
        raise ValueError(
            f"CLIP weights: {name!r} names an architecture only. Add a tag ({name}:TAG, one of "
            f"{tags}), or set MODEL.CLIP_WEIGHTS to a file or 'none'"
        )
    quick = activation_of_tag(architecture, tag) == QUICK_GELU
    model = _create(architecture, tag, force_quick_gelu=quick)
    return _finish(model, architecture, f"{architecture}:{tag}", activation)


def _packaged(name: str, weights: str) -> LoadedClip:
    if weights:
        raise ValueError(
            f"MODEL.CLIP_WEIGHTS: got {weights!r}, but the weights of {name} come from its "
            "packages. Leave it empty"
        )
    model, tokenizer = load_packaged(name)
    return LoadedClip(model, partial(tokenizer), name)


def weights_are_here(name: str) -> bool:
    """Whether open_clip would find the weights of one of its names on this machine, without asking
    the network; ValueError as :func:`split_name`.
    """
    architecture, tag = split_name(name)
    known = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
    repository, _, file = known.get("hf_hub", "").rpartition("/")
    if not repository:
        address = known.get("url", "")
        return bool(address) and Path("~/.cache/clip", Path(address).name).expanduser().is_file()
    files = [file] if file else ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"]
    files += [f"{Path(file).stem}.safetensors" for file in files]
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def split_name(name: str) -> tuple[str, str]:
    """Split a model name into open_clip's architecture and the tag of its weights ("" if none);
    ValueError for neither OpenAI's name, nor open_clip's, nor a hub id, nor a model folder.
    """
    if name in OPENAI_ARCHITECTURES:
        return OPENAI_ARCHITECTURES[name], "openai"
    if name.startswith("hf-hub:") or is_model_folder(name):
        return name, ""
    architecture, _, tag = name.partition(":")
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"CLIP model: got {name!r}, expected one of {[*OPENAI_ARCHITECTURES, *PACKAGED]}, an "
            "open_clip architecture (open_clip.list_models()), 'hf-hub:owner/name', or a local "
            "folder with open_clip_config.json"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise ValueError(f"CLIP weights: got tag {tag!r}, expected one of {tags}")
    return architecture, tag


def read_state_dict(path: Path, key: str = "MODEL.CLIP_WEIGHTS") -> dict[str, Tensor]:
    """Read the state dict of a weights file, in float32, without running any code from it:
    safetensors, a pickled one, or one of OpenAI's TorchScript archives. Messages name the ``key``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is truncated or of another kind, or an archive of unknown hash.
    """
    what = f"{key} {str(path)!r}"
    if _is_torchscript(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in OPENAI_SHA256:
            raise ValueError(
                f"TorchScript archive {str(path)!r}: its SHA-256 {digest} is not one of OpenAI's "
                "published models, and an archive can carry code. Download it again, or convert it "
                "to safetensors on a machine where you trust it"
            )
        content = dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    else:
        content = find_state_dict(read_weights(path, key), what)
    state = rename_for(content, (), what)
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _expected_activation(name: str, architecture: str, tag: str, file: Path | None) -> str:
    """The activation of what the config names, for a model that a checkpoint is loaded over."""
    if file is not None and file.is_file():
        return _require_activation(name, file, read_state_dict(file))
    if is_model_folder(architecture):
        return activations.activation_of_config(read_folder_config(Path(architecture)))
    if name in OPENAI_ARCHITECTURES:
        tag = tag or "openai"
    return activation_of_tag(architecture, tag)


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


def _load_file(name: str, architecture: str, path: Path, activation: str) -> LoadedClip:
    content = read_state_dict(path)
    state = {k: v for k, v in content.items() if k not in OPENAI_EXTRAS}
    kind = activation_of_file(name, path, content) or activation
    model = build_model(architecture, kind == QUICK_GELU)
    set_preprocessing(model, architecture, "", path)
    what = f"weights file {str(path)!r} does not fit the CLIP architecture {name!r}"
    fix = "Set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED to the architecture of the file"
    require_fit(model.state_dict(), state, what, fix)
    if kind == "auto":
        _require_activation(name, path, content)
    model.load_state_dict(state)
    return _finish(model, architecture, str(path), activation)


def _create(architecture: str, tag: str | None = None, **options: bool) -> nn.Module:
    text = config_of(architecture).get("text_cfg", {})
    if text.get("hf_model_name"):
        require_transformers(architecture)
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


def _finish(model: Any, architecture: str, source: str, activation: str) -> LoadedClip:
    """The model with its tokenizer, if its towers can be read and it has the activation."""
    if isinstance(model, open_clip.CoCa):
        raise ValueError(f"CLIP model {architecture!r} is a captioning model (CoCa)")
    kind = activations.activation_of(model)
    if kind and activation not in ("auto", *kind.split("+")):
        raise ValueError(
            f"MODEL.CLIP_ACTIVATION: got {activation!r}, but {source} was trained with {kind!r}. "
            "Set it to 'auto'"
        )
    model = model.float().eval()
    try:
        image_tower(model.visual)  # type: ignore[arg-type]
        context = text_tower(model).context_length
    except ValueError as error:
        raise ValueError(f"CLIP model {architecture!r} cannot be read densely: {error}") from error
    tokenizer = build_tokenizer(architecture, context)
    # what open_clip asks of a tokenizer, which for Hugging Face's towers is less than they take
    model.context_length = min(context, getattr(tokenizer, "context_length", None) or context)
    return LoadedClip(model, partial(tokenizer), source)
