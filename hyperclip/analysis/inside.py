"""What is behind an answer: costs and attention of the head, maps of a point, how sure it is.

Shapes: T classes, t classes of a chunk, P prompts, A heads, N patches or cells, C channels, H W
image, h w grid. Sources: CAT-Seg (CVPR 2024) for the head, CLIPer (ICCV 2025) for the fused map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..head.aggregation import AggregationLayer, pooled_tokens
from ..head.cost_head import CostVolumeHead, PreparedImages
from ..runtime.finite import FiniteCheck
from ..runtime.memory import items_at_a_time
from ..score_maps import ScoreMaps, Size
from ..segmenter import Segmenter
from ..stages import Refine, Staged
from ..vocabulary import Vocabulary
from ..wrapper import unwrapped, unwrapped_image

Point = tuple[int, int]
"""Column and row of a pixel."""


@runtime_checkable
class HasAffinity(Protocol):
    """A system that relates patches to each other."""

    def affinity(self, encoded: Any) -> tuple[Tensor, tuple[int, int]]:
        """Of an encoded image: how much each patch takes of every patch (N, N), and their grid
        (h, w).
        """


@dataclass(frozen=True)
class Costs:
    """What the head makes of P prompts in one view of the whole image.

    Attributes:
        prompts: which of all prompts these are (P,): pruning leaves others out.
        cosine: the cost (P, h, w), -1..1. change: norm over the channels of what aggregation adds
            to its embedding (P, h, w). score: sigmoid of the decoder's logits (P, 4h, 4w).
        attention: of each layer, the mean of all heads and cells (P, P + 1): how much each class
            takes of every class, and in the last column of the padding.
    """

    prompts: Tensor
    cosine: Tensor
    change: Tensor
    score: Tensor
    attention: list[Tensor]


def require_costs(system: Segmenter, key: str) -> None:
    """ValueError for a system without a cost volume, or without a view of the whole image."""
    system = unwrapped(system)
    head = getattr(system, "sem_seg_head", None)
    if not isinstance(head, CostVolumeHead):
        got = type(system).__name__ + (f" with {type(head).__name__}" if head is not None else "")
        raise ValueError(f"{key}: got {got}, which aggregates no costs; expected a CostVolumeHead")
    sliding = getattr(system, "sliding", None)
    if sliding is not None and not sliding.global_view:
        raise ValueError(
            f"{key}: the config has windows alone; expected a view of the whole image, too: set "
            "TEST.SLIDING.GLOBAL_VIEW True or TEST.SLIDING_WINDOW False"
        )


@torch.no_grad()
def costs_of(system: Segmenter, encoded: Any, vocabulary: Vocabulary) -> Costs:
    """Follow the costs of an image through the head, class by class attention included.

    Raises:
        ValueError: as :func:`require_costs`. NotFiniteError: NaN or infinity on the way.
    """
    require_costs(system, "costs")
    system, encoded = unwrapped_image(system, encoded)
    head, images = system.sem_seg_head, encoded[-1:]  # type: ignore[operator,union-attr]
    assert isinstance(head, CostVolumeHead) and isinstance(images, PreparedImages)
    text = system.text(system.clip, vocabulary)  # type: ignore[misc]
    costs, guidance, kept = head.select(images.embeddings, text)
    start = x = head.embed_costs(costs)
    attention = []
    for layer, guided in zip(head.layers, images.spatial, strict=True):
        attention.append(class_attention(layer, x, guided, guidance, head.pooling_test))
        x = layer(x, guided, guidance, head.pooling_test)
    logits = head.decoder(x.permute(0, 1, 4, 2, 3), images.decoder)
    if head.scaled_cosine is not None:
        logits = logits + head.scaled_cosine(costs, finer=4)
    FiniteCheck().add("the head's logits", logits).require(system)
    every = torch.arange(len(text), device=text.device)
    change, score = (x - start).norm(dim=-1)[0], logits.sigmoid()[0]
    return Costs(every if kept is None else kept[0], costs[0], change, score, attention)


def class_attention(
    layer: AggregationLayer, x: Tensor, guided: list[Tensor], text: Tensor, pooling: Size
) -> Tensor:
    """Attention across the classes in one layer, the mean of all heads and cells (T, T + 1), of
    what enters it, x (1, T, h, w, C); the other arguments are those of the layer.
    """
    tokens = pooled_tokens(layer.spatial(x, guided), pooling)[0]
    guidance = text if text.dim() == 2 else text[0]
    classes = layer.classes
    step = items_at_a_time(classes.heads * tokens.shape[1] ** 2, tokens.device)
    total = tokens.new_zeros(tokens.shape[1], tokens.shape[1] + 1)
    for part in tokens.split(step):
        total += classes.weights(classes.norm1(part), guidance).mean(dim=-3).sum(dim=0)
    return total / len(tokens)


def cell_of(point: Point, size: Size, grid: Size) -> tuple[int, int]:
    """Row and column of the cell that a pixel (column, row) of an image (H, W) lies in."""
    column, row = point
    return row * grid[0] // size[0], column * grid[1] // size[1]


def require_affinity(system: Segmenter, key: str) -> None:
    """ValueError for a system that does not relate patches to each other."""
    system = unwrapped(system)
    if not isinstance(system, HasAffinity):
        raise ValueError(
            f"{key}: got {type(system).__name__}, whose patches do not attend to each other's "
            "embeddings; expected CLIPer, or a system with `affinity`"
        )


@torch.no_grad()
def fused_attention(system: Segmenter, encoded: Any, point: Point, size: Size) -> Tensor:
    """How much the patch at a pixel takes of every patch (h, w), in an image (H, W); ValueError as
    :func:`require_affinity`.
    """
    require_affinity(system, "attention of a point")
    system, encoded = unwrapped_image(system, encoded)
    assert isinstance(system, HasAffinity)
    affinity, grid = system.affinity(encoded)
    row, column = cell_of(point, size, grid)
    return affinity[row * grid[1] + column].unflatten(0, grid)


def refinements(system: Segmenter, encoded: Any) -> list[Any]:
    """What the system's refiner, and refiners behind it, saw in an image; [] without any."""
    found = []
    _, own = unwrapped_image(system, encoded)
    if getattr(own, "refinement", None) is not None:
        found.append(own.refinement)
    if isinstance(system, Staged):
        pairs = zip(system.stages, encoded.seen, strict=True)
        found += [seen for stage, seen in pairs if isinstance(stage, Refine)]
    return found


@torch.no_grad()
def spread(refinement: Any, point: Point, size: Size, coarse: Tensor) -> Tensor:
    """Where a refinement carries a score of 1 at a pixel's cell, 0 elsewhere: a map (h', w').

    The cell is one of its own grid, or of that of the ``coarse`` scores (T, h, w) where it has
    none.
    """
    grid: Any = getattr(refinement, "grid", coarse.shape[-2:])
    row, column = cell_of(point, size, grid)
    score = coarse.new_zeros(1, *grid)
    score[0, row, column] = 1
    return refinement(score)[0]


def certainty(maps: ScoreMaps, size: Size) -> tuple[Tensor, Tensor]:
    """How sure scores are at each pixel: the margin, best less second best score (H, W), on the
    system's scale, and the entropy (H, W) of the scores divided by their sum, in shares of log T: 0
    where one class has it all, 1 where all score the same. Scores below 0 count as 0 there.

    Raises:
        ValueError: one class alone, which has no second.
    """
    if maps.classes < 2:
        raise ValueError(f"margin and entropy: got {maps.classes} class, expected two or more")
    best = second = total = weighted = None
    for scores in (one for _, chunk in maps.at(size) for one in chunk.float()):
        if best is None or second is None or total is None or weighted is None:
            best, second = scores.clone(), torch.full_like(scores, -torch.inf)
            total, weighted = torch.zeros_like(scores), torch.zeros_like(scores)
        else:
            second = torch.maximum(second, torch.minimum(best, scores))
            best = torch.maximum(best, scores)
        share = scores.clamp_min(0)
        total, weighted = total + share, weighted + torch.xlogy(share, share)
    if best is None or second is None or total is None or weighted is None:
        raise ValueError("scores: got none for any class, expected one or more")
    entropy = (total.log() - weighted / total) / math.log(maps.classes)
    # a class that is not among the maps scores 0
    margin = best - torch.where(second.isinf(), 0.0, second)
    return margin, torch.where(total > 0, entropy, 1.0).clamp(0, 1)
