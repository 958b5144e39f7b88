"""timm's convolutional trunks in open_clip's TimmModel: ConvNeXt, FastViT (MobileCLIP), ResNet; and
which tower reads which trunk.

Shapes: B images, C embedding, D width, H W image, h w grid.
"""

from collections.abc import Sequence

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from .attention_weights import AttentionWeight, attention_weights
from .resnet_tower import require_whole_cells
from .timm_vit_tower import TimmVitTower, embedding_width

CONVOLUTIONAL = (ConvNeXt, FastVit, ResNet)
"""Trunks with maps (B, D, h, w) of any size, pooled by the head that follows them."""


def timm_tower(visual: TimmModel) -> "TimmConvTower | TimmVitTower":
    """The tower around one of open_clip's TimmModels; ValueError for a trunk that has none."""
    trunk = visual.trunk
    if type(trunk) in (VisionTransformer, Eva):
        return TimmVitTower(visual)
    if isinstance(trunk, CONVOLUTIONAL):
        return TimmConvTower(visual)
    known = [kind.__name__ for kind in (*CONVOLUTIONAL, VisionTransformer, Eva)]
    raise ValueError(
        f"image tower: got timm's {type(trunk).__name__}, of which it is not known how its cells "
        f"are embedded; expected one of {known}"
    )


class TimmConvTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`.

    A cell's embedding is what open_clip's head makes of that cell alone, as if it were the mean of
    all cells: norm, then projection. Intermediate maps are those of the stages before the last.
    Batch norms use their statistics, and nothing is dropped at random. Source: FC-CLIP
    (NeurIPS 2023), which reads ConvNeXt so.
    """

    def __init__(self, visual: TimmModel) -> None:
        if "pool" in dict(visual.head.named_children()):
            raise ValueError(
                f"image tower: got a timm trunk with {type(visual.head.pool).__name__}, whose "
                "cells have no embeddings of their own; expected one with global average pooling"
            )
        self.visual, self.trunk = visual, visual.trunk
        self.statistics = statistics_of(visual)
        self.embed_dim = embedding_width(visual)
        self.maps = list(visual.trunk.feature_info)
        self.stride = (self.maps[-1]["reduction"],) * 2
        self.layers = range(len(self.maps) - 1)
        self.idle: list[nn.Parameter] = []
        self.fixed: list[nn.Module] = [visual]

    def width(self, layer: int) -> int:
        return self.maps[layer]["num_chs"]

    def scale(self, layer: int) -> int:
        return self.stride[0] // self.maps[layer]["reduction"]

    def entries(self, height: int, width: int) -> int:
        side = self.maps[0]["reduction"]
        return height // side * (width // side) * 4 * self.width(0)

    @property
    def attentions(self) -> list[AttentionWeight]:
        return attention_weights(self.trunk)

    def set_recompute(self, enabled: bool) -> None:
        self.trunk.set_grad_checkpointing(enabled)

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        require_whole_cells(images, self.stride)
        everything = list(range(len(self.maps)))
        x, maps = self.trunk.forward_intermediates(images, indices=everything)
        pooled = self.visual.head(self.trunk.forward_head(x))
        return DenseFeatures(self.embed(x), [maps[i] for i in layers], pooled)

    def embed(self, x: Tensor) -> Tensor:
        """The last map (B, D, h, w) to embeddings (B, C, h, w), cell by cell."""
        grid = x.shape[-2:]
        cells = x.flatten(2).transpose(1, 2).flatten(0, 1)[:, :, None, None]
        embedded = self.visual.head(self.trunk.forward_head(cells))
        return embedded.unflatten(0, (len(x), -1)).transpose(1, 2).unflatten(2, grid)
