"""What image towers hand to heads. Shapes: B images, C embedding, D width, h w patch grid."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DenseFeatures:
    """What the image tower gives: patch embeddings and chosen intermediate outputs.

    Attributes:
        embeddings: (B, C, h, w), not normalised.
        intermediates: one map (B, D, h, w) for each requested block.
        class_token: (B, C), the class token through the same last block.
    """

    embeddings: Tensor
    intermediates: list[Tensor]
    class_token: Tensor

    def __getitem__(self, images: slice) -> DenseFeatures:
        """The features of some of the images."""
        return DenseFeatures(self.embeddings[images], [x[images] for x in self.intermediates], self.class_token[images])
