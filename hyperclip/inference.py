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
from .labels import NO_CLASS
from .runtime.memory import items_at_a_time

Size = tuple[int, int]  # height and width in pixels


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


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of (N, C, h, w) without anti-aliasing, as in the released code."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


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
    best = views.logits.new_full(size, -1.0)
    labels = torch.zeros(size, dtype=torch.int64, device=best.device)
    update = _update_at_once if best.device.type == "cuda" else _update_in_turn
    for prompts, maps in full_size_scores(views, sliding, size):
        update(best, labels, prompts, maps)
    return labels if class_of is None else class_of[labels], best


def _update_in_turn(best: Tensor, labels: Tensor, prompts: Tensor, maps: Tensor) -> None:
    """Take the scores (t, H, W) of more prompts (t,) into the best and its labels (H, W)."""
    for prompt, scores in zip(prompts.tolist(), maps, strict=True):
        labels.masked_fill_(scores > best, prompt)
        torch.maximum(best, scores, out=best)


def _update_at_once(best: Tensor, labels: Tensor, prompts: Tensor, maps: Tensor) -> None:
    """The same in few steps, for GPUs; on a CPU it takes four times as long."""
    scores, places = maps.max(dim=0)
    labels.copy_(torch.where(scores > best, prompts[places], labels))
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
