"""Checkpoints of CAT-Seg and HyperCLIP, recognised by their key names and renamed to ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

CLIP_PREFIX = "sem_seg_head.predictor.clip_model."
HEAD_PREFIX = "sem_seg_head.predictor.transformer."

_DOUBLE_CONV = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
_HEAD_RULES = (
    (r"^conv1\.", "cost_embedding."),
    (r"^guidance_projection\.0\.", "appearance_projection."),
    (r"^text_guidance_projection\.0\.", "text_projection."),
    (r"^decoder_guidance_projection\.(\d)\.0\.", r"decoder_projections.\1."),
    (r"^head\.", "decoder.classifier."),
    (r"^decoder(\d)\.", lambda m: f"decoder.stages.{int(m[1]) - 1}."),
    (r"\.conv\.double_conv\.(\d)\.", lambda m: f".{_DOUBLE_CONV[m[1]]}."),
    (r"\.swin_block\.guidance_norm\.", ".spatial.guidance_norm."),
    (r"\.swin_block\.block_(\d)\.", lambda m: f".spatial.blocks.{int(m[1]) - 1}."),
    (r"(\.blocks\.\d)\.attn\.([qkv])\.", r"\1.projections.\2."),
    (r"(\.blocks\.\d)\.attn\.proj\.", r"\1.proj."),
    (r"(\.blocks\.\d)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"(\.blocks\.\d)\.mlp\.fc2\.", r"\1.mlp.2."),
    (r"\.attention\.attention\.([qkv])\.", r".classes.projections.\1."),
    (r"\.attention\.MLP\.", ".classes.mlp."),
    (r"\.attention\.(norm\d)\.", r".classes.\1."),
    (r"\.attention\.padding_tokens$", ".classes.padding_token"),
    (r"\.attention\.padding_guidance$", ".classes.padding_guidance"),
)
_DERIVED = re.compile(
    r"(attn_mask|relative_position_index|pixel_mean|pixel_std"
    r"|input_resolution|context_length|vocab_size)$"
)
"""Buffers that the model computes itself; a published file may hold them."""


def is_published(keys: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has CAT-Seg's and HyperCLIP's key names."""
    return any(key.startswith((CLIP_PREFIX, HEAD_PREFIX)) for key in keys)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a published state dict to this framework's names.

    HyperCLIP's adapters (``hyperbolic_attn.adapter_attn_q.weights``) become parametrizations,
    CAT-Seg's split projections (``attn.q_proj_weight``) become trained projections over the fused
    weight. Keys that are not recognised keep their name, so that loading reports them.
    """
    converted: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if _DERIVED.search(key):
            continue
        if key.startswith(CLIP_PREFIX):
            name = key.removeprefix(CLIP_PREFIX)
            part = re.fullmatch(r"(.*\.attn)\.([qkv])_proj_weight", name)
            if part:
                split.setdefault(part[1], {})[part[2]] = value
            else:
                converted["clip." + _clip_name(name, state)] = value
        elif key.startswith(HEAD_PREFIX):
            name = key.removeprefix(HEAD_PREFIX)
            for pattern, replacement in _HEAD_RULES:
                name = re.sub(pattern, replacement, name)
            converted["sem_seg_head." + name] = value.flatten() if "padding_" in name else value
        elif re.match(r"upsample[12]\.", key):
            converted[f"sem_seg_head.upsample.{int(key[8]) - 1}{key[9:]}"] = value
        else:
            converted[key] = value
    for attn, parts in split.items():
        if set(parts) != {"q", "k", "v"}:
            converted |= {f"{CLIP_PREFIX}{attn}.{n}_proj_weight": v for n, v in parts.items()}
            continue
        target = f"clip.{attn}.parametrizations.in_proj_weight"
        converted[f"{target}.original"] = torch.cat([parts["q"], parts["k"], parts["v"]])
        converted[f"{target}.0.q"], converted[f"{target}.0.v"] = parts["q"], parts["v"]
    return converted


def _clip_name(name: str, state: Mapping[str, Tensor]) -> str:
    adapter = re.fullmatch(r"(.*)\.hyperbolic_attn\.adapter_attn_([qkv])\.weights", name)
    if adapter:
        return f"{adapter[1]}.attn.parametrizations.in_proj_weight.0.{adapter[2]}"
    fused = re.fullmatch(r"(.*)\.attn\.in_proj_weight", name)
    if fused and f"{CLIP_PREFIX}{fused[1]}.hyperbolic_attn.adapter_attn_q.weights" in state:
        return f"{fused[1]}.attn.parametrizations.in_proj_weight.original"
    return name
