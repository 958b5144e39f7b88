"""From one image to views of CLIP's resolution, and from the views' logits back to scores of the image's size.

Scores are independent sigmoids in 0..1. Classes arrive in chunks, so that label maps never need a score map of
every class. Shapes: V views, T classes, t classes of a chunk, r resolution of CLIP, H W size of the output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
                f"TEST.SLIDING: got KERNEL {self.kernel}, SIZE {self.size}, OVERLAP {self.overlap}, expected "
                "0 < KERNEL <= SIZE and 0 <= OVERLAP < 1"
            )
        if self.stride < 1:
            raise ValueError(f"TEST.SLIDING.OVERLAP: got {self.overlap}, which leaves a stride below one pixel")
        if (self.size - self.kernel) % self.stride:
            raise ValueError(
                f"TEST.SLIDING: windows of {self.kernel} at stride {self.stride} do not cover {self.size} pixels; "
                f"expected SIZE = KERNEL + n * {self.stride}"
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
    """Bilinear resize of (N, C, h, w) without anti-aliasing, as the released code does everywhere."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def make_views(image: Tensor, resolution: tuple[int, int], sliding: SlidingWindow | None, divisor: int = 0) -> Tensor:
    """Cut a normalised image (3, H, W) into views (V, 3, r, r); the view of the whole image comes last.

    Args:
        resolution: what CLIP takes.
        sliding: the windows, or None for the whole image alone.
        divisor: without windows, zero-pad H and W to multiples of this before squashing (the released code pads to
            32 and does not cut the padding off again, which shifts its masks); 0 for no padding.
    """
    if sliding is None:
        if divisor:
            image = F.pad(image, (0, -image.shape[-1] % divisor, 0, -image.shape[-2] % divisor))
        return resize(image[None], resolution)
    square = resize(image[None], (sliding.size, sliding.size))
    k = sliding.kernel
    views = [square[..., y : y + k, x : x + k] for y, x in sliding.origins]
    if sliding.global_view:  # squashed to a window's size first, as released: it matters where CLIP takes less (ViT-L)
        views.append(resize(image[None], (k, k)))
    return resize(torch.cat(views), resolution)


def merge_views(logits: Tensor, sliding: SlidingWindow | None) -> Tensor:
    """Logits of the views (V, t, h, w) to scores (t, S, S) in 0..1; S is the logits' or the square's side."""
    if sliding is None:
        return logits[0].sigmoid()
    k, s = sliding.kernel, sliding.size
    scores = resize(logits, (k, k)).sigmoid()
    total, count = scores.new_zeros(scores.shape[1], s, s), scores.new_zeros(s, s)
    for view, (y, x) in zip(scores, sliding.origins, strict=False):
        total[:, y : y + k, x : x + k] += view
        count[y : y + k, x : x + k] += 1
    merged = total / count
    return (merged + resize(scores[-1:], (s, s))[0]) / 2 if sliding.global_view else merged


class ScoreCollector:
    """Scores (T, H, W) of one image, chunk by chunk; classes that no chunk mentions score 0.

    Args:
        sliding: how the views were cut. size: (H, W) of the output. classes: T.
        class_of: the class of each prompt (P,), which scores what its best prompt scores; None for one prompt a class.
    """

    def __init__(
        self, sliding: SlidingWindow | None, size: tuple[int, int], classes: int, class_of: Tensor | None = None
    ) -> None:
        self.sliding, self.size, self.classes, self.class_of = sliding, size, classes, class_of
        self.scores: Tensor | None = None

    def add(self, classes: Tensor, logits: Tensor) -> None:
        """Add logits (V, t, h, w) of the prompts with these indices (t,)."""
        merged = resize(merge_views(logits, self.sliding)[None], self.size)[0]
        if self.scores is None:
            self.scores = merged.new_zeros(self.classes, *self.size)
        if self.class_of is None:
            self.scores[classes] = merged
        else:
            self.scores.scatter_reduce_(0, self.class_of[classes][:, None, None].expand_as(merged), merged, "amax")

    def result(self) -> dict[str, Tensor]:
        """``{"sem_seg": scores}``."""
        assert self.scores is not None
        return {"sem_seg": self.scores}


class LabelCollector:
    """Best class (H, W) of one image and its score, as a running maximum over chunks of ascending classes.

    Ties go to the lower class, as ``argmax`` over the whole score map would have it.

    Args:
        sliding: how the views were cut. size: (H, W) of the output.
        class_of: the class of each prompt (P,), ascending; None for one prompt a class.
    """

    def __init__(self, sliding: SlidingWindow | None, size: tuple[int, int], class_of: Tensor | None = None) -> None:
        self.sliding, self.size, self.class_of = sliding, size, class_of
        self.labels: Tensor | None = None
        self.best: Tensor | None = None

    def add(self, classes: Tensor, logits: Tensor) -> None:
        """Add logits (V, t, h, w) of the prompts with these indices (t,)."""
        score, place = resize(merge_views(logits, self.sliding)[None], self.size)[0].max(dim=0)
        labels = classes[place]
        if self.best is not None and self.labels is not None:
            better = score > self.best
            score, labels = torch.where(better, score, self.best), torch.where(better, labels, self.labels)
        self.best, self.labels = score, labels

    def result(self) -> dict[str, Tensor]:
        """``{"sem_seg_labels": int64 (H, W), "sem_seg_confidence": (H, W)}``."""
        assert self.best is not None and self.labels is not None
        labels = self.labels if self.class_of is None else self.class_of[self.labels]
        return {"sem_seg_labels": labels, "sem_seg_confidence": self.best}
