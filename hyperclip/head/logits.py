"""What heads give for inference: logits of views, for the classes that each view kept.

Shapes: V views, T classes, K of them kept, h w grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..runtime.precision import at_least_float32

REJECTED = -100.0  # logit of a class that pruning left out


class PartOfView(NamedTuple):
    """Logits (k, h, w) of a view and their places (k,) in a chunk of classes, None for all."""

    logits: Tensor
    places: Tensor | None


@dataclass(frozen=True)
class ViewLogits:
    """Logits of V views."""

    logits: Tensor  # (V, K, h, w)
    classes: int  # T
    kept: Tensor | None = None  # (V, K), the class of each, ascending; None for all, K = T

    def precise(self) -> ViewLogits:
        """The same in float32, if they are in half precision, in which neighbours of 1 differ by
        0.4 %; and on GPUs autocast resizes in float32 whatever it is given.
        """
        return replace(self, logits=at_least_float32(self.logits))

    def whole(self) -> Tensor:
        """Logits (V, T, h, w) of every class, ``REJECTED`` where a view did not keep it."""
        if self.kept is None:
            return self.logits
        views, _, h, w = self.logits.shape
        full = self.logits.new_full((views, self.classes, h, w), REJECTED)
        return full.scatter(1, self.kept[:, :, None, None].expand_as(self.logits), self.logits)

    def chunks(self, step: int) -> Iterator[tuple[Tensor, list[PartOfView]]]:
        """Yield (classes (t,), a part for each view), at most ``step`` classes at a time, in
        ascending order, without classes that no view kept.
        """
        if self.kept is None:
            all_classes = torch.arange(self.classes, device=self.logits.device).split(step)
            for classes, part in zip(all_classes, self.logits.split(step, dim=1), strict=True):
                yield classes, [PartOfView(view, None) for view in part]
            return
        present = self.kept.unique()
        edges = torch.cat([present[::step], present[-1:] + 1])
        edges = edges.expand(len(self.kept), -1).contiguous()
        bounds = torch.searchsorted(self.kept, edges).T.tolist()
        for classes, starts, ends in zip(present.split(step), bounds, bounds[1:], strict=False):
            parts = []
            for logits, kept, a, b in zip(self.logits, self.kept, starts, ends, strict=True):
                parts.append(PartOfView(logits[a:b], torch.searchsorted(classes, kept[a:b])))
            yield classes, parts
