"""What visitors show of their classes: images with masks, each visitor's own, for a while.

Shapes: H W image.
"""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import secrets
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.example_files import require_mask
from ..data.given_images import mask_of
from ..runtime.recent import Recent
from ..vocabulary.names import is_blank

MOST = 16
"""Examples of a visitor."""
ALL_BYTES = 2**28
"""Bytes of all visitors' examples; those of whoever was longest away go first."""


@dataclass(frozen=True)
class Shown:
    """An example: image uint8 RGB (H, W, 3), mask bool (H, W), name of the class."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def nbytes(self) -> int:
        """Bytes that its arrays take."""
        return self.image.nbytes + self.mask.nbytes


class VisitorsExamples:
    """The examples of each visitor, by the visitor's session."""

    def __init__(self) -> None:
        self._of: Recent[str, tuple[Shown, ...]] = Recent(ALL_BYTES)

    def of(self, visitor: str) -> tuple[Shown, ...]:
        """Those of a visitor."""
        return self._of.get(visitor) or ()

    def add(self, visitor: str, name: str, image: np.ndarray, mask: str) -> tuple[Shown, ...]:
        """Keep an example with the file of its mask; all of the visitor's. ValueError for an empty
        name, a mask of another size or an empty one, or more than ``MOST``.
        """
        if is_blank(name):
            raise ValueError("Example: type the name of its class, one of those that you ask for")
        before = self.of(visitor)
        if len(before) >= MOST:
            raise ValueError(f"Examples: got more than {MOST}, the most. Forget them first")
        values = mask_of(mask)
        require_mask(values, image.shape[:2], repr(name.strip()))
        shown = (*before, Shown(name.strip(), image, values))
        if sum(x.nbytes for x in shown) > ALL_BYTES // 4:
            raise ValueError(f"Example {Path(mask).name!r}: it is too large with the others")
        self._of.put(visitor, shown, sum(x.nbytes for x in shown))
        return shown

    def forget(self, visitor: str) -> None:
        """Drop those of a visitor."""
        self._of.drop(visitor)
