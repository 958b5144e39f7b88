"""Windows: where overlapping crops of an image lie, and how what they hold is put together.

Shapes: V views (the crops), L layers, N = h w patches, n patches of a crop, C embedding, P prompts.
Source: CLIPer (ICCV 2025) and its released code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # a crop of a map: (top, left, height, width)


@dataclass(frozen=True)
class Windows:
    """An image's overlapping crops."""

    features: Tensor  # unit embeddings (V, L, n, C) of the crops
    boxes: list[Box]  # where each crop is, in patches
    affinity: Tensor  # the crops' affinities put together (N, N), rows normalised


def window_boxes(height: int, width: int, crop: int, stride: int) -> list[Box]:
    """Crops over a map, row by row; the last of a row or column is moved back inside. ValueError
    for a stride above the crop's side, or below 1: some patches would be in no crop.
    """
    if not 0 < stride <= crop:
        raise ValueError(f"window stride: got {stride}, expected 1 to the window's side {crop}")

    def starts(side: int) -> list[int]:
        last = max(side - crop, 0)
        return sorted({min(i * stride, last) for i in range(-(-last // stride) + 1)})

    h, w = min(crop, height), min(crop, width)
    return [(y, x, h, w) for y in starts(height) for x in starts(width)]


def merge_windows(windows: Windows, text: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosines (L, N, P) of the windows with the prompts, averaged where windows overlap."""
    layers, prompts = windows.features.shape[1], len(text)
    total = text.new_zeros(layers, *grid, prompts)
    count = text.new_zeros(*grid, 1)
    for features, (y, x, h, w) in zip(windows.features, windows.boxes, strict=True):
        total[:, y : y + h, x : x + w] += (features @ text.T).unflatten(1, (h, w))
        count[y : y + h, x : x + w] += 1
    return (total / count).flatten(1, 2)


def merge_affinities(affinities: Tensor, boxes: list[Box], grid: tuple[int, int]) -> Tensor:
    """Affinities (V, n, n) of crops as one (N, N): averaged over the crops that hold both patches,
    rows normalised; a row of zeros stays so.
    """
    patches = torch.arange(grid[0] * grid[1], device=affinities.device).view(grid)
    total = affinities.new_zeros(patches.numel(), patches.numel())
    count = torch.zeros_like(total)
    for affinity, (y, x, h, w) in zip(affinities, boxes, strict=True):
        inside = patches[y : y + h, x : x + w].flatten()
        total[inside[:, None], inside] += affinity
        count[inside[:, None], inside] += 1
    total /= count + 1e-5
    return total / total.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
