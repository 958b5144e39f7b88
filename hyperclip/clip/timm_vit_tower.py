"""timm's vision transformers in open_clip's TimmModel: EVA, EVA02, SigLIP, plain ones.

Shapes: B images, N = h w patches, C embedding, D width, H W image, h w grid.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.layers import (
    Attention,
    AttentionPoolLatent,
    PatchEmbed,
    RotaryEmbeddingCat,
    resample_abs_pos_embed,
)
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ..dense_features import DenseFeatures
from ..normalization import statistics_of
from ..runtime.recompute import run
from .attention_weights import AttentionWeight, attention_weights
from .resnet_tower import require_whole_cells

POOLS = ("token", "avg", "map")


class TimmVitTower:
    """See :class:`hyperclip.clip.image_tower.ImageTower`. A patch's embedding follows the pooling:

    - class token ("token"): the last block is applied to each patch without attention, its value
      instead of a mean of values, with the patch's own residual; then norm and projection.
      Source: MaskCLIP (ECCV 2022). The pooled embedding is open_clip's, by the block as it is.
    - attention pool ("map", SigLIP): the pool is applied to each patch alone, so that its value
      path gives the embedding. What open_clip pools is the same for patches that are all equal.
    - mean ("avg"): norm and projection of each patch.

    Intermediate maps are what the blocks before the last give. Position embeddings are resized as
    timm does, rotary ones are computed for the grid. Nothing is dropped at random.
    """

    def __init__(self, visual: TimmModel) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.statistics = statistics_of(visual)
        self.pool = "map" if self.trunk.attn_pool is not None else self.trunk.global_pool
        fault = self._fault()
        if fault:
            raise ValueError(f"image tower: got timm's {type(self.trunk).__name__} with {fault}")
        self.stride: tuple[int, int] = self.trunk.patch_embed.patch_size
        self.embed_dim = embedding_width(visual)
        self.layers = range(len(self.trunk.blocks) - 1)
        self.fixed: list[nn.Module] = [visual]

    def _fault(self) -> str:
        """What cannot be read patch by patch, and what is expected; "" if all can."""
        trunk = self.trunk
        known = (
            (trunk.patch_embed, (PatchEmbed,)),
            (trunk.blocks[-1], (Block, EvaBlock)),
            (trunk.blocks[-1].attn, (Attention, EvaAttention)),
            (trunk.attn_pool, (AttentionPoolLatent, type(None))),
            (getattr(trunk, "rope", None), (RotaryEmbeddingCat, type(None))),
        )
        for module, kinds in known:
            if type(module) not in kinds:
                return f"{type(module).__name__}, expected {kinds[0].__name__}"
        if self.pool not in POOLS:
            return f"pooling {self.pool!r}, expected one of {list(POOLS)}"
        pool = trunk.attn_pool
        if pool is not None and (pool.pos_embed is not None or pool.latent_len != 1):
            return "positions or several queries in its attention pool, expected one query"
        if getattr(trunk.blocks[-1].attn, "gate", None) is not None:
            return "gated attention, expected attention without a gate"
        return ""

    def width(self, layer: int) -> int:
        return self.trunk.embed_dim

    def scale(self, layer: int) -> int:
        return 1

    def entries(self, height: int, width: int) -> int:
        return height // self.stride[0] * (width // self.stride[1]) * 4 * self.trunk.embed_dim

    @property
    def attentions(self) -> list[AttentionWeight]:
        found = attention_weights(self.trunk.blocks)
        if self.pool == "token":  # of the last block values alone are used
            return [w for w in found if not self._is_idle(w)]
        if self.pool == "map":
            pool = self.trunk.attn_pool
            layer = len(self.trunk.blocks)
            found.append(AttentionWeight(pool.kv, "weight", layer, ("k", "v")))
            found.append(AttentionWeight(pool.proj, "weight", layer, ("out",)))
        return found

    def _is_idle(self, weight: AttentionWeight) -> bool:
        return weight.layer == len(self.trunk.blocks) - 1 and weight.matrices in (("q",), ("k",))

    @property
    def idle(self) -> list[nn.Parameter]:
        if self.pool == "map":
            pool = self.trunk.attn_pool
            unread = (pool.q, pool.q_norm, pool.k_norm)
            return [pool.latent, *(p for module in unread for p in module.parameters())]
        if self.pool == "avg":
            return []
        attn = self.trunk.blocks[-1].attn
        names = ("q_proj", "k_proj", "q_norm", "k_norm")
        layers = [own for name in names if (own := getattr(attn, name, None)) is not None]
        bias = getattr(attn, "q_bias", None)
        return [*(p for own in layers for p in own.parameters()), *([] if bias is None else [bias])]

    def set_recompute(self, enabled: bool) -> None:
        self.trunk.set_grad_checkpointing(enabled)

    def encode(self, images: Tensor, layers: Sequence[int] = ()) -> DenseFeatures:
        require_whole_cells(images, self.stride)
        trunk, recompute = self.trunk, self.trunk.grad_checkpointing
        grid = (images.shape[-2] // self.stride[0], images.shape[-1] // self.stride[1])
        x, rope = self._embed_patches(images, grid), self._rotations(grid)
        options = () if rope is None else (rope,)
        outputs: dict[int, Tensor] = {}
        for i, block in enumerate(trunk.blocks[:-1]):
            x = run(block, x, *options, recompute=recompute)
            if i in layers:
                outputs[i] = self._to_map(x, grid)
        last = trunk.blocks[-1]
        tokens = trunk.norm(run(last, x, *options, recompute=recompute))
        pooled = self.visual.head(trunk.forward_head(tokens))
        if self.pool == "token":
            tokens = trunk.norm(run(value_only_block, last, x, recompute=recompute))
        elif self.pool == "map":
            tokens = value_only_pool(trunk.attn_pool, tokens)
        embeddings = self.visual.head(trunk.head(trunk.fc_norm(tokens)))
        return DenseFeatures(self._to_map(embeddings, grid), [outputs[i] for i in layers], pooled)

    def _embed_patches(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, prefix + N, D) that enter the first block."""
        trunk = self.trunk
        embed = trunk.patch_embed
        x = embed.norm(embed.proj(images).flatten(2).transpose(1, 2))
        tokens = [t for t in (trunk.cls_token, getattr(trunk, "reg_token", None)) if t is not None]
        prefix = [token.expand(len(x), -1, -1) for token in tokens]
        if trunk.pos_embed is None:
            return trunk.norm_pre(torch.cat([*prefix, x], dim=1))
        shared = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        positions = resample_abs_pos_embed(
            trunk.pos_embed, list(grid), list(embed.grid_size), num_prefix_tokens=shared
        )
        if trunk.no_embed_class:
            x = torch.cat([*prefix, x + positions], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + positions
        return trunk.norm_pre(x)

    def _rotations(self, grid: tuple[int, int]) -> Tensor | None:
        """Rotary position embeddings (N, d) of a grid, None for a trunk without."""
        rope = getattr(self.trunk, "rope", None)
        if rope is None:
            return None
        if rope.feat_shape is not None and tuple(rope.feat_shape) != grid:
            rope = copy.deepcopy(rope)  # the trunk's own stays as it is
            rope.update_feat_shape(list(grid))
        return rope.get_embed(list(grid))

    def _to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = self.trunk.num_prefix_tokens
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)


def value_only_block(block: Any, x: Tensor) -> Tensor:
    """A block over tokens x (B, N, D) without attention: ``x + proj(W_v norm1(x) + b_v)``, then the
    MLP. Source: MaskCLIP (ECCV 2022).
    """
    attn, u = block.attn, block.norm1(x)
    if getattr(attn, "v_proj", None) is not None:
        value = attn.v_proj(u)
    else:
        bias = getattr(attn, "v_bias", None)
        if bias is None and attn.qkv.bias is not None:
            bias = attn.qkv.bias.chunk(3)[2]
        value = F.linear(u, attn.qkv.weight.chunk(3)[2], bias)
    x = x + _scaled(block, 1, attn.proj(attn.norm(value)))
    return x + _scaled(block, 2, block.mlp(block.norm2(x)))


def _scaled(block: Any, which: int, x: Tensor) -> Tensor:
    """A branch of a block with its layer scale, if it has one."""
    if isinstance(block, Block):
        return getattr(block, f"ls{which}")(x)
    scale = getattr(block, f"gamma_{which}")
    return x if scale is None else scale * x


def value_only_pool(pool: Any, x: Tensor) -> Tensor:
    """What an attention pool of timm's gives for each token of x (B, N, D) alone."""
    weight, bias = pool.kv.weight.chunk(2)[1], pool.kv.bias
    value = pool.proj(F.linear(x, weight, None if bias is None else bias.chunk(2)[1]))
    return value if pool.mlp is None else value + pool.mlp(pool.norm(value))


def embedding_width(visual: TimmModel) -> int:
    """C of a TimmModel: that of its last linear layer, else of the trunk's classifier."""
    linear = [m for m in visual.head.modules() if isinstance(m, nn.Linear)]
    if linear:
        return linear[-1].out_features
    return visual.trunk.num_classes or visual.trunk.num_features
