"""The CLIP of a model as a checkpoint in OpenAI's format, which most programs of CLIP read."""

from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from ..adapters import adapters
from ..clip import activation_of
from ..clip.activation import OPENAI_EXTRAS, QUICK_GELU
from ..clip.image_tower import image_tower
from ..clip.vit_tower import VitTower
from ..normalization import CLIP_MEAN, CLIP_STD
from ..runtime.files import write_atomically
from ..segmenter import Segmenter

HEAD_WIDTH = 64
"""Of OpenAI's models: the format does not say it."""


def save_openai(model: Segmenter, file: Path) -> Path:
    """Write the CLIP of a model, adapters merged, as a state dict of OpenAI's format, in full or
    not at all; the file's path.

    Raises:
        ValueError: adapters that are not merged, or a CLIP that the format cannot hold.
        FileExistsError: a file that is there. OSError: it cannot be written.
    """
    if file.exists():
        raise FileExistsError(f"--output: got {str(file)!r}, which is there. Choose another one")
    if any(True for _ in adapters(model.clip)):
        raise ValueError("CLIP has adapters that are not merged: load the model with merged=True")
    state = openai_state(model)
    write_atomically(file, lambda path: torch.save(state, path))
    return file


def openai_state(model: Segmenter) -> dict[str, Tensor]:
    """The state dict with the three numbers of OpenAI's; ValueError as :func:`save_openai`."""
    clip = model.clip
    if problem := _problem(clip):
        raise ValueError(
            f"OpenAI's format: got {problem}, which it cannot hold. Leave --format openai out: "
            "open_clip's format holds any CLIP"
        )
    for own, usual in ((model.pixel_mean, CLIP_MEAN), (model.pixel_std, CLIP_STD)):
        if not torch.allclose(own.flatten().cpu(), torch.tensor(usual), atol=1e-2):
            raise ValueError(
                f"OpenAI's format: got pixel statistics {own.flatten().tolist()}, which it does "
                "not say. Leave --format openai out"
            )
    side = int(clip.visual.conv1.kernel_size[0])
    cells = round((len(clip.visual.positional_embedding) - 1) ** 0.5)
    numbers = (cells * side, clip.context_length, len(clip.token_embedding.weight))
    state = {name: value.detach().cpu().clone() for name, value in clip.state_dict().items()}
    extras = zip(OPENAI_EXTRAS, numbers, strict=True)
    return state | {name: torch.tensor(number) for name, number in extras}


def _problem(clip: Any) -> str:
    """What of a CLIP model OpenAI's format cannot hold, "" for nothing."""
    if not isinstance(clip, open_clip.CLIP) or not isinstance(image_tower(clip.visual), VitTower):
        return f"{type(clip).__name__} with {type(clip.visual).__name__}"
    if activation_of(clip) != QUICK_GELU:
        return f"the activation {activation_of(clip)}"
    blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
    if any(type(block) is not ResidualAttentionBlock for block in blocks):
        return "blocks of another kind than CLIP's"
    widths = {block.attn.embed_dim // block.attn.num_heads for block in blocks}
    if widths != {HEAD_WIDTH}:
        return f"attention heads of the widths {sorted(widths)} (expected {HEAD_WIDTH})"
    unknown = [name for name in clip.state_dict() if "ls_" in name or name == "logit_bias"]
    return f"the entry {unknown[0]}" if unknown else ""
