"""The lattice of windows over an image of any size: fixed in the world, whatever part is asked.

Cells are squares of ``stride`` pixels, and a window is a square of 2 x 2 cells, so every pixel is
covered by four windows, whose weights there add up to 1. Cells and windows are numbered by rows and
columns: window (i, j) begins where cell (i, j) does and covers cells i and i + 1, j and j + 1. The
lattice goes on beyond the image, whose pixels are mirrored there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ALIGNED = 0.3
"""Offset before rounding up to whole pixels: grids are most often off by 0 or by half a pixel, and
tiny errors must not decide there.
"""


class Box(NamedTuple):
    """A part of an image in pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def common(self, other: Box) -> Box:
        """What is in both; of no height or width for nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, max(top, bottom), left, max(left, right))

    def within(self, other: Box) -> tuple[slice, slice]:
        """Where it is in an array of the pixels of another box that holds it."""
        rows = slice(self.top - other.top, self.bottom - other.top)
        return rows, slice(self.left - other.left, self.right - other.left)


@dataclass(frozen=True)
class Lattice:
    """Cells of ``window / 2`` pixels.

    Args:
        window: side of a window in pixels, even. row, column: a pixel at which a cell begins, of
            the image or outside of it.
    Raises:
        ValueError: a window of an odd side or of less than two pixels.
    """

    window: int
    row: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        if self.window < 2 or self.window % 2:
            raise ValueError(f"window: got {self.window}, expected an even number of pixels from 2")

    @property
    def stride(self) -> int:
        """Side of a cell, and distance of neighbouring windows, in pixels."""
        return self.window // 2

    def cells(self, box: Box) -> tuple[range, range]:
        """The rows and columns of the cells that cover a box, which is not empty."""
        s = self.stride
        rows = range((box.top - self.row) // s, (box.bottom - 1 - self.row) // s + 1)
        columns = range((box.left - self.column) // s, (box.right - 1 - self.column) // s + 1)
        return rows, columns

    def box(self, rows: range, columns: range) -> Box:
        """The pixels of cells."""
        s = self.stride
        top, left = self.row + rows.start * s, self.column + columns.start * s
        return Box(top, top + len(rows) * s, left, left + len(columns) * s)


def anchor_of(transform: tuple[float, ...]) -> tuple[int, int]:
    """The row and column of the pixel at the origin of a map's coordinates, where all images of one
    pixel grid have their lattice begin.

    Args:
        transform: (a, b, c, d, e, f) of x = a column + b row + c, y = d column + e row + f.
    """
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    column, row = (b * f - e * c) / determinant, (d * c - a * f) / determinant
    return math.ceil(row - ALIGNED), math.ceil(column - ALIGNED)


def mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices 0..size-1 of places start..stop-1 on a line that is mirrored at both ends, again and
    again: … 1 0 | 0 1 2 | 2 1 ….
    """
    places = np.arange(start, stop) % (2 * size)
    return np.where(places < size, places, 2 * size - 1 - places)


def weights(window: int) -> Tensor:
    """Weight of a window's pixels along one side: sin² from 0 to 0. Those of two windows that
    overlap by half add up to 1.
    """
    places = (torch.arange(window, dtype=torch.float64) + 0.5) / window
    return torch.sin(torch.pi * places).square().float()
