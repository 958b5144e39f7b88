"""From refined scores to a label map: score fusion, thresholds, background.

Classes are processed a few at a time, so that no (T, H, W) array exists. Shapes: T classes, t
classes at a time, h w refined scores, H W image. Source: CLIPer (ICCV 2025) and its released code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from hyperclip.labels import NO_CLASS
from hyperclip.score_maps import ScoreMaps
from torch import Tensor

from .config import CLIPER_RULES

EPS = 1e-5
CHUNK_PIXELS = 2**26


@dataclass(frozen=True)
class LabelOptions:
    """How scores, 0 to about 2, become labels; MODEL.CLIPER's keys of the same names explain it.
    ValueError for a value that its key may not have.
    """

    protocol: str
    score_threshold: float
    background_threshold: float
    normalize: bool

    def __post_init__(self) -> None:
        CLIPER_RULES.require("MODEL.CLIPER.", vars(self))


def fuse_scores(refined: Tensor, coarse: Tensor) -> Tensor:
    """Score of each class (T,): the mean of its largest refined and coarse value (T, h, w)."""
    return 0.5 * refined.amax(dim=(1, 2)) + 0.5 * coarse.amax(dim=(1, 2))


def full_size_maps(
    refined: Tensor, scores: Tensor, size: tuple[int, int], options: LabelOptions
) -> Iterator[tuple[int, Tensor]]:
    """Class maps of the image's size in chunks: (first class, (t, H, W)).

    Each is upsampled bilinearly, scaled so that its largest value is the class's score (T,), and
    filtered by :func:`filter_maps`.
    """
    step = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    for start in range(0, len(refined), step):
        part, own = refined[None, start : start + step], scores[start : start + step]
        maps = F.interpolate(part, size=size, mode="bilinear", align_corners=False)[0]
        maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + EPS) * own[:, None, None]
        yield start, filter_maps(maps, own, options)


def filter_maps(maps: Tensor, scores: Tensor, options: LabelOptions) -> Tensor:
    """Class maps (t, H, W), normalised and with everything below the thresholds set to 0."""
    if options.normalize:
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        maps = (maps - low) / (high - low + 1e-6)
    if options.protocol == "argmax":
        return maps
    return cut(maps * (scores > options.score_threshold)[:, None, None], options)


def cut(scores: Tensor, options: LabelOptions) -> Tensor:
    """Scores of pixels, of any shape, with those below the background threshold set to 0."""
    if options.protocol == "argmax":
        return scores
    return torch.where(scores < options.background_threshold, 0.0, scores)


@dataclass(frozen=True)
class ClassMaps(ScoreMaps):
    """CLIPer's scores of an image: refined maps, each scaled to the score of its class.

    Classes that the score threshold leaves out score 0. The background threshold leaves scores as
    they are, and counts in :meth:`decide` and :meth:`cut`, after whatever becomes of them.

    Args:
        refined: (T, h, w), the coarse ones where nothing refined them.
        scores: of the classes (T,), see :func:`fuse_scores`.
        unrefined: the coarse ones (T, h, w), which :meth:`replaced` fuses with others.
    """

    refined: Tensor
    scores: Tensor
    options: LabelOptions
    unrefined: Tensor

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(self.refined)

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.refined

    def at(self, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`."""
        classes = torch.arange(len(self.scores), device=self.scores.device)
        options = replace(self.options, background_threshold=0.0)
        for start, maps in full_size_maps(self.refined, self.scores, size, options):
            yield classes[start : start + len(maps)], maps

    def replaced(self, coarse: Tensor) -> "ClassMaps":
        """See :class:`ScoreMaps`."""
        return replace(self, refined=coarse, scores=fuse_scores(coarse, self.unrefined))

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        if self.options.protocol == "argmax":
            return labels
        best, least = confidence, self.options.background_threshold
        nothing = best < least if least > 0 else (1 - best).square() >= best
        return torch.where(nothing, NO_CLASS, labels)

    def cut(self, scores: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return cut(scores, self.options)
