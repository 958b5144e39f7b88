"""What heads give for inference: logits of views, of those classes alone that each view kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

REJECTED = -100.0
"""Logit of a class that pruning left out."""


@dataclass(frozen=True)
class PartOfView:
    """Logits (k, h, w) of a view and their places (k,) among the classes of a chunk; None if they
    are of all of them.
    """

    logits: Tensor
    places: Tensor | None


@dataclass(frozen=True)
class ViewLogits:
    """Logits of V views.

    Attributes:
        logits: (V, K, h, w). classes: T.
        kept: (V, K), the class of each, ascending; None where every view has all classes, K = T.
    """

    logits: Tensor
    classes: int
    kept: Tensor | None = None

    def split(self, views: int) -> list[ViewLogits]:
        """The logits of so many views each."""
        kept = [None] * len(self.logits) if self.kept is None else self.kept.split(views)
        return [
            ViewLogits(part, self.classes, k)
            for part, k in zip(self.logits.split(views), kept, strict=False)
        ]

    def whole(self) -> Tensor:
        """Logits (V, T, h, w) of every class, ``REJECTED`` where a view did not keep it."""
        if self.kept is None:
            return self.logits
        full = self.logits.new_full(
            (len(self.logits), self.classes, *self.logits.shape[2:]), REJECTED
        )
        return full.scatter(1, self.kept[:, :, None, None].expand_as(self.logits), self.logits)

    def chunks(self, step: int) -> Iterator[tuple[Tensor, list[PartOfView]]]:
        """Yield (classes (t,), a part for each view), at most ``step`` classes at a time in
        ascending order.

        Classes that no view kept are left out.
        """
        if self.kept is None:
            for i, part in zip(
                range(0, self.classes, step), self.logits.split(step, dim=1), strict=True
            ):
                classes = torch.arange(i, i + part.shape[1], device=part.device)
                yield classes, [PartOfView(view, None) for view in part]
            return
        present = self.kept.unique()
        edges = torch.cat([present[::step], present[-1:] + 1])
        bounds = torch.searchsorted(
            self.kept, edges.expand(len(self.kept), -1).contiguous()
        ).T.tolist()
        for classes, starts, ends in zip(present.split(step), bounds, bounds[1:], strict=False):
            slices = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
            yield (
                classes,
                [
                    PartOfView(logits[s], torch.searchsorted(classes, kept[s]))
                    for logits, kept, s in zip(self.logits, self.kept, slices, strict=True)
                ],
            )
