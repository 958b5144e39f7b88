"""From refined scores to a label map: score fusion, thresholds, background.

Classes are processed a few at a time, so that no (T, H, W) array of the image's size exists.
Shapes: T classes, t classes of a chunk, h w of the refined scores, H W of the image. Source: CLIPer
(ICCV 2025) and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hyperclip.labels import NO_CLASS
from torch import Tensor

PROTOCOLS = ("abstain", "argmax")
EPS = 1e-5
CHUNK_PIXELS = 2**26


@dataclass(frozen=True)
class LabelOptions:
    """How scores become labels. Thresholds are on the scale of the scores, 0 to about 2 (0..1 when
    normalised).

    Attributes:
        protocol: "abstain" leaves pixels without a class where the thresholds say so (released);
            "argmax" always gives the best class.
        score_threshold: classes whose score is not above it are left out.
        background_threshold: scores below it become 0, and pixels without any other score are
            background. 0 selects another rule: a background score of ``(1 - best)^2`` competes.
        normalize: scale each class's map to 0..1.
    Raises:
        ValueError: an unknown protocol.
    """

    protocol: str = "abstain"
    score_threshold: float = 0.0
    background_threshold: float = 0.0
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"MODEL.CLIPER.PROTOCOL: got {self.protocol!r}, expected one of {list(PROTOCOLS)}"
            )


def fuse_scores(refined: Tensor, coarse: Tensor) -> Tensor:
    """Score of each class (T,): half its largest refined (T, h, w), half its largest coarse
    value.
    """
    return 0.5 * refined.amax(dim=(1, 2)) + 0.5 * coarse.amax(dim=(1, 2))


def full_size_maps(
    refined: Tensor, scores: Tensor, size: tuple[int, int], options: LabelOptions
) -> Iterator[tuple[int, Tensor]]:
    """Class maps of the image's size in chunks: (first class, (t, H, W)).

    Each map is upsampled bilinearly and scaled so that its largest value is the class's score (T,);
    see :func:`filter_maps` for the rest.
    """
    step = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    for start in range(0, len(refined), step):
        part = F.interpolate(
            refined[None, start : start + step], size=size, mode="bilinear", align_corners=False
        )[0]
        own = scores[start : start + step]
        part = part / (part.amax(dim=(1, 2), keepdim=True) + EPS) * own[:, None, None]
        yield start, filter_maps(part, own, options)


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
    """Labels int64 (H, W), 0..T-1 or ``NO_CLASS``, and the score of that class (H, W). Ties go to
    the lower class.

    Args:
        refined: (T, h, w). scores: of each class (T,), see :func:`fuse_scores`. size: (H, W).
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
