"""A dense image tower made of an image classifier: what a cell shows, in the words of its classes,
and, once it is trained, what its surroundings add to that.

Shapes: B images, K classes of the classifier, C embedding, D width, H W image, h w grid.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from .attention_weights import AttentionWeight
from .resnet_tower import require_whole_cells

STRIDE = 16
"""Pixels of a cell: the last stage is dilated instead of strided."""
LAST_STAGES = slice(5, None)
"""Of an EfficientNet's seven, those with the widest features."""
BEFORE_THEM = 3
"""The index of the map that they start from."""
NEIGHBOURS = 5
"""Cells per side of the surroundings that count as near."""


class ContextReading(nn.Module):
    """What a cell shows by its features, those near it, and those of the whole image: features (B,
    D, h, w) to embeddings (B, C, h, w), at most of length 1, and 0 until something is trained.
    """

    def __init__(self, width: int, hidden: int, embed_dim: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(3 * width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embed_dim),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        padding = NEIGHBOURS // 2
        near = F.avg_pool2d(features, NEIGHBOURS, 1, padding, count_include_pad=False)
        whole = features.mean((2, 3), keepdim=True).expand_as(features)
        cells = torch.cat([features, near, whole], dim=1).permute(0, 2, 3, 1)
        added = self.layers(cells).permute(0, 3, 1, 2)
        # so that words without any training image keep what the classifier says of them
        return added / torch.linalg.vector_norm(added, dim=1, keepdim=True).clamp_min(1)


def last_stages(trunk: Any) -> nn.Sequential:
    """A copy of an EfficientNet's stages with the widest features."""
    last = nn.Sequential(*trunk.blocks[LAST_STAGES], trunk.conv_head, trunk.bn2)
    return copy.deepcopy(last)


class ConceptEncoder(nn.Module):
    """An image encoder into the space of a text encoder: the text embeddings of a classifier's
    classes, weighted by their probabilities. Source: Norouzi et al., ConSE (ICLR 2014).

    Args:
        trunk: timm's EfficientNet with ``output_stride`` 16 and its classifier.
        last: a copy of its last stages with their batch norms.
        concepts: unit text embeddings (K, C) of the classifier's classes.
        mean, std: of the pixels that it was trained with, RGB, 0..1.
    """

    concepts: Tensor

    def __init__(
        self,
        trunk: EfficientNet,
        last: nn.Sequential,
        concepts: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("concepts", concepts)
        self.image_mean, self.image_std = tuple(mean), tuple(std)
        self.context: ContextReading | None = None
        self.stages: nn.Sequential | None = None
        self._last = (last,)  # a tuple: no part of the model before they are asked for

    def add_context(self, hidden: int, stages: bool) -> None:
        """Add what :class:`ContextReading` gives to the embeddings, whose directions stay; with
        ``stages`` it reads the features of a copy of the trunk's last stages.
        """
        self.context = ContextReading(self.trunk.num_features, hidden, self.concepts.shape[1])
        if stages:
            self.stages = copy.deepcopy(self._last[0]).to(self.concepts).requires_grad_(True)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What concepts and what context are read from, both (B, D, h, w), of normalised images (B,
        3, H, W), and the maps of the trunk's stages, from fine to coarse.
        """
        trunk: Any = self.trunk
        everything = list(range(len(trunk.feature_info)))
        features, maps = trunk.forward_intermediates(images, indices=everything)
        read = features if self.stages is None else self.stages(maps[BEFORE_THEM])
        return features, read, maps

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to embeddings (B, C) of their pooled features."""
        features, read, _ = self.features(images)
        pooled = (x.mean((2, 3), keepdim=True) for x in (features, read))
        return self.speak(*pooled).flatten(1)

    def speak(self, features: Tensor, read: Tensor) -> Tensor:
        """What :meth:`features` gives to embeddings (B, C, h, w): of each cell alone at most of
        length 1, or of length 1 with what the context adds.
        """
        logits = F.linear(
            features.permute(0, 2, 3, 1),
            self.trunk.classifier.weight,
            self.trunk.classifier.bias,
        )
        concepts = (logits.softmax(-1) @ self.concepts).permute(0, 3, 1, 2)
        if self.context is None:
            return concepts
        return F.normalize(concepts, dim=1) + self.context(read)


class ConceptTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`.

    A cell's embedding is what the encoder says of that cell alone, as if its features were the mean
    of all, and what the context adds. Intermediate maps are what the trunk's stages give, from
    stride 2 to 16. Batch norms use their statistics.
    """

    def __init__(self, visual: ConceptEncoder) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.statistics = statistics_of(visual)
        self.embed_dim = visual.concepts.shape[1]
        self.stride = (STRIDE, STRIDE)
        self.maps = list(visual.trunk.feature_info)
        self.layers = range(len(self.maps))
        self.idle: list[nn.Parameter] = []
        # batch norms use their statistics; the context has dropout
        self.fixed: list[nn.Module] = [
            part for part in (visual.trunk, visual.stages) if part is not None
        ]

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
        features, read, maps = self.visual.features(images)
        pooled = self.visual.speak(
            features.mean((2, 3), keepdim=True), read.mean((2, 3), keepdim=True)
        )
        embeddings = self.visual.speak(features, read)
        return DenseFeatures(embeddings, [maps[i] for i in layers], pooled.flatten(1))
