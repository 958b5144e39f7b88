"""From embeddings to coarse class scores: probabilities of each layer, windows, propagation.

Shapes: M layers, N = h w patches, C embedding, T classes, P prompts (classes first, then
negatives). Source: CLIPer (ICCV 2025) and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import require_choice, require_share

PROPAGATIONS = ("columns", "rows", "none")
AVERAGES = ("all", "early", "none")
Box = tuple[int, int, int, int]
"""A crop of a map: (top, left, height, width)."""


@dataclass(frozen=True)
class ScoreOptions:
    """How layers become one score map; MODEL.CLIPER's keys of the same names explain it, that of
    the threshold is ATTENTION_THRESHOLD.

    The first version averaged "early" layers, for ViT-H with weight 0.2, and propagated along
    "rows", as the paper says.

    Raises:
        ValueError: an unknown name, or a threshold outside 0..1.
    """

    logit_scale: float = 100.0
    select_layer: int = -1
    average: str = "all"
    average_weight: float = 1.0
    threshold: float = 0.2
    propagation: str = "columns"

    def __post_init__(self) -> None:
        require_choice("PROPAGATION", self.propagation, PROPAGATIONS)
        require_choice("AVERAGE", self.average, AVERAGES)
        require_share("ATTENTION_THRESHOLD", self.threshold)

    def layers(self, count: int) -> list[int]:
        """Layers that have to be embedded, of a tower with ``count`` of them.

        Raises:
            ValueError: the selected layer does not exist, or there is no early one.
        """
        if not -count <= self.select_layer < count:
            raise ValueError(
                f"MODEL.CLIPER.SELECT_LAYER: got {self.select_layer}, expected {-count} to "
                f"{count - 1}"
            )
        if self.average == "early" and count < 2:
            raise ValueError(
                f"MODEL.CLIPER.AVERAGE 'early': got a tower of {count} layer, expected two or more"
            )
        return list(range(count)) if self.average != "none" else [self.select_layer % count]


@dataclass(frozen=True)
class Windows:
    """An image's overlapping crops.

    Attributes:
        features: unit embeddings (V, M, n, C) of the crops.
        boxes: where each crop is, in patches.
        affinity: the crops' affinities put together (N, N), rows normalised.
    """

    features: Tensor
    boxes: list[Box]
    affinity: Tensor


@dataclass(frozen=True)
class Embedded:
    """An image as CLIP sees it: unit embeddings (M, N, C), affinity (N, N) and grid (h, w)."""

    features: Tensor
    affinity: Tensor
    grid: tuple[int, int]
    windows: Windows | None = None


def coarse_scores(
    image: Embedded,
    text: Tensor,
    classes: int,
    options: ScoreOptions,
    class_of: Tensor | None = None,
) -> Tensor:
    """Scores (T, h, w) of the T classes, between 0 and about 2.

    Args:
        text: unit embeddings (P, C), those of the classes first.
        class_of: the class of each of the first embeddings (S,), where classes have several, of
            which the best counts; None for one embedding a class.
    """
    probabilities = class_probabilities(
        options.logit_scale * image.features @ text.T, classes, class_of
    )
    if image.windows is not None:
        logits = merge_windows(image.windows, text, image.grid) * options.logit_scale
        logits = (logits.mT @ image.windows.affinity).mT
        probabilities = (probabilities + class_probabilities(logits, classes, class_of)) / 2
    select = options.select_layer if options.average != "none" else 0
    chosen = probabilities[select]
    chosen = torch.where(chosen < options.threshold * chosen.amax(dim=0), 0.0, chosen)
    scores = chosen
    if options.propagation == "columns":
        scores = image.affinity.mT @ chosen
    elif options.propagation == "rows":
        scores = image.affinity @ chosen
    # as released, the mean runs over the selected layer as it is after the cut
    if options.average != "none":
        others = probabilities[:-1] if options.average == "early" else probabilities
        total = others.sum(dim=0)
        if select % len(probabilities) < len(others):
            total = total - probabilities[select] + chosen
        scores = scores + options.average_weight * total / len(others)
    return scores.T.reshape(classes, *image.grid)


def class_probabilities(logits: Tensor, classes: int, class_of: Tensor | None) -> Tensor:
    """Probabilities (M, N, T) of classes from logits (M, N, P) of their prompts and negatives."""
    if class_of is not None:  # a class has the logit of its best prompt
        named, negatives = logits[..., : len(class_of)], logits[..., len(class_of) :]
        best = named.new_full((*logits.shape[:-1], classes), -torch.inf)
        best.scatter_reduce_(-1, class_of.expand_as(named), named, "amax")
        logits = torch.cat([best, negatives], dim=-1)
    return logits.softmax(dim=-1)[..., :classes]


def window_boxes(height: int, width: int, crop: int, stride: int) -> list[Box]:
    """Crops over a map, row by row; the last of a row or column is moved back inside.

    Raises:
        ValueError: a stride above the crop's side, or below 1: some patches would be in no crop.
    """
    if not 0 < stride <= crop:
        raise ValueError(f"window stride: got {stride}, expected 1 to the window's side {crop}")

    def starts(side: int) -> list[int]:
        last = max(side - crop, 0)
        return sorted({min(i * stride, last) for i in range(-(-last // stride) + 1)})

    h, w = min(crop, height), min(crop, width)
    return [(y, x, h, w) for y in starts(height) for x in starts(width)]


def merge_windows(windows: Windows, text: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosines (M, N, P) of the windows with the prompts, averaged where windows overlap."""
    layers, prompts = windows.features.shape[1], len(text)
    total = text.new_zeros(layers, *grid, prompts)
    count = text.new_zeros(*grid, 1)
    for features, (y, x, h, w) in zip(windows.features, windows.boxes, strict=True):
        total[:, y : y + h, x : x + w] += (features @ text.T).unflatten(1, (h, w))
        count[y : y + h, x : x + w] += 1
    return (total / count).flatten(1, 2)


def merge_affinities(affinities: Tensor, boxes: list[Box], grid: tuple[int, int]) -> Tensor:
    """Affinities (V, n, n) of crops as one (N, N): averaged over the crops that hold both patches,
    rows normalised; a row of zeros stays so.
    """
    patches = torch.arange(grid[0] * grid[1], device=affinities.device).view(grid)
    total = affinities.new_zeros(patches.numel(), patches.numel())
    count = torch.zeros_like(total)
    for affinity, (y, x, h, w) in zip(affinities, boxes, strict=True):
        inside = patches[y : y + h, x : x + w].flatten()
        total[inside[:, None], inside] += affinity
        count[inside[:, None], inside] += 1
    total /= count + 1e-5
    return total / total.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)


def with_negatives(
    classes: Tensor, negatives: Tensor | None, mean: bool, class_of: Tensor | None = None
) -> Tensor:
    """Embeddings of all prompts (P, C): classes, negatives, and with ``mean`` the classes'
    normalised mean.

    Args:
        classes: (T, C), or (S, C) with several embeddings a class. class_of: then the class of each
            (S,); every class has the same weight in the mean.
    """
    parts = [classes] if negatives is None else [classes, negatives]
    if mean:
        if class_of is not None:
            counts = class_of.bincount()[:, None]
            sums = classes.new_zeros(len(counts), classes.shape[1])
            classes = sums.index_add(0, class_of, classes) / counts
        parts.append(F.normalize(classes.mean(dim=0, keepdim=True), dim=-1))
    return torch.cat(parts)
