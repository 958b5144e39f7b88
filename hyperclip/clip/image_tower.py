"""Dense image towers: what every family of open_clip's image encoders gives, and which reads which.

A tower is a light object around open_clip's module, made when it is needed; the module stays as it
is. A family of one's own is a class with the attributes of :class:`ImageTower` and one line:

    IMAGE_TOWERS[MyEncoder] = MyTower

Shapes: B images, C embedding, D width, H W image, h w grid.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..dense_features import DenseFeatures
from ..normalization import Statistics
from .attention_weights import AttentionWeight
from .concept_tower import ConceptEncoder, ConceptTower
from .resnet_tower import ResNetTower
from .timm_tower import timm_tower
from .vit_tower import VitTower


class ImageTower(Protocol):
    """An image encoder that is read densely."""

    visual: Any
    """open_clip's module."""
    embed_dim: int
    """C, the width of the embeddings."""
    stride: tuple[int, int]
    """Pixels (vertical, horizontal) of a cell of the embedding grid."""
    statistics: Statistics
    """Means and standard deviations of the pixels that it was trained with, RGB, 0..255."""
    layers: range
    """Which intermediate maps there are: what MODEL.SEM_SEG_HEAD.CLIP_LAYERS may name."""

    def width(self, layer: int) -> int:
        """D, the channels of an intermediate map."""

    def scale(self, layer: int) -> int:
        """How many times finer than the embedding grid an intermediate map is, per side."""

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        """Encode normalised images (B, 3, H, W) into embeddings (B, C, h, w), the intermediate maps
        of some ``layers`` and the pooled embeddings (B, C); ValueError for a size that is no
        multiple of the stride.
        """

    def entries(self, height: int, width: int) -> int:
        """Entries of the largest tensor that an image of this size needs on the way."""

    @property
    def attentions(self) -> list[AttentionWeight]:
        """Attention weights that the dense features depend on; none for a convolutional tower."""

    @property
    def idle(self) -> list[nn.Parameter]:
        """Parameters that the dense features do not depend on."""

    @property
    def fixed(self) -> list[nn.Module]:
        """Modules that stay in evaluation mode in training, since in training mode they draw at
        random, or compute with the statistics of the batch.
        """

    def set_recompute(self, enabled: bool) -> None:
        """Whether in training activations are computed again in the backward pass."""


IMAGE_TOWERS: dict[type[nn.Module], Callable[[Any], ImageTower]] = {
    VisionTransformer: VitTower,
    TimmModel: timm_tower,
    ModifiedResNet: ResNetTower,
    ConceptEncoder: ConceptTower,
}
"""What reads each type of image encoder; ValueError, with the reason, from one that cannot."""


def image_tower(visual: nn.Module) -> ImageTower:
    """The tower around an image encoder, ``visual`` of an open_clip model; ValueError, with the
    reason, for one that cannot be read densely.
    """
    for kind, tower in IMAGE_TOWERS.items():
        if isinstance(visual, kind):
            return tower(visual)
    raise ValueError(
        f"image tower: got {type(visual).__name__}, which cannot be read densely; expected one of "
        f"{[kind.__name__ for kind in IMAGE_TOWERS]}"
    )


def check_layers(layers: Sequence[int], tower: ImageTower) -> None:
    """ValueError unless an image tower has all of these intermediate maps."""
    if any(i not in tower.layers for i in layers):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_LAYERS: got {list(layers)}, expected indices "
            f"{tower.layers.start} to {tower.layers.stop - 1}"
        )


def encode_dense(visual: nn.Module, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
    """:meth:`ImageTower.encode` of an image encoder; ValueError as that and :func:`image_tower`."""
    tower = image_tower(visual)
    check_layers(layers, tower)
    return tower.encode(images, layers)
