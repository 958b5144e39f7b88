"""Stable Diffusion 1 or 2 in a single checkpoint file, with the original authors' weight names.

Shapes do not tell heads and groups. So a file is taken for Stable Diffusion's own architecture, or
for what the configurations beside it say (``unet/config.json``, ``vae/config.json``,
``text_encoder/config.json``), and has to fill it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperclip.runtime.weights import find_state_dict, read_weights, require_fit
from torch import Tensor, nn

from .diffusion_parts import load_scheduler, read_json

KEY = "MODEL.CLIPER.DIFFUSION.MODEL"
CROSS_ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

_START, _END = 49406, 49407
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}


class Version(NamedTuple):
    """What a version of Stable Diffusion changes of the libraries' defaults: settings of diffusers'
    UNet and of transformers' CLIP text model, and the token behind the prompt.
    """

    unet: Mapping[str, Any]
    text: Mapping[str, Any]
    padding: int


FIRST = Version(
    {"cross_attention_dim": 768, "attention_head_dim": 8},
    {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    _END,
)
SECOND = Version(
    {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    0,
)


def load_single_file(path: Path, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Any, Tensor]:
    """Load autoencoder, UNet, scheduler and the embedding (1, N, C) of the empty prompt; ValueError
    for a file of another model, that cannot be read, or that does not fill the parts.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from diffusers.loaders import single_file_utils

    state = find_state_dict(read_weights(path, KEY), f"{KEY} {str(path)!r}")
    folder = path.parent
    version = _version(path, state)
    unet_config, vae_config = _beside(folder, "unet"), _beside(folder, "vae")
    if unet_config is None or vae_config is None:
        channels = state["model.diffusion_model.input_blocks.0.0.weight"].shape[1]
        unet_config, vae_config = {**version.unet, "in_channels": channels, "sample_size": 64}, _VAE
    with torch.device("meta"):  # random weights would cost time and memory
        unet: Any = UNet2DConditionModel.from_config(unet_config)
        vae: Any = AutoencoderKL.from_config(vae_config)
    try:
        unet_state = single_file_utils.convert_ldm_unet_checkpoint(state, unet.config)
        vae_state = single_file_utils.convert_ldm_vae_checkpoint(state, vae.config)
    except KeyError as error:
        raise ValueError(
            f"{KEY} {str(path)!r}: {error} is missing from it or its configuration. Was it cut "
            "short?"
        ) from error
    for module, weights in ((unet, unet_state), (vae, vae_state)):
        weights = {name: value.to(dtype) for name, value in weights.items()}
        _fill(module, weights, path, assign=True)
    known = (folder / "scheduler" / "scheduler_config.json").is_file()
    scheduler = load_scheduler(folder / "scheduler") if known else PNDMScheduler(**_SCHEDULER)
    return vae, unet, scheduler, _empty_prompt(path, state, version)


def _version(path: Path, state: Mapping[str, Tensor]) -> Version:
    """Which Stable Diffusion a file holds, by the layout of its text encoder."""
    text = [name for name in state if name.startswith("cond_stage_model.")]
    if CROSS_ATTENTION not in state or not text:
        raise ValueError(
            f"{KEY} {str(path)!r}: no Stable Diffusion 1 or 2 in a single file, which has "
            "model.diffusion_model, first_stage_model and cond_stage_model; it begins with "
            f"{sorted(state)[:3]}. Expected such a file, or a folder in diffusers' format"
        )
    second = any(name.startswith("cond_stage_model.model.") for name in text)
    return SECOND if second else FIRST


def _beside(folder: Path, part: str) -> dict[str, Any] | None:
    """The configuration of a part beside the file, if there is one."""
    file = folder / part / "config.json"
    return read_json(file) if file.is_file() else None


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, **how: bool) -> None:
    """Load the weights of a part; ValueError unless they are those that it has."""
    what = f"{KEY} {str(path)!r} does not fill the {type(module).__name__} of Stable Diffusion"
    beside = "unet/config.json and vae/config.json beside the file"
    fix = f"A model of another architecture needs its {beside}"
    require_fit(module.state_dict(), state, what, fix)
    module.load_state_dict(state, **how)


def _empty_prompt(path: Path, state: Mapping[str, Tensor], version: Version) -> Tensor:
    """Embedding (1, N, C) of the empty prompt."""
    from diffusers.loaders import single_file_utils
    from transformers import CLIPTextConfig, CLIPTextModel

    config = _beside(path.parent, "text_encoder")
    encoder: Any = CLIPTextModel(CLIPTextConfig(**(config or version.text))).float().eval()
    if version is SECOND:
        converted = single_file_utils.convert_open_clip_checkpoint(
            encoder, dict(state), prefix="cond_stage_model.model."
        )
    else:
        converted = single_file_utils.convert_ldm_clip_checkpoint(dict(state))
    own = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
    plain = {name.removeprefix("text_model."): value.float() for name, value in converted.items()}
    # the file has a last block and a projection that are not used
    fitting = {own[name]: value for name, value in plain.items() if name in own}
    _fill(encoder, fitting, path)
    length = encoder.config.max_position_embeddings
    tokens = torch.tensor([[_START, _END] + [version.padding] * (length - 2)])
    with torch.no_grad():
        return encoder(tokens)[0]
