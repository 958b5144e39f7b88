"""open_clip's models from their configurations, with random weights, and their tokenizers.

Nothing is fetched that is on this machine: what a model folder names is looked for in it first.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import set_model_preprocess_cfg
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from torch import Tensor, nn

from ..runtime.extras import how_to_install
from .open_clip_folders import is_model_folder, read_folder_config, read_folder_preprocessing

EXTRAS = ("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")
"""Settings of a model as a whole that its state dict depends on."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt")
INSTALL = how_to_install("diffusion")


def build_model(architecture: str, quick_gelu: bool) -> nn.Module:
    """The model of an open_clip name or a local folder, with random weights.

    Raises:
        ValueError: a configuration that open_clip does not know, or a captioning model.
        FileNotFoundError: a Hugging Face text tower whose configuration is not to be had.
        ModuleNotFoundError: one without the package transformers.
    """
    config = config_of(architecture)
    if "multimodal_cfg" in config:
        raise ValueError(
            f"CLIP model {architecture!r} is a captioning model (CoCa), expected CLIP's image and "
            "text towers alone"
        )
    text = dict(config["text_cfg"])
    custom = bool(config.get("custom_text")) or "hf_model_name" in text
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if text.get("hf_model_name"):
        text["hf_model_name"] = local_part(architecture, text["hf_model_name"], ("config.json",))
        text["hf_model_pretrained"] = False
        require_transformers(architecture)
    try:
        towers = open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text)
    except TypeError as error:
        raise ValueError(
            f"CLIP model {architecture!r}: a setting that open_clip does not know ({error})"
        ) from error
    extras = {key: config[key] for key in EXTRAS if key in config}
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    make: Callable[[], nn.Module] = lambda: kind(  # noqa: E731
        config["embed_dim"], *towers, quick_gelu=quick_gelu, **extras
    )
    if text.get("hf_model_name"):
        return _with_advice(make, architecture, text["hf_model_name"])
    return make()


def config_of(architecture: str) -> dict[str, Any]:
    """open_clip's configuration of a name or a local folder, {} for a hub id."""
    if is_model_folder(architecture):
        return read_folder_config(Path(architecture)) or {}
    if architecture.startswith("hf-hub:"):  # of which open_clip would ask the network
        return {}
    return open_clip.get_model_config(architecture) or {}


def set_preprocessing(model: nn.Module, architecture: str, tag: str, file: Path | None) -> None:
    """Note on a model, as open_clip does, with which statistics its weights' images were
    normalised: those of the folder, of the tag, or if all tags of the architecture agree theirs.
    """
    folders = [Path(architecture)]
    if file is not None and file.name.startswith("open_clip_"):
        folders.append(file.parent)
    settings = next((found for f in folders if (found := read_folder_preprocessing(f))), None)
    if settings is None:
        tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(architecture)
        known = [open_clip.get_pretrained_cfg(architecture, name) or {} for name in tags]
        pairs = {(tuple(c["mean"]), tuple(c["std"])) for c in known if c.get("mean")}
        if len(pairs) != 1:
            return
        settings = dict(zip(("mean", "std"), pairs.pop(), strict=True))
    set_model_preprocess_cfg(model, settings)


def build_tokenizer(architecture: str, context_length: int) -> Callable[..., Tensor]:
    """The tokenizer of an open_clip name, a hub id or a local folder; raises as
    :func:`build_model`.
    """
    text = config_of(architecture).get("text_cfg", {})
    name = text.get("hf_tokenizer_name") or ""
    if not is_model_folder(architecture):
        if name:
            require_transformers(architecture)
        return _with_advice(lambda: open_clip.get_tokenizer(architecture), architecture, name)
    options: Mapping[str, Any] = text.get("tokenizer_kwargs") or {}
    name = name or text.get("hf_model_name") or ""
    if not name:
        return open_clip.SimpleTokenizer(context_length=context_length, **options)
    require_transformers(architecture)
    source = local_part(architecture, name, TOKENIZER_FILES)
    length, mode = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_mode")
    return _with_advice(
        lambda: HFTokenizer(source, context_length=length, tokenizer_mode=mode, **options),
        *(architecture, source),
    )


def local_part(architecture: str, name: str, files: tuple[str, ...]) -> str:
    """The folder that holds one of the ``files`` of a Hugging Face model: of that name, inside the
    model folder or not, or the model folder itself; else the name, which is a hub id then.
    """
    model = Path(architecture)
    for folder in (model / name, Path(name).expanduser(), model):
        if any((folder / file).is_file() for file in files):
            return str(folder)
    return name


def require_transformers(architecture: str) -> None:
    """ModuleNotFoundError, with the command that installs it, without transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError(
            f"CLIP model {architecture!r} has a text tower or tokenizer of Hugging Face, which "
            f"needs the package transformers. Install it: {INSTALL}"
        )


def _with_advice(make: Callable[[], Any], architecture: str, source: str) -> Any:
    """What ``make`` gives; its failure to get Hugging Face's ``source`` as a FileNotFoundError."""
    try:
        return make()
    except Exception as error:  # network trouble raises errors of many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FileNotFoundError(
            f"CLIP model {architecture!r} needs Hugging Face's {source!r}, which is no folder that "
            f"can be read, nor in the local cache, and the download failed ({reason}). Without a "
            "network, copy its config.json and tokenizer files into a folder inside a model "
            "folder, name it in hf_model_name and hf_tokenizer_name of text_cfg in "
            "open_clip_config.json, and set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED to the model folder"
        ) from error
