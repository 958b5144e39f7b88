"""What image towers hand to heads. Shapes: B images, C embedding, D width, h w patch grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseFeatures:
    """What an image tower gives: embeddings of cells and chosen intermediate outputs."""

    embeddings: Tensor  # (B, C, h, w), not normalised
    intermediates: list[Tensor]  # a map (B, D, h, w), or finer, for each requested layer
    class_token: Tensor  # (B, C), pooled; of CLIP's ViT through the same last block

    @staticmethod
    def join(parts: Sequence[DenseFeatures]) -> DenseFeatures:
        """Features of all images of the parts."""
        maps = zip(*(part.intermediates for part in parts), strict=True)
        tokens = torch.cat([part.class_token for part in parts])
        embeddings = torch.cat([part.embeddings for part in parts])
        return DenseFeatures(embeddings, [torch.cat(m) for m in maps], tokens)

    def __getitem__(self, images: slice) -> DenseFeatures:
        """Features of some of the images."""
        maps = [m[images] for m in self.intermediates]
        return DenseFeatures(self.embeddings[images], maps, self.class_token[images])
