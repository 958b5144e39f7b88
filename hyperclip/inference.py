"""From an image to views of CLIP's resolution, and from the views' logits to scores of its size.

Scores are independent sigmoids in 0..1. Classes are handled in chunks, so that labels never need a
score map of every class. Shapes: V views, T classes, t classes of a chunk, r resolution of CLIP, H
W image of the output's size, S side of the windows' square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .head.logits import PartOfView, ViewLogits
from .runtime.memory import items_at_a_time
from .score_maps import Chunks, GridMaps, ScoreMaps, Size, best_of, leave_out, resize


@dataclass(frozen=True)
class SlidingWindow:
    """Windows over a squashed image, which they cover or ValueError, and one view of it all."""

    size: int  # side of the square that the image is squashed to
    kernel: int  # side of a window in it
    overlap: float  # share of a window that the next one covers again, 0 <= overlap < 1
    global_view: bool  # average with a view of the whole image, half and half

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1 or not 0 < self.kernel <= self.size:
            raise ValueError(
                f"TEST.SLIDING: got KERNEL {self.kernel}, SIZE {self.size}, OVERLAP "
                f"{self.overlap}, expected 0 < KERNEL <= SIZE and 0 <= OVERLAP < 1"
            )
        if self.stride < 1:
            raise ValueError(
                f"TEST.SLIDING.OVERLAP: got {self.overlap}, which leaves a stride below one pixel"
            )
        if (self.size - self.kernel) % self.stride:
            raise ValueError(
                f"TEST.SLIDING: windows of {self.kernel} at stride {self.stride} do not cover "
                f"{self.size} pixels; expected SIZE = KERNEL + n * {self.stride}"
            )

    @property
    def stride(self) -> int:
        """Distance of neighbouring windows in pixels."""
        return int(self.kernel * (1 - self.overlap))

    @property
    def origins(self) -> list[tuple[int, int]]:
        """Upper left corners (y, x) of the windows, row by row."""
        starts = range(0, self.size - self.kernel + 1, self.stride)
        return [(y, x) for y in starts for x in starts]


def make_views(
    image: Tensor, resolution: Size, sliding: SlidingWindow | None, divisor: int = 0
) -> Tensor:
    """Cut a normalised image (3, H, W) into views (V, 3, r, r), that of the whole image last.

    Args:
        resolution: what CLIP takes. sliding: the windows, None for the whole image alone.
        divisor: without windows, zero-pad H and W to multiples of this before squashing, 0 for no
            padding (the released code pads to 32 and leaves the padding in, which shifts masks).
    """
    if sliding is None:
        if divisor:
            image = F.pad(image, (0, -image.shape[-1] % divisor, 0, -image.shape[-2] % divisor))
        return resize(image[None], resolution)
    square = resize(image[None], (sliding.size, sliding.size))
    k = sliding.kernel
    views = [square[..., y : y + k, x : x + k] for y, x in sliding.origins]
    # squashed to a window's size first, as released: it matters where CLIP takes less (ViT-L)
    if sliding.global_view:
        views.append(resize(image[None], (k, k)))
    return resize(torch.cat(views), resolution)


def merge_views(views: Sequence[PartOfView], classes: int, sliding: SlidingWindow | None) -> Tensor:
    """Logits of an image's views for t classes to scores (t, S, S) in 0..1, on the square of the
    windows, if any, else on the logits' own; a class that a view did not keep scores 0 there.
    """
    if sliding is None:
        return views[0].logits.sigmoid()
    k, s = sliding.kernel, sliding.size
    first = views[0].logits
    total, count = first.new_zeros(classes, s, s), first.new_zeros(s, s)
    for view, (y, x) in zip(views, sliding.origins, strict=False):
        window = (..., slice(y, y + k), slice(x, x + k))
        count[window] += 1
        _add(total[window], view, k)
    total /= count
    if sliding.global_view:
        _add(total, views[-1], k)
        total /= 2
    return total


def _add(total: Tensor, view: PartOfView, kernel: int) -> None:
    """Add the scores of a view, as large as a window, to those of its classes (t, H, W)."""
    if not len(view.logits):
        return
    scores = resize(view.logits[None], (kernel, kernel)).sigmoid()
    scores = resize(scores, (total.shape[1], total.shape[2]))[0]
    if view.places is None:
        total += scores
    else:
        total.index_add_(0, view.places, scores)


def full_size_scores(
    views: ViewLogits, sliding: SlidingWindow | None, size: Size
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (prompts (t,), their scores (t, H, W)), ascending, without what no view kept."""
    side = sliding.size if sliding else 0
    step = items_at_a_time(max(size[0] * size[1], side * side), views.logits.device)
    for classes, parts in views.chunks(step):
        yield classes, resize(merge_views(parts, len(classes), sliding)[None], size)[0]


def score_maps(
    views: ViewLogits, sliding: SlidingWindow | None, size: Size, class_of: Tensor | None = None
) -> Tensor:
    """Scores of one image (T, H, W) of this size from views cut so; a class that no view kept
    scores 0. ``class_of`` (P,) is the class of each prompt, ascending, which scores what its best
    prompt scores; None for one prompt a class.
    """
    classes = views.classes if class_of is None else int(class_of[-1]) + 1
    scores = views.logits.new_zeros(classes, *size)
    for prompts, maps in full_size_scores(views, sliding, size):
        if class_of is None:
            scores[prompts] = maps
        else:
            index = class_of[prompts][:, None, None].expand_as(maps)
            scores.scatter_reduce_(0, index, maps, "amax")
    return scores


def best_classes(
    views: ViewLogits, sliding: SlidingWindow | None, size: Size, class_of: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Best class of each pixel of one image, int64 (H, W), the lower one of equals, and its score
    (H, W): the maximum of :func:`score_maps`, which has the same arguments, without all maps.
    """
    labels, best = best_of(full_size_scores(views, sliding, size))
    return labels if class_of is None else class_of[labels], best


@dataclass(frozen=True)
class ViewScores(ScoreMaps):
    """Scores of the logits of an image's views, merged and resized a chunk of classes at a time.

    Args:
        views, sliding, class_of: as of :func:`score_maps`.
        class_threshold, pixel_threshold: see :class:`GridMaps`.
    """

    views: ViewLogits
    sliding: SlidingWindow | None
    class_of: Tensor | None = None
    class_threshold: float = 0.0
    pixel_threshold: float = 0.0

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.views.classes if self.class_of is None else int(self.class_of[-1]) + 1

    def coarse(self) -> Tensor:
        """Scores (T, S, S) on the square of the windows, or on the logits' own grid."""
        h, w = self.views.logits.shape[-2:]
        size = (h, w) if self.sliding is None else (self.sliding.size, self.sliding.size)
        return score_maps(self.views, self.sliding, size, self.class_of)

    def at(self, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`ScoreMaps`; a class that no view kept is not among them."""
        chunks = full_size_scores(self.views, self.sliding, size)
        return chunks if self.class_of is None else _best_prompts(chunks, self.class_of)

    def best(self, size: Size) -> tuple[Tensor, Tensor]:
        """See :class:`ScoreMaps`."""
        return best_classes(self.views, self.sliding, size, self.class_of)

    def replaced(self, coarse: Tensor) -> GridMaps:
        """See :class:`ScoreMaps`."""
        return GridMaps(coarse, self.class_threshold, self.pixel_threshold)

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return leave_out(labels, confidence, self.class_threshold, self.pixel_threshold)


def _best_prompts(chunks: Chunks, class_of: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of prompts as chunks of their classes, each with the score of its best prompt."""
    held: tuple[Tensor, Tensor] | None = None  # the last class so far, which may go on
    for prompts, maps in chunks:
        classes, places = class_of[prompts].unique_consecutive(return_inverse=True)
        best = maps.new_zeros(len(classes), *maps.shape[1:])
        best.scatter_reduce_(0, places[:, None, None].expand_as(maps), maps, "amax")
        if held is not None:
            if held[0] == classes[0]:
                torch.maximum(best[0], held[1][0], out=best[0])
            else:
                yield held
        if len(classes) > 1:
            yield classes[:-1], best[:-1]
        held = classes[-1:], best[-1:]
    if held is not None:
        yield held


def merge_features(views: Tensor, sliding: SlidingWindow | None) -> Tensor:
    """Unit embeddings (C, h', w') of an image from those of its views (V, C, h, w): on the square
    of the windows, whose cells are as large as a window's, each the mean of the windows that cover
    it, and of the view of the whole image, half and half, if there is one.
    """
    unit = F.normalize(views.float(), dim=1)
    if sliding is None:
        return unit[0]
    h, w = unit.shape[-2:]
    rows, columns = (round(sliding.size * n / sliding.kernel) for n in (h, w))
    total, count = unit.new_zeros(len(unit[0]), rows, columns), unit.new_zeros(rows, columns)
    for view, (y, x) in zip(unit, sliding.origins, strict=False):
        top = min(round(y * h / sliding.kernel), rows - h)
        left = min(round(x * w / sliding.kernel), columns - w)
        total[:, top : top + h, left : left + w] += view
        count[top : top + h, left : left + w] += 1
    total = total / count.clamp_min(1)
    if sliding.global_view:
        total = total + resize(unit[-1:], (rows, columns))[0]
    return F.normalize(total, dim=0)
