"""A dense image tower made of an image classifier: what a cell shows, in the words of its classes.

Shapes: B images, K classes of the classifier, C embedding, D width, H W image, h w grid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from .attention_weights import AttentionWeight
from .resnet_tower import require_whole_cells

STRIDE = 16
"""Pixels of a cell: the last stage is dilated instead of strided."""


class ConceptEncoder(nn.Module):
    """An image encoder into the space of a text encoder: the text embeddings of a classifier's
    classes, weighted by their probabilities. Source: Norouzi et al., ConSE (ICLR 2014).

    Args:
        trunk: timm's EfficientNet with ``output_stride`` 16 and its classifier.
        concepts: unit text embeddings (K, C) of the classifier's classes.
        mean, std: of the pixels that it was trained with, RGB, 0..1.
    """

    concepts: Tensor

    def __init__(
        self,
        trunk: EfficientNet,
        concepts: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("concepts", concepts)
        self.image_mean, self.image_std = tuple(mean), tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to embeddings (B, C) of their pooled features."""
        return self.speak(self.trunk.forward_features(images).mean((2, 3)))

    def speak(self, features: Tensor) -> Tensor:
        """Features (..., D) to embeddings (..., C), at most of length 1."""
        logits = F.linear(features, self.trunk.classifier.weight, self.trunk.classifier.bias)
        return logits.softmax(-1) @ self.concepts


class ConceptTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`.

    A cell's embedding is what the encoder says of that cell alone, as if its features were the mean
    of all. Intermediate maps are what the trunk's stages give, from stride 2 to 16. Batch norms use
    their statistics.
    """

    def __init__(self, visual: ConceptEncoder) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.statistics = statistics_of(visual)
        self.embed_dim = visual.concepts.shape[1]
        self.stride = (STRIDE, STRIDE)
        self.maps = list(visual.trunk.feature_info)
        self.layers = range(len(self.maps))
        self.idle: list[nn.Parameter] = []
        self.fixed: list[nn.Module] = [visual]

    def width(self, layer: int) -> int:
        return self.maps[layer]["num_chs"]

    def scale(self, layer: int) -> int:
        return STRIDE // self.maps[layer]["reduction"]

    def entries(self, height: int, width: int) -> int:
        return height // 2 * (width // 2) * 96  # what the second block expands its input to

    @property
    def attentions(self) -> list[AttentionWeight]:
        return []

    def set_recompute(self, enabled: bool) -> None:
        self.trunk.set_grad_checkpointing(enabled)

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        require_whole_cells(images, self.stride)
        everything = list(range(len(self.maps)))
        features, maps = self.trunk.forward_intermediates(images, indices=everything)
        embeddings = self.visual.speak(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        pooled = self.visual.speak(features.mean((2, 3)))
        return DenseFeatures(embeddings, [maps[i] for i in layers], pooled)
