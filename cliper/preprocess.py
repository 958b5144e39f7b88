"""Resizing for CLIP: the whole image, its aspect kept, both sides multiples of the patch size."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def target_size(
    height: int, width: int, shortest: int, patch: int, longest: int
) -> tuple[int, int]:
    """Size (H, W) in whole patches whose shorter side is about ``shortest``, or whose longer side
    is about ``longest`` where it would be more.
    """
    scale = min(shortest / min(height, width), longest / max(height, width))
    return tuple(max(int(side * scale / patch + 0.5), 1) * patch for side in (height, width))  # type: ignore[return-value]


def resize_for_clip(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 RGB (3, h, w) to (3, H, W) with Pillow's bicubic filter, as CLIP does."""
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    resized = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
