"""The cost volume: cosines of patches with classes. Shapes: B images, T classes, C channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cost_volume(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of image embeddings (B, C, h, w) with text embeddings (T, C): (B, T, h, w) in -1..1.

    Source: CAT-Seg (CVPR 2024); no temperature.
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=-1)
    return (text @ image.flatten(2)).unflatten(2, image.shape[-2:])


def top_classes(costs: Tensor, keep: int) -> Tensor | None:
    """Indices (B, keep), ascending, of the classes whose best pixel in costs (B, T, h, w) is
    highest; None if no class has to go (T <= keep, or keep is 0).
    """
    if keep <= 0 or costs.shape[1] <= keep:
        return None
    return costs.flatten(2).amax(-1).topk(keep, dim=1).indices.sort(dim=1).values
