"""Hyperbolic radii of what CLIP's towers give: of names, of images, of their patches, by layer.

The radius of a vector v is the distance of exp0(v) from the origin of the ball, (2 / sqrt(c))
artanh(sqrt(c) |exp0(v)|) = 2 |v| for every curvature c. Measured are embeddings **before** they are
normalised to unit length, since all of those have the radius 2. What a block gives is read as if
the tower ended there, through its last norm and its projection: the last layer is the embedding.

Shapes: L layers, B images, P prompts, N patches, T classes, C embedding, D width, M vectors, K of
them, E rows of a weight. Source: HyperCLIP (CVPR 2025), whose figure has the names' embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import hyperbolic
from ..clip.clip_text_tower import ClipTextTower
from ..clip.embedder import TextEmbedder
from ..clip.image_tower import image_tower
from ..clip.text_tower import text_tower, tokenize
from ..clip.vit_tower import (
    VitTower,
    embed_patches,
    merge_heads,
    project,
    residual_block,
    value_only_block,
)
from ..runtime.finite import FiniteCheck
from ..runtime.memory import items_at_a_time
from ..score_maps import resize
from ..segmenter import Segmenter
from ..stages.regions import in_size
from ..vocabulary import Vocabulary

KINDS = ("text", "image", "pixel")
"""Vectors that are measured: embeddings of prompts, of images, and of their patches."""
WEIGHTS = ("text weight", "vision weight")
"""The rows of each tower's attention weights, which HyperCLIP's adapters move."""
KEPT = 2000
"""So many vectors of a kind are kept whole, for views of them."""
EXPECTED = "radii are read from CLIP's own towers, a ViT and a causal text transformer"


@dataclass(frozen=True)
class Radii:
    """Radii of vectors of one kind in one model.

    Attributes:
        kind: of ``KINDS`` or ``WEIGHTS``. layers: radii (M,) of each of the L layers.
        of_class: which classes each vector belongs to, bool (M, T); None for weights.
        embeddings: of the vectors of the last layer, evenly, at most ``KEPT``, (K, C); None for
            weights.
    """

    kind: str
    layers: list[Tensor]
    of_class: Tensor | None = None
    embeddings: Tensor | None = None


def evenly(vectors: Tensor, most: int) -> Tensor:
    """At most so many of some vectors (M, C), at even distances."""
    if len(vectors) <= most:
        return vectors
    return vectors[torch.linspace(0, len(vectors) - 1, most).round().long()]


def require_towers(system: Segmenter) -> tuple[ClipTextTower, VitTower]:
    """The towers that are read; ValueError for a system that has others."""
    clip = getattr(system, "clip", None)
    if clip is None:
        raise ValueError(f"{type(system).__name__} has no CLIP: {EXPECTED}")
    text, vision = text_tower(clip), image_tower(clip.visual)
    for tower, fits in ((text, getattr(text, "packed", False)), (vision, True)):
        if not (isinstance(tower, ClipTextTower | VitTower) and fits):
            raise ValueError(f"CLIP's tower: got {type(tower).__name__}, but {EXPECTED}")
    return text, vision  # type: ignore[return-value]


def causal(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Causal self-attention of ``attn`` over tokens x (P, N, D)."""
    q, k, v = project(attn, x)
    return merge_heads(attn, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def text_layers(tower: ClipTextTower, tokens: Tensor) -> Tensor:
    """Embeddings (L, P, C), not normalised, of token ids (P, N) as each block sees them."""
    text, end = tower.text, tower.ends(tokens)
    tokens, prompts = tokens[:, : int(end.max()) + 1], torch.arange(len(tokens), device=end.device)
    x = text.token_embedding(tokens)
    x = x + text.positional_embedding[: tokens.shape[1]].to(x.dtype)
    found = []
    for block in text.transformer.resblocks:
        x = residual_block(block, x, causal)
        found.append(tower.embed_output(text.ln_final(x[prompts, end])))
    return torch.stack(found)


def image_layers(tower: VitTower, views: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of normalised images (B, 3, H, W), not normalised themselves, as each block sees
    them: of the images, (L, B, C), as CLIP compares them with captions, and of the patches,
    (L, B, N, C), whose last block gives values alone, as in dense features.
    """
    visual, found = tower.visual, []
    x = embed_patches(visual, views)
    for block in visual.transformer.resblocks:
        before, x = x, residual_block(block, x)
        last = block is visual.transformer.resblocks[-1]
        patches = (value_only_block(block, before) if last else x)[:, 1:]
        # the class token twice, since ``embed_output`` leaves the first one out
        found.append(
            tower.embed_output(visual.ln_post(torch.cat([x[:, :1], x[:, :1], patches], 1)))
        )
    layers = torch.stack(found)
    return layers[:, :, 0], layers[:, :, 1:]


@torch.no_grad()
def of_names(system: Segmenter, embedder: TextEmbedder, vocabulary: Vocabulary) -> Radii:
    """Radii of all prompts of a vocabulary's classes; NotFiniteError for NaN in them."""
    tower, _ = require_towers(system)
    prompts, rows = embedder.prompts(vocabulary)
    class_of = embedder.class_of(vocabulary)
    owners = torch.tensor(rows if class_of is None else [class_of[row] for row in rows])
    device = tower.token_embedding.weight.device
    tokens = tokenize(embedder.tokenizer, prompts, tower.context_length).to(device)
    step = items_at_a_time(tower.entries(tokens), device)
    layers = torch.cat([text_layers(tower, part).cpu() for part in tokens.split(step)], dim=1)
    FiniteCheck().add("the embeddings of the class names", layers).require(system)
    of_class = F.one_hot(owners, len(vocabulary)).bool()
    return Radii("text", list(hyperbolic.radius(layers)), of_class, evenly(layers[-1], KEPT))


@torch.no_grad()
def of_images(
    system: Segmenter, images: Sequence[Tensor], labels: Sequence[Tensor] | None, classes: int
) -> list[Radii]:
    """Radii of images (3, H, W), RGB 0..255, squashed to CLIP's size, and of their patches.

    Args:
        labels: class of each pixel, (H, W) of each image, others than 0..T-1 for none; a patch has
            that of its middle. None if no label is known. classes: T.
    Raises:
        ValueError: no image. NotFiniteError: NaN in the embeddings.
    """
    if not images:
        raise ValueError("images: got none, expected one or more to measure")
    _, tower = require_towers(system)
    size = getattr(system, "resolution", None) or tower.visual.image_size
    kept: list[list[Tensor]] = [[], []]
    ends: list[list[Tensor]] = [[], []]
    owners = []
    for i, image in enumerate(images):
        view = resize(system.normalise(image)[None], size)
        layers = image_layers(tower, view)
        for place, found in enumerate(layers):
            flat = found.flatten(1, -2)
            FiniteCheck().add("CLIP's features of the image", flat).require(system)
            kept[place].append(hyperbolic.radius(flat).cpu())
            ends[place].append(flat[-1].cpu())
        grid = tuple(n // s for n, s in zip(view.shape[-2:], tower.stride, strict=True))
        cells = torch.full(grid, -1)
        if labels is not None:
            cells = in_size(labels[i].cpu().long(), (grid[0], grid[1]))
        owners.append(cells.flatten())
    of_pixel = torch.cat(owners)[:, None] == torch.arange(classes)
    of_image = torch.stack([(own[:, None] == torch.arange(classes)).any(0) for own in owners])
    return [
        Radii(kind, list(torch.cat(radii, dim=1)), of_class, evenly(torch.cat(end), KEPT))
        for kind, radii, of_class, end in zip(
            KINDS[1:], kept, (of_image, of_pixel), ends, strict=True
        )
    ]


@torch.no_grad()
def of_weights(system: Segmenter) -> Iterator[Radii]:
    """Radii of the rows (E, D) of each block's q, k and v weights, of both towers."""
    towers: tuple[Any, ...] = require_towers(system)
    for kind, module in zip(WEIGHTS, (towers[0].text, towers[1].visual), strict=True):
        rows = [block.attn.in_proj_weight for block in module.transformer.resblocks]
        yield Radii(kind, [hyperbolic.radius(weight).cpu() for weight in rows])


def cap_of(kind: str, curvature: float) -> float:
    """The radius at which vectors of a kind are held back in float arithmetic: embeddings where a
    point of the ball is read back, rows of adapted weights where their Moebius product is projected
    into it.
    """
    margin = hyperbolic.PRODUCT_MARGIN if kind in WEIGHTS else hyperbolic.POINT_MARGIN
    return 2 * hyperbolic.tangent_cap(curvature, margin)
