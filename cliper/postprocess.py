"""From refined scores to a label map: score fusion, thresholds, background.

Classes are processed a few at a time, so that no (T, H, W) array exists. Shapes: T classes, t
classes at a time, h w refined scores, H W image. Source: CLIPer (ICCV 2025) and its released code.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hyperclip.labels import NO_CLASS
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
    maps = maps * (scores > options.score_threshold)[:, None, None]
    return torch.where(maps < options.background_threshold, 0.0, maps)


def label_map(
    refined: Tensor, scores: Tensor, size: tuple[int, int], options: LabelOptions
) -> tuple[Tensor, Tensor]:
    """Labels int64 (H, W), 0..T-1 or ``NO_CLASS``, and their scores (H, W), from refined maps
    (T, h, w) and the class scores (T,) of :func:`fuse_scores`. Ties go to the lower class.
    """
    best = refined.new_full(size, float("-inf"))
    labels = torch.full(size, NO_CLASS, device=refined.device)
    for start, maps in full_size_maps(refined, scores, size, options):
        top, place = maps.max(dim=0)
        better = top > best
        best, labels = torch.where(better, top, best), torch.where(better, place + start, labels)
    if options.protocol == "argmax":
        return labels, best
    nothing = best == 0 if options.background_threshold > 0 else (1 - best).square() >= best
    return torch.where(nothing, NO_CLASS, labels), best
