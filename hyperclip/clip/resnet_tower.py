"""CLIP's ResNets (RN50 and larger): open_clip's ModifiedResNet, every cell of its last map kept.

Shapes: B images, C embedding, D width, H W image, h w grid.
"""

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from ..runtime.recompute import run
from .attention_weights import AttentionWeight
from .vit_tower import resize_positions


class ResNetTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`.

    The attention pool sums the values of all cells, weighted by its attention; a cell's embedding
    is its own value, with its position, through the pool's output projection. So what open_clip
    pools is the mean of the embeddings, weighted by the attention of each head. Intermediate maps
    are what the first three of the four stages give, 8, 4 and 2 times finer than the embeddings.
    Positions are resized to fit. Batch norms use their statistics, not those of the batch.
    Source: MaskCLIP (ECCV 2022), which leaves positions out of the value.
    """

    def __init__(self, visual: ModifiedResNet) -> None:
        self.visual, self.statistics = visual, statistics_of(visual)
        self.stride = (32, 32)
        self.embed_dim: int = visual.output_dim
        self.layers = range(3)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The four stages, of strides 4, 8, 16 and 32."""
        visual = self.visual
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]

    def width(self, layer: int) -> int:
        return self.stages[layer][-1].conv3.out_channels  # type: ignore[return-value,union-attr]

    def scale(self, layer: int) -> int:
        return 2 ** (3 - layer)

    def entries(self, height: int, width: int) -> int:
        return height // 4 * (width // 4) * self.width(0)

    @property
    def attentions(self) -> list[AttentionWeight]:
        pool = self.visual.attnpool
        value = AttentionWeight(pool.v_proj, "weight", 0, ("v",))
        return [value, AttentionWeight(pool.c_proj, "weight", 0, ("out",))]

    @property
    def idle(self) -> list[nn.Parameter]:
        pool = self.visual.attnpool
        return [*pool.q_proj.parameters(), *pool.k_proj.parameters()]

    @property
    def fixed(self) -> list[nn.Module]:
        return [self.visual]

    def set_recompute(self, enabled: bool) -> None:
        self.visual.grad_checkpointing = enabled

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        require_whole_cells(images, self.stride)
        recompute = getattr(self.visual, "grad_checkpointing", False)
        x, maps = self.visual.stem(images), []
        for stage in self.stages:
            for block in stage:
                x = run(block, x, recompute=recompute)
            maps.append(x)
        pool, grid = self.visual.attnpool, x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + resize_positions(pool.positional_embedding, grid).to(tokens.dtype)
        values = pool.v_proj(tokens)
        pooled = pool.c_proj(self._pooled_values(tokens, values))
        dense = pool.c_proj(values[:, 1:]).transpose(1, 2).unflatten(2, grid)
        return DenseFeatures(dense, [maps[i] for i in layers], pooled)

    def _pooled_values(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Values (B, D) that the mean token, the first one, attends to."""
        pool = self.visual.attnpool
        parts = (pool.q_proj(tokens[:, :1]), pool.k_proj(tokens), values)
        q, k, v = (part.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v).flatten(1)


def require_whole_cells(images: Tensor, stride: tuple[int, int]) -> None:
    """ValueError unless the sides of images (B, 3, H, W) are multiples of a tower's stride."""
    height, width = images.shape[-2:]
    if height % stride[0] or width % stride[1]:
        raise ValueError(
            f"image size: got {height} x {width}, expected multiples of the stride "
            f"{stride[0]} x {stride[1]} of the image tower"
        )
