"""CLIP's own image tower: open_clip's vision transformer read block by block, every token kept.

Plain functions over open_clip's own modules; nothing is patched. Shapes: B images, N = h w patches,
D width, C embedding, A heads. The class token is always token 0.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from ..runtime.recompute import chain, run
from .attention_weights import AttentionWeight, attention_weights


def resize_positions(positions: Tensor, grid: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Position embeddings (1 + n n, D), class token first, resized ("bicubic" or "bilinear") to a
    grid (h, w): (1 + h w, D).
    """
    side = int((len(positions) - 1) ** 0.5)
    exact = all(isinstance(n, int) for n in grid)  # not any size, as of an exported program
    if exact and (side, side) == tuple(grid):
        return positions
    patches = positions[1:].T.reshape(1, -1, side, side).float()
    patches = F.interpolate(patches, size=grid, mode=mode, align_corners=False)
    return torch.cat([positions[:1], patches.to(positions.dtype).flatten(2)[0].T])


def embed_patches(
    visual: VisionTransformer, images: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Images (B, 3, H, W) to the tokens (B, 1 + N, D) that enter the first block, with position
    embeddings (1 + N, D), or the tower's own, resized. ValueError for other than whole patches.
    """
    ph, pw = visual.conv1.kernel_size
    height, width = images.shape[-2:]
    if height % ph or width % pw:
        raise ValueError(
            f"image size: got {height} x {width}, expected multiples of the patch size {ph} x {pw}"
        )
    patches = visual.conv1(images)
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    if positions is None:
        positions = resize_positions(visual.positional_embedding, patches.shape[-2:])
    return visual.ln_pre(x + positions.to(x.dtype))


def project(attn: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (B, A, N, d) of ``attn`` for tokens x (B, N, D)."""
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    return qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Heads (B, A, N, d) through the output projection of ``attn``: (B, N, D)."""
    return attn.out_proj(x.transpose(1, 2).flatten(2))


def attention(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Multi-head self-attention of ``attn`` over tokens x (B, N, D), without building the map."""
    q, k, v = project(attn, x)
    return merge_heads(attn, F.scaled_dot_product_attention(q, k, v))


def values(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """The values of ``attn`` alone for tokens x (..., D), all heads side by side."""
    d = x.shape[-1]
    return F.linear(x, attn.in_proj_weight[2 * d :], attn.in_proj_bias[2 * d :])


def residual_block(
    block: ResidualAttentionBlock, x: Tensor, attend: Callable[..., Tensor] = attention
) -> Tensor:
    """One ordinary residual attention block over tokens x (..., N, D)."""
    x = x + block.ls_1(attend(block.attn, block.ln_1(x)))
    return x + block.ls_2(mlp(block, x))


def mlp(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The norm and the MLP that follow attention, without keeping what the norm gives."""
    return block.mlp.c_proj(block.mlp.gelu(chain(block.ln_2, x, block.mlp.c_fc)))


def value_only_block(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The last block without attention: ``x[:, :1] + out_proj(W_v ln_1(x) + b_v)``, then the MLP.

    The residual is the class token's, not each token's own, as CAT-Seg's released weights were
    trained. Source: CAT-Seg (CVPR 2024).
    """
    value = values(block.attn, block.ln_1(x))
    x = x[:, :1] + block.ls_1(block.attn.out_proj(value))
    return x + block.ls_2(mlp(block, x))


def recomputes(transformer: Transformer) -> bool:
    """Whether a tower in training computes its activations again in the backward pass."""
    return bool(transformer.grad_checkpointing and transformer.training)


class VitTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`. Intermediate maps are what the blocks
    before the last give; the last one is applied without attention (:func:`value_only_block`), to
    the class token, too. Positions are resized to fit.
    """

    def __init__(self, visual: VisionTransformer) -> None:
        blocks = visual.transformer.resblocks
        if visual.attn_pool is not None or type(blocks[-1]) is not ResidualAttentionBlock:
            found = "an attentional pool" if visual.attn_pool else type(blocks[-1]).__name__
            raise ValueError(f"image tower: got a vision transformer with {found}, expected CLIP's")
        self.visual, self.stride = visual, visual.conv1.kernel_size
        self.statistics = statistics_of(visual)
        self.embed_dim: int = visual.output_dim
        self.layers = range(len(blocks) - 1)
        self.idle: list[nn.Parameter] = []
        self.fixed: list[nn.Module] = []

    def width(self, layer: int) -> int:
        return self.visual.conv1.out_channels

    def scale(self, layer: int) -> int:
        return 1

    def entries(self, height: int, width: int) -> int:
        tokens = height * width // self.visual.conv1.weight[0, 0].numel()
        return tokens * 4 * self.visual.conv1.out_channels

    @property
    def attentions(self) -> list[AttentionWeight]:
        return attention_weights(self.visual.transformer)

    def set_recompute(self, enabled: bool) -> None:
        self.visual.transformer.grad_checkpointing = enabled

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        visual = self.visual
        blocks = visual.transformer.resblocks
        ph, pw = visual.conv1.kernel_size
        grid = (images.shape[-2] // ph, images.shape[-1] // pw)
        x = embed_patches(visual, images)
        recompute = recomputes(visual.transformer)
        outputs: dict[int, Tensor] = {}
        for i, block in enumerate(blocks[:-1]):
            x = run(residual_block, block, x, recompute=recompute)
            if i in layers:
                outputs[i] = _to_map(x, grid)
        x = visual.ln_post(run(value_only_block, blocks[-1], x, recompute=recompute))
        if visual.proj is not None:
            x = x @ visual.proj
        return DenseFeatures(_to_map(x, grid), [outputs[i] for i in layers], x[:, 0])

    @property
    def last_norm(self) -> nn.Module:
        """The last norm, whose output :meth:`embed_output` takes."""
        return self.visual.ln_post

    def embed_output(self, output: Tensor) -> Tensor:
        """Patch embeddings (B, N, C) of what ``ln_post`` gives, (B, 1 + N, D), in float32."""
        x = output.float()[:, 1:]
        return x if self.visual.proj is None else x @ self.visual.proj.float()


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
