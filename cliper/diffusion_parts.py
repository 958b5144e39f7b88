"""Loading a part of a diffusion model, in full or not at all, from diffusers' kind of folder."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from hyperclip.runtime import files
from torch import nn

WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Beginnings of weight files: diffusers', and transformers' for safetensors and ``.bin``."""

VARIANTS = ("fp16", "bf16", "ema", "non_ema")
"""Variants of weights that folders hold, in the order in which they stand in for the plain ones."""


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration; FileNotFoundError without one, ValueError if it is no JSON object."""
    if not file.is_file():
        raise FileNotFoundError(
            f"diffusion model {str(file.parent)!r} lacks {file.name}. Expected a folder as "
            "diffusers' save_pretrained writes it"
        )
    content = files.read_json(file, "diffusion model:")
    if not isinstance(content, dict):
        raise ValueError(
            f"diffusion model: {str(file)!r} holds a {type(content).__name__}, expected a JSON "
            "object"
        )
    return content


def variant_of(folder: Path) -> str | None:
    """The variant of weights to load, None for plain ones; FileNotFoundError without any."""
    pattern = rf"(?:{'|'.join(WEIGHTS)})(?:\.([A-Za-z0-9_]+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
    matches = [re.fullmatch(pattern, file.name) for file in sorted(folder.iterdir())]
    found = [match[1] for match in matches if match]
    if not found:
        raise FileNotFoundError(
            f"diffusion model: {str(folder)!r} has no weights, expected {WEIGHTS[0]}.safetensors "
            "(or .bin, or a variant such as fp16). Was the copy or download cut short?"
        )
    return next((variant for variant in (None, *VARIANTS) if variant in found), found[0])


def load_module(folder: Path, classes: Collection[str], dtype: torch.dtype) -> nn.Module:
    """Load a part; ValueError unless its class is one of ``classes`` and the weights fill it."""
    import diffusers

    name = str(read_json(folder / "config.json").get("_class_name"))
    if name not in classes:
        raise ValueError(
            f"diffusion model: {str(folder)!r} is a {name}, expected {' or '.join(classes)}"
        )
    return load_fully(getattr(diffusers, name).from_pretrained, folder, torch_dtype=dtype)


def load_fully(loader: Any, folder: Path, **options: Any) -> nn.Module:
    """Call ``from_pretrained`` on a folder; ValueError unless its files hold all weights."""
    options |= {"variant": variant_of(folder), "output_loading_info": True}
    model, info = read_folder(loader, folder, **options)
    kinds = ("missing", "mismatched", "unexpected")
    faults = {kind: sorted(map(str, info.get(f"{kind}_keys") or ())) for kind in kinds}
    if wrong := [f"{len(keys)} {kind} {keys[:3]}" for kind, keys in faults.items() if keys]:
        raise ValueError(
            f"diffusion model: the weights in {str(folder)!r} do not fit its config.json: "
            f"{', '.join(wrong)}. Was a file replaced, or the copy cut short?"
        )
    return model


def load_scheduler(folder: Path) -> Any:
    """Load the scheduler that a folder names; ValueError unless it can add noise to latents."""
    import diffusers

    name = read_json(folder / "scheduler_config.json").get("_class_name")
    known: Any = getattr(diffusers, str(name), None)
    if not hasattr(known, "add_noise"):
        raise ValueError(
            f"diffusion model: {str(folder)!r} names the scheduler {name!r}, expected one of "
            "diffusers that has add_noise, such as PNDMScheduler or DDIMScheduler"
        )
    return read_folder(known.from_pretrained, folder)


def read_folder(loader: Callable[..., Any], folder: Path, **options: Any) -> Any:
    """Call ``from_pretrained`` on a folder of this machine; ValueError for whatever it raises."""
    try:
        return loader(str(folder), local_files_only=True, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"diffusion model {str(folder)!r} cannot be read ({type(error).__name__}: {reason}). "
            "Expected diffusers' own format; was the copy or download cut short?"
        ) from error
