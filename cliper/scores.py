"""From embeddings to coarse class scores: probabilities of each layer, propagation.

Shapes: L layers, N = h w patches, C embedding, T classes, P prompts (classes first, then
negatives), S names of the classes. Source: CLIPer (ICCV 2025) and its released code.
"""

from dataclasses import dataclass

import torch
from hyperclip.clip import mean_class
from torch import Tensor

from .config import CLIPER_RULES
from .windows import Windows, merge_windows


@dataclass(frozen=True)
class ScoreOptions:
    """How layers become one score map; MODEL.CLIPER's keys of the same names explain it. ValueError
    for a value that its key may not have.

    The first version averaged "early" layers, for ViT-H with weight 0.2, and propagated along
    "rows", as the paper says.
    """

    logit_scale: float
    select_layer: int
    average: str
    average_weight: float
    attention_threshold: float
    propagation: str

    def __post_init__(self) -> None:
        CLIPER_RULES.require("MODEL.CLIPER.", vars(self))

    def layers(self, count: int) -> list[int]:
        """Layers to embed, of ``count``; ValueError if the selected one is not there."""
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
class Embedded:
    """An image as CLIP sees it: unit embeddings (L, N, C), affinity (N, N) and grid (h, w)."""

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
    level = options.attention_threshold * chosen.amax(dim=0)
    scores = chosen = torch.where(chosen < level, 0.0, chosen)
    if options.propagation != "none":
        rows = options.propagation == "rows"
        scores = (image.affinity if rows else image.affinity.mT) @ chosen
    # as released, the mean runs over the selected layer as it is after the cut
    if options.average != "none":
        others = probabilities[:-1] if options.average == "early" else probabilities
        total = others.sum(dim=0)
        if select % len(probabilities) < len(others):
            total = total - probabilities[select] + chosen
        scores = scores + options.average_weight * total / len(others)
    return scores.T.reshape(classes, *image.grid)


def class_probabilities(logits: Tensor, classes: int, class_of: Tensor | None) -> Tensor:
    """Probabilities (L, N, T) of classes from logits (L, N, P) of their prompts and negatives."""
    if class_of is not None:  # a class has the logit of its best prompt
        named, negatives = logits[..., : len(class_of)], logits[..., len(class_of) :]
        best = named.new_full((*logits.shape[:-1], classes), -torch.inf)
        best.scatter_reduce_(-1, class_of.expand_as(named), named, "amax")
        logits = torch.cat([best, negatives], dim=-1)
    return logits.softmax(dim=-1)[..., :classes]


def with_negatives(
    classes: Tensor, negatives: Tensor | None, mean: bool, class_of: Tensor | None = None
) -> Tensor:
    """Embeddings of all prompts (P, C): classes (T, C), negatives, and with ``mean`` the classes'
    normalised mean. With several embeddings a class (S, C), ``class_of`` (S,) is the class of each,
    and every class has the same weight in the mean.
    """
    parts = [classes] if negatives is None else [classes, negatives]
    if mean:
        parts.append(mean_class(classes, class_of))
    return torch.cat(parts)
