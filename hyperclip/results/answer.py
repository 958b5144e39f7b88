"""The classes of an image's pixels, and the regions they form. Shapes: T classes, H W image."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a side or a corner are connected."""


@dataclass(frozen=True)
class Region:
    """Pixels of one class: mask bool (H, W), at least one; score, the mean confidence in them."""

    category: int
    mask: np.ndarray
    score: float

    @property
    def area(self) -> int:
        """Its pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


@dataclass(frozen=True)
class Answer:
    """Labels (H, W), integers 0..T-1 or less than 0 for no class, their confidence (H, W), and the
    T names; ValueError for shapes that differ or labels that have no name.
    """

    labels: np.ndarray
    confidence: np.ndarray
    names: Sequence[str]

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape != self.confidence.shape:
            raise ValueError(
                f"answer: got labels {self.labels.shape} and confidence {self.confidence.shape}, "
                "expected the same height and width"
            )
        if self.labels.size and self.labels.max() >= len(self.names):
            raise ValueError(
                f"answer: got the label {self.labels.max()}, expected below {len(self.names)}, the "
                "number of names"
            )

    def index(self, name: str) -> int:
        """The class of a name; ValueError, with the nearest, for another."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=1)
            meant = f". Did you mean {near[0]!r}?" if near else f", expected one of {self.names}"
            raise ValueError(f"name: got {name!r}, which was not asked{meant}")
        return list(self.names).index(name)

    def regions(self, instances: bool = False, smallest: int = 1) -> Iterator[Region]:
        """Each class that has pixels, in the order of the names; with ``instances`` each of its
        connected parts, from the top. Those of fewer pixels than ``smallest`` are left out.
        """
        for category in np.unique(self.labels[self.labels >= 0]).tolist():
            whole = self.labels == category
            parts = _connected(whole) if instances else [whole]
            for mask in parts:
                if mask.sum() >= smallest:
                    yield Region(category, mask, float(self.confidence[mask].mean()))


def _connected(mask: np.ndarray) -> Iterator[np.ndarray]:
    numbered, _ = ndimage.label(mask, structure=NEIGHBOURS)
    for i, place in enumerate(ndimage.find_objects(numbered), 1):
        part = np.zeros_like(mask)
        part[place] = numbered[place] == i
        yield part
