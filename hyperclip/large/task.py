"""The work on a large image: strips of windows, from top to bottom, and the pieces of labels that
they give.

Two rows of windows are in memory, as the small maps that systems answer with. Shapes: H W part of
the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..predictor import Predictor
from ..runtime.finite import FiniteCheck
from ..score_maps import ScoreMaps
from ..segmenter import Question
from .blend import Quarter, label_cell
from .lattice import Box, Lattice
from .output import kind_of
from .pieces import Pieces
from .raster import Raster

Progress = Callable[[int, int], None]
"""Takes how many cells are done, and how many there are."""


@dataclass(frozen=True)
class Piece:
    """A row of cells of a strip: the row, the columns, and the pixels of it that are wanted."""

    row: int
    columns: range
    box: Box


@dataclass(frozen=True)
class WindowRow:
    """The scores of windows side by side, None for those without data, and which pixels of them
    together have data, bool (H, W).
    """

    maps: list[ScoreMaps | None]
    valid: np.ndarray


@dataclass(frozen=True)
class Task:
    """The work on a part of an image.

    Args:
        box: the part. width: of a strip, in cells.
    """

    predictor: Predictor
    question: Question
    raster: Raster
    lattice: Lattice
    box: Box
    width: int
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        own = {"extent": list(self.box), "window": self.lattice.window, "tile": self.width}
        object.__setattr__(self, "settings", {**self.raster.settings, **own})

    def pieces(self) -> Iterator[Piece]:
        """All pieces, strip by strip from top to bottom."""
        rows, columns = self.lattice.cells(self.box)
        for start in range(0, len(columns), self.width):
            some = columns[start : start + self.width]
            for row in rows:
                own = self.lattice.box(range(row, row + 1), some)
                yield Piece(row, some, own.common(self.box))

    def run(self, pieces: Pieces, batch: int, progress: Progress | None) -> None:
        """Compute the pieces that are not there."""
        rows, columns = self.lattice.cells(self.box)
        done, total = 0, len(rows) * len(columns)
        above: WindowRow | None = None
        before: Piece | None = None
        for piece in self.pieces():
            if before is None or piece.columns != before.columns:
                above = None  # of another strip
            if piece.box in pieces:
                above = None
            else:
                if above is None:
                    above = self.windows(piece.row - 1, piece.columns, batch)
                below = self.windows(piece.row, piece.columns, batch)
                pieces.add(piece.box, self.label(piece, above, below))
                above = below
            before, done = piece, done + len(piece.columns)
            if progress is not None:
                progress(done, total)

    def windows(self, row: int, columns: range, batch: int) -> WindowRow:
        """The windows of a row that cover cells of these columns."""
        side, s = self.lattice.window, self.lattice.stride
        cells = range(columns.start - 1, columns.stop + 1)
        pixels, valid = self.raster.read(self.lattice.box(range(row, row + 2), cells))
        starts = range(0, (len(columns) + 1) * s, s)
        seen = [i for i, x in enumerate(starts) if valid[:, x : x + side].any()]
        maps: list[ScoreMaps | None] = [None] * len(starts)
        for k in range(0, len(seen), batch):
            some = seen[k : k + batch]
            places = [slice(starts[i], starts[i] + side) for i in some]
            images = [filled(pixels[:, place], valid[:, place]) for place in places]
            for i, encoded in zip(some, self.predictor.encode_all(images), strict=True):
                maps[i] = self.predictor.scores(encoded, self.question)
        return WindowRow(maps, valid)

    def label(self, piece: Piece, above: WindowRow, below: WindowRow) -> np.ndarray:
        """The labels (H, W) of a piece, as they are stored."""
        s, classes = self.lattice.stride, len(self.question.vocabulary)
        kind, none, no_data = kind_of(classes)
        valid = below.valid[:s, s:-s]  # of the cells between the first and the last
        labels = np.full(valid.shape, no_data, kind)
        check = FiniteCheck()
        for n in range(len(piece.columns)):
            place = (slice(None), slice(n * s, (n + 1) * s))
            if not valid[place].any():
                continue
            quarters = [
                Quarter(maps, lower, right)
                for lower, row in ((True, above), (False, below))
                for right, maps in ((True, row.maps[n]), (False, row.maps[n + 1]))
                if maps is not None
            ]
            own, confidence = label_cell(quarters, self.lattice.window)
            check.add("the blended scores", confidence)
            own = torch.where((own >= 0) & (own < classes), own, none)
            labels[place] = np.where(valid[place], own.cpu().numpy(), no_data)
        check.require(self.predictor.model)
        whole = self.lattice.box(range(piece.row, piece.row + 1), piece.columns)
        return labels[piece.box.within(whole)]


def filled(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """An image, uint8 RGB (H, W, 3), whose pixels without data have the mean colour of the others,
    of which there is one at least.
    """
    if valid.all():
        return np.ascontiguousarray(pixels)
    image = pixels.copy()
    image[~valid] = pixels[valid].mean(axis=0).round().astype(np.uint8)
    return image
