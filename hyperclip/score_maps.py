"""Scores of classes between a system and its labels: what refiners and regions work on.

Shapes: T classes, t classes of a chunk, h w grid of the scores, H W image.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .labels import NO_CLASS
from .runtime.memory import items_at_a_time
from .runtime.precision import at_least_float32

Size = tuple[int, int]
Chunk = tuple[Tensor, Tensor]
"""Classes (t,), int64, ascending, and their maps (t, H, W)."""
Chunks = Iterable[Chunk]
"""Of one size; each has classes behind those of the one before."""

MOST_PASSES = 16
"""Best classes that are found one after the other; for more it is faster to sort all."""


class ScoreMaps(abc.ABC):
    """Scores of T classes of one image, the higher the better, on the system's own scale."""

    classes: int  # T

    @abc.abstractmethod
    def coarse(self) -> Tensor:
        """All maps, float (T, h, w), on the system's own grid."""

    @abc.abstractmethod
    def at(self, size: Size) -> Iterator[Chunk]:
        """All maps in a size (H, W), a chunk of classes at a time: classes (t,), int64, ascending,
        and maps (t, H, W). A class that is not among them scores 0.
        """

    @abc.abstractmethod
    def replaced(self, coarse: Tensor) -> ScoreMaps:
        """The same with other scores (T, h', w') in the place of :meth:`coarse`."""

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """Labels (H, W) with ``NO_CLASS`` where the question's thresholds leave out the best class,
        whose score is the confidence (H, W).
        """
        return labels

    def cut(self, scores: Tensor) -> Tensor:
        """Scores or a confidence (..., H, W) as the answer has them, where the system sets to 0
        what its thresholds leave out; labels are decided before.
        """
        return scores

    def best(self, size: Size) -> tuple[Tensor, Tensor]:
        """:func:`best_of` all maps in a size."""
        return best_of(self.at(size))

    def whole(self, size: Size) -> Tensor:
        """All maps in a size, (T, H, W)."""
        maps = None
        for classes, chunk in self.at(size):
            if maps is None:
                maps = chunk.new_zeros(self.classes, *size)
            maps[classes] = chunk
        if maps is None:
            raise ValueError("scores: got none for any class, expected one or more")
        return maps


@dataclass(frozen=True)
class GridMaps(ScoreMaps):
    """Scores on a grid, resized bilinearly.

    Args:
        scores: (T, h, w); half precision becomes float32. class_threshold, pixel_threshold: labels
            below them are left out, see :func:`leave_out`; 0 for none. left_out: (H, W), pixels
            that the system itself leaves without a class, whatever becomes of their scores.
    """

    scores: Tensor
    class_threshold: float = 0.0
    pixel_threshold: float = 0.0
    left_out: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", at_least_float32(self.scores))

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(self.scores)

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.scores

    def at(self, size: Size) -> Iterator[Chunk]:
        """See :class:`ScoreMaps`."""
        step = items_at_a_time(size[0] * size[1], self.scores.device)
        classes = torch.arange(len(self.scores), device=self.scores.device)
        for chunk in classes.split(step):
            yield chunk, resize(self.scores[None, chunk[0] : chunk[-1] + 1], size)[0]

    def replaced(self, coarse: Tensor) -> GridMaps:
        """See :class:`ScoreMaps`."""
        return replace(self, scores=coarse)

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        if self.left_out is not None:
            labels = labels.masked_fill(self.left_out, NO_CLASS)
        return leave_out(labels, confidence, self.class_threshold, self.pixel_threshold)


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of (N, C, h, w) without anti-aliasing, as in the released code."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def completed(
    chunks: Chunks, missing: Tensor, maps_of: Callable[[Tensor], Tensor], size: Size
) -> Iterator[Chunk]:
    """Chunks with the classes that they lack, int64, ascending, in their place among the others;
    ``maps_of`` gives the maps (t, H, W) of such classes (t,).
    """
    step = items_at_a_time(size[0] * size[1], missing.device)
    for classes, maps in chunks:
        while len(missing) and missing[0] < classes[-1]:
            before = int((classes < missing[0]).sum())
            if before:
                yield classes[:before], maps[:before]
                classes, maps = classes[before:], maps[before:]
            early = int((missing < classes[0]).sum())
            for some in missing[:early].split(step):
                yield some, maps_of(some)
            missing = missing[early:]
        yield classes, maps
    if len(missing):
        for some in missing.split(step):
            yield some, maps_of(some)


def best_of(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """The best class of each pixel, int64 (H, W), the lower one of equals, and its score (H, W),
    of all chunks, without all maps in memory; ValueError for no chunk.
    """
    best = labels = None
    for classes, maps in chunks:
        if best is None or labels is None:
            best = maps.new_full(maps.shape[1:], -torch.inf)
            labels = torch.full(maps.shape[1:], NO_CLASS, dtype=torch.int64, device=maps.device)
        update = _update_at_once if maps.device.type == "cuda" else _update_in_turn
        update(best, labels, classes, maps)
    if best is None or labels is None:
        raise ValueError("scores: got none for any class, expected one or more")
    return labels, best


def best_few(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best of finite scores (T, H, W) of each pixel, best first, and their classes,
    the lower one of equals first: both (count, H, W).
    """
    if count > MOST_PASSES:
        best, labels = scores.sort(dim=0, descending=True, stable=True)
        return best[:count], labels[:count]
    left, found = scores.clone(), []  # topk would give any of equals
    for _ in range(count):
        found.append(left.max(dim=0))
        left.scatter_(0, found[-1].indices[None], -torch.inf)
    return torch.stack([one.values for one in found]), torch.stack([one.indices for one in found])


def _update_in_turn(best: Tensor, labels: Tensor, classes: Tensor, maps: Tensor) -> None:
    """Take the scores (t, H, W) of more classes (t,) into the best and its labels (H, W)."""
    for index, scores in zip(classes.tolist(), maps, strict=True):
        labels.masked_fill_(scores > best, index)
        torch.maximum(best, scores, out=best)


def _update_at_once(best: Tensor, labels: Tensor, classes: Tensor, maps: Tensor) -> None:
    """The same in few steps, for GPUs; on a CPU it takes four times as long."""
    scores, places = maps.max(dim=0)
    labels.copy_(torch.where(scores > best, classes[places], labels))
    torch.maximum(best, scores, out=best)


def leave_out(labels: Tensor, confidence: Tensor, classes: float, pixels: float) -> Tensor:
    """Labels (H, W) with ``NO_CLASS`` where a threshold is not reached by their scores, the
    confidence (H, W): ``classes`` by a class's best pixel, ``pixels`` by each pixel.
    """
    if pixels > 0:
        labels = labels.masked_fill(confidence < pixels, NO_CLASS)
    if classes > 0 and (labels != NO_CLASS).any():
        best = confidence.new_zeros(int(labels.max()) + 1)
        found = labels != NO_CLASS
        best.scatter_reduce_(0, labels[found], confidence[found], "amax")
        labels = labels.masked_fill(found & (best[labels.clamp_min(0)] < classes), NO_CLASS)
    return labels
