"""From one image to views of CLIP's resolution, and from the views' logits back to scores of the
image's size.

Scores are independent sigmoids in 0..1. Classes are handled in chunks, so that label maps never
need a score map of every class, and a class costs nothing in a view that did not keep it. Shapes: V
views, T classes, t classes of a chunk, r resolution of CLIP, H W size of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .head.logits import PartOfView, ViewLogits
from .labels import NO_CLASS
from .runtime.memory import items_at_a_time


@dataclass(frozen=True)
class SlidingWindow:
    """Windows over a squashed image plus, optionally, one view of the whole image.

    Attributes:
        size: side of the square that the image is squashed to.
        kernel: side of a window, in pixels of that square.
        overlap: share of a window that the next one covers again, 0 <= overlap < 1.
        global_view: average the windows with a view of the whole image, half and half.
    """

    size: int = 640
    kernel: int = 384
    overlap: float = 0.333
    global_view: bool = True

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


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (N, C, h, w) without anti-aliasing, as the released code does
    everywhere.
    """
    return (
        x
        if tuple(x.shape[-2:]) == tuple(size)
        else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    )


def make_views(
    image: Tensor, resolution: tuple[int, int], sliding: SlidingWindow | None, divisor: int = 0
) -> Tensor:
    """Cut a normalised image (3, H, W) into views (V, 3, r, r); the view of the whole image comes
    last.

    Args:
        resolution: what CLIP takes.
        sliding: the windows, or None for the whole image alone.
        divisor: without windows, zero-pad H and W to multiples of this before squashing (the
            released code pads to 32 and does not cut the padding off again, which shifts its
            masks); 0 for no padding.
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
    """Logits of the views of one image, a chunk of t classes, to scores (t, S, S) in 0..1.

    A class that a view did not keep scores 0 there.

    Args:
        classes: t. sliding: how the views were cut; S is its square's side, or the logits' own
            without one.
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
    """Add the scores of a window, or of a view squashed to a window's size, to those of its classes
    (t, H, W).
    """
    if not len(view.logits):
        return
    scores = resize(
        resize(view.logits[None], (kernel, kernel)).sigmoid(), (total.shape[1], total.shape[2])
    )[0]
    if view.places is None:
        total += scores
    else:
        total.index_add_(0, view.places, scores)


def full_size_scores(
    views: ViewLogits, sliding: SlidingWindow | None, size: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (prompts (t,), their scores (t, H, W)) in chunks of ascending prompts; those that no
    view kept are left out.
    """
    side = sliding.size if sliding else 0
    step = items_at_a_time(max(size[0] * size[1], side * side), views.logits.device)
    for classes, parts in views.chunks(step):
        yield classes, resize(merge_views(parts, len(classes), sliding)[None], size)[0]


def score_maps(
    views: ViewLogits,
    sliding: SlidingWindow | None,
    size: tuple[int, int],
    class_of: Tensor | None = None,
) -> Tensor:
    """Scores of one image (T, H, W); a class that no view kept scores 0.

    Args:
        views: logits of its views. sliding: how they were cut. size: (H, W).
        class_of: the class of each prompt (P,), ascending, which scores what its best prompt
            scores; None for one prompt a class.
    """
    classes = views.classes if class_of is None else int(class_of[-1]) + 1
    scores = views.logits.new_zeros(classes, *size)
    for prompts, maps in full_size_scores(views, sliding, size):
        if class_of is None:
            scores[prompts] = maps
        else:
            scores.scatter_reduce_(
                0, class_of[prompts][:, None, None].expand_as(maps), maps, "amax"
            )
    return scores


def best_classes(
    views: ViewLogits,
    sliding: SlidingWindow | None,
    size: tuple[int, int],
    class_of: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Best class of each pixel of one image, int64 (H, W), and its score (H, W).

    A running maximum over chunks of classes. Ties go to the lower class, as ``argmax`` over
    :func:`score_maps` would have it. Arguments are those of :func:`score_maps`.
    """
    best = views.logits.new_full(size, -1.0)
    labels = torch.zeros(size, dtype=torch.int64, device=best.device)
    for prompts, maps in full_size_scores(views, sliding, size):
        for prompt, scores in zip(prompts.tolist(), maps, strict=True):
            labels.masked_fill_(scores > best, prompt)
            torch.maximum(best, scores, out=best)
    return labels if class_of is None else class_of[labels], best


def leave_out(labels: Tensor, confidence: Tensor, classes: float, pixels: float) -> Tensor:
    """Labels (H, W) with ``NO_CLASS`` where a threshold is not reached.

    Args:
        labels, confidence: (H, W), the best class and its score.
        classes: a class none of whose pixels reaches it is left out. pixels: of each pixel.
    """
    if pixels > 0:
        labels = labels.masked_fill(confidence < pixels, NO_CLASS)
    if classes > 0 and (labels != NO_CLASS).any():
        best = confidence.new_zeros(int(labels.max()) + 1)
        found = labels != NO_CLASS
        best.scatter_reduce_(0, labels[found], confidence[found], "amax")
        labels = labels.masked_fill(found & (best[labels.clamp_min(0)] < classes), NO_CLASS)
    return labels
