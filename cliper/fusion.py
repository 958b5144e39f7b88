"""Early-layer fusion: CLIP's last block applied to every layer's embeddings, with the attention of
the early layers.

Shapes: B images, L blocks, M of them, A heads, N = h w patches, S = 1 + N tokens (the class token
first), D width, C embedding, d numbers of a head. Layers count from 0. Source:
CLIPer (ICCV 2025) and its released code.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hyperclip.clip import vit_tower as tower
from hyperclip.runtime.precision import at_least_float32
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from .config import CLIPER_RULES


@dataclass(frozen=True)
class FusionOptions:
    """How the last block sees the early layers; MODEL.CLIPER's keys of the same names explain it.
    ValueError for a value that its key may not have, or a factor that empties the map.

    The attention is "fused" (sum of the early layers' maps), an ablation with the last block's own
    projections ("vanilla" q-k, "q-q", "k-k", "v-v"), "identity", "proxy" (a given map), or "clip"
    (CLIP's own last block with residual and MLP, for the last layer alone). The first version had
    for ViT-H the center "max" times 0.2, and a residual of -1.
    """

    attention: str
    sinkhorn: int
    center: str
    center_scale: float
    residual: float
    half_positions: bool

    def __post_init__(self) -> None:
        CLIPER_RULES.require("MODEL.CLIPER.", vars(self))
        if self.attention == "fused" and self.center == "max" and self.center_scale >= 1:
            raise ValueError(
                f"MODEL.CLIPER.CENTER 'max', CENTER_SCALE: got {self.center_scale}, which cuts "
                "every entry of the fused map; expected 0 to below 1 (first version: 0.2)"
            )


def encode_layers(
    visual: VisionTransformer,
    images: Tensor,
    options: FusionOptions,
    layers: list[int],
    proxy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed every patch as each layer sees it.

    Args:
        images: normalised (B, 3, H, W), H and W multiples of the patch.
        layers: the M layers to embed, each in 0..L-1, ascending.
        proxy: patch affinities (B, N, N) for ``attention="proxy"``.
    Returns:
        unit embeddings (M, B, N, C) and the last map that was used, averaged over heads (B, N, N).
    Raises:
        ValueError: another size, a layer that does not exist, a proxy that is missing.
    """
    count = len(visual.transformer.resblocks)
    if not layers or not all(0 <= k < count for k in layers):
        raise ValueError(f"layers: got {layers}, expected indices 0 to {count - 1}")
    if (options.attention == "proxy") != (proxy is not None):
        verb = "needs" if proxy is None else "takes no"
        raise ValueError(f"attention {options.attention!r} {verb} proxy affinities")
    if options.attention == "clip" and layers != [count - 1]:
        raise ValueError(
            f"attention 'clip' embeds the last layer alone ([{count - 1}]), got {layers}. Set "
            "AVERAGE to 'none'"
        )
    embeddings, total = read_early_layers(visual, images, options)
    last, weights = visual.transformer.resblocks[-1], None
    if options.attention == "clip":
        features = tower.residual_block(last, embeddings[-1])[None]
    else:
        maps: Iterator[Tensor | None] = itertools.repeat(None)
        if proxy is not None:
            # zeros in the class token's row and column
            maps = itertools.repeat(F.pad(proxy, (1, 0, 1, 0))[:, None])
        elif total is not None:
            rounds = [options.sinkhorn if options.sinkhorn >= 0 else k + 1 for k in layers]
            maps = fused_maps(total, rounds, options)
        features, weights = last_block(last, embeddings[layers], maps, options)
    if weights is None:  # a token sees itself alone
        same = torch.eye(features.shape[2], device=features.device)
        weights = same.expand(len(images), 1, -1, -1)
    features = visual.ln_post(features)
    if visual.proj is not None:
        features = features @ visual.proj
    affinity = weights.mean(dim=1)[:, 1:, 1:]
    return F.normalize(features[:, :, 1:].float(), dim=-1), at_least_float32(affinity)


def read_early_layers(
    visual: VisionTransformer, images: Tensor, options: FusionOptions
) -> tuple[Tensor, Tensor | None]:
    """Run all blocks but the last: embeddings (L, B, S, D), ``ln_1`` of what enters each block but
    for the last one's plain input, and the sum of the softmax maps (B, A, S, S) in float32 if it is
    needed.
    """
    ph, pw = visual.conv1.kernel_size
    grid = (images.shape[-2] // ph, images.shape[-1] // pw)
    positions = tower.resize_positions(visual.positional_embedding, grid, mode="bilinear")
    if options.half_positions:
        positions = positions.half().float()
    x = tower.embed_patches(visual, images, positions)
    embeddings, total = [], None
    for block in visual.transformer.resblocks[:-1]:
        u = block.ln_1(x)
        embeddings.append(u)
        q, k, v = tower.project(block.attn, u)
        weights = softmax_map(q, k)
        if options.attention == "fused":
            total = weights if total is None else total.add_(weights)
        x = x + block.ls_1(tower.merge_heads(block.attn, weights.to(v.dtype) @ v))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return torch.stack([*(e.to(x.dtype) for e in embeddings), x]), total


def last_block(
    block: ResidualAttentionBlock,
    embeddings: Tensor,
    maps: Iterator[Tensor | None],
    options: FusionOptions,
) -> tuple[Tensor, Tensor | None]:
    """Attention of the last block, without residual and MLP, for M layers' embeddings (M, B, S, D):
    (M, B, S, D) and the last layer's map (B, A, S, S), if there is one. Where a map is given only
    values are projected.
    """
    attn, outputs, weights = block.attn, [], None
    for e in embeddings:
        u = block.ln_1(e)
        given = next(maps)
        if given is None and options.attention != "identity":
            q, k, v = tower.project(attn, u)
            pairs = {"vanilla": (q, k), "q-q": (q, q), "k-k": (k, k), "v-v": (v, v)}
            weights = softmax_map(*pairs[options.attention])
        else:
            v = tower.values(attn, u).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            weights = given
        mixed = tower.merge_heads(attn, v if weights is None else weights.to(v.dtype) @ v)
        outputs.append(mixed + (options.residual * e if options.residual else 0.0))
    return torch.stack(outputs), weights


def fused_maps(total: Tensor, rounds: list[int], options: FusionOptions) -> Iterator[Tensor]:
    """The fused map (B, A, S, S) after each number of Sinkhorn rounds, which are ascending.

    A round divides by the column sums, then by the row sums; the result is symmetrised, each
    column's mean is subtracted, negative entries are cut, and rows are normalised; a row with none
    left stays 0. ``total`` is overwritten.
    """
    done = 0
    for wanted, same in itertools.groupby(rounds):
        for _ in range(wanted - done):
            total /= total.sum(dim=-2, keepdim=True)
            total /= total.sum(dim=-1, keepdim=True)
        done = wanted
        fused = (total + total.mT) / 2
        level = fused.mean(dim=-2, keepdim=True)
        if options.center == "max":
            level = fused.amax(dim=-2, keepdim=True)
        fused -= options.center_scale * level
        fused.clamp_(min=0)
        fused /= fused.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(fused.dtype).tiny)
        yield from (fused for _ in same)


def proxy_affinity(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Affinities (B, N, N) on a grid (h, w) from another network's features (B, C, h', w').

    Cosine similarities minus their mean, negative ones but a patch's own excluded, softmax over
    each row. Source: ProxyCLIP (ECCV 2024).
    """
    features = F.interpolate(features.float(), size=grid, mode="bilinear", align_corners=False)
    unit = F.normalize(features.flatten(2).mT, dim=-1)
    similarity = unit @ unit.mT
    similarity = similarity - similarity.mean(dim=(1, 2), keepdim=True)
    similarity.diagonal(dim1=1, dim2=2).clamp_(min=0)
    return similarity.masked_fill(similarity < 0, float("-inf")).softmax(dim=-1)


def softmax_map(q: Tensor, k: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d))`` (B, A, S, S), in float32."""
    logits = q.float() * q.shape[-1] ** -0.5 @ k.float().mT
    return logits.softmax(dim=-1, dtype=torch.float32)  # under autocast they are in half precision
