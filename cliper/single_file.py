"""Stable Diffusion 1 or 2 in a single checkpoint file, with the original authors' names of its
weights.

Shapes do not tell heads and groups, so that a file is taken for Stable Diffusion's own
architecture, or for what the configurations beside it say (``unet/config.json``,
``vae/config.json``, and ``text_encoder/config.json``), and has to fill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hyperclip.runtime.weights import find_state_dict, read_weights, require_fit
from torch import Tensor, nn

from .parts import load_scheduler, read_json

KEY = "MODEL.CLIPER.DIFFUSION.MODEL"
CROSS_ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
"""A weight (D, C) whose C is the width of the text encoder: it tells the versions apart."""

_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "sample_size": 64,
}
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Version:
    """What one version of Stable Diffusion is made of.

    Attributes:
        unet, text: settings of diffusers' UNet and of transformers' CLIP text model. padding: token
            behind the prompt.
    """

    unet: Mapping[str, Any]
    text: Mapping[str, Any]
    padding: int


_START, _END = 49406, 49407
_TEXT = {"vocab_size": 49408, "bos_token_id": _START, "eos_token_id": _END}
VERSIONS = {
    768: Version(
        {**_BLOCKS, "cross_attention_dim": 768, "attention_head_dim": 8},
        {
            **_TEXT,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        _END,
    ),
    1024: Version(
        {
            **_BLOCKS,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        {
            **_TEXT,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
        0,
    ),
}
"""Stable Diffusion 1 and 2, by the width of their text encoders."""


def load_single_file(path: Path, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Any, Tensor]:
    """Load autoencoder, UNet, scheduler and the embedding (1, S, C) of the empty prompt.

    Raises:
        ValueError: a file of another model, one that cannot be read, or whose weights do not fill
            the parts.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    state = find_state_dict(read_weights(path, KEY), f"{KEY} {str(path)!r}")
    folder = path.parent
    version = _version(path, state)
    unet_config, vae_config = _beside(folder, "unet"), _beside(folder, "vae")
    if unet_config is None or vae_config is None:
        channels = state["model.diffusion_model.input_blocks.0.0.weight"].shape[1]
        unet_config, vae_config = {**version.unet, "in_channels": channels}, dict(_VAE)
    try:
        unet_state = convert_ldm_unet_checkpoint(state, unet_config)
        vae_state = convert_ldm_vae_checkpoint(state, vae_config)
    except KeyError as error:
        raise ValueError(
            f"{KEY} {str(path)!r}: {error} is missing from it or its configuration. Was it cut "
            "short?"
        ) from error
    unet = _fill(UNet2DConditionModel, unet_config, unet_state, path, dtype)
    vae = _fill(AutoencoderKL, vae_config, vae_state, path, dtype)
    known = (folder / "scheduler" / "scheduler_config.json").is_file()
    scheduler = load_scheduler(folder / "scheduler") if known else PNDMScheduler(**_SCHEDULER)
    return vae, unet, scheduler, _empty_prompt(path, state, version)


def _version(path: Path, state: Mapping[str, Tensor]) -> Version:
    """Which Stable Diffusion a file holds, by the layout of its text encoder."""
    if CROSS_ATTENTION not in state or not any(
        name.startswith("cond_stage_model.") for name in state
    ):
        raise ValueError(
            f"{KEY} {str(path)!r}: no Stable Diffusion 1 or 2 in a single file, which has "
            "model.diffusion_model, first_stage_model and cond_stage_model; it begins with "
            f"{sorted(state)[:3]}. Expected such a file, or a folder in diffusers' format"
        )
    return VERSIONS[
        1024 if any(name.startswith("cond_stage_model.model.") for name in state) else 768
    ]


def _beside(folder: Path, part: str) -> dict[str, Any] | None:
    """The configuration of a part beside the file, if there is one."""
    file = folder / part / "config.json"
    return read_json(file) if file.is_file() else None


def _fill(
    kind: Any, config: Mapping[str, Any], state: dict[str, Tensor], path: Path, dtype: torch.dtype
) -> nn.Module:
    """A module of diffusers with a file's weights, all of them."""
    with torch.device("meta"):  # its own random weights would cost time and memory
        module = kind.from_config(dict(config))
    _require(module, state, path)
    module.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return module


def _require(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    require_fit(
        module.state_dict(),
        state,
        f"{KEY} {str(path)!r} does not fill the {type(module).__name__} of Stable Diffusion",
        "A model of another architecture needs its unet/config.json and vae/config.json beside the "
        "file",
    )


def _empty_prompt(path: Path, state: Mapping[str, Tensor], version: Version) -> Tensor:
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_open_clip_checkpoint,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    config = _beside(path.parent, "text_encoder")
    encoder: Any = CLIPTextModel(CLIPTextConfig(**(config or version.text))).float().eval()
    if version is VERSIONS[1024]:
        converted = convert_open_clip_checkpoint(
            encoder, dict(state), prefix="cond_stage_model.model."
        )
    else:
        converted = convert_ldm_clip_checkpoint(dict(state))
    own = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
    plain = {name.removeprefix("text_model."): value.float() for name, value in converted.items()}
    fitting = {
        own[name]: value for name, value in plain.items() if name in own
    }  # not the last block and projection
    _require(encoder, fitting, path)
    encoder.load_state_dict(fitting)
    length = encoder.config.max_position_embeddings
    tokens = torch.tensor([[_START, _END] + [version.padding] * (length - 2)])
    with torch.no_grad():
        return encoder(tokens)[0]
