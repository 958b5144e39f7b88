"""Radii of checkpoints as rows of a table, and their CSV file.

Shapes: M vectors, T classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from .radius import Radii, cap_of

ALL = "(all)"
"""The class of rows about all vectors."""
TOUCHING = 1 - 1e-4
"""Vectors count as saturated from this share of the cap on, which rounding may keep them below."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one checkpoint.

    Attributes:
        name: of its file. iteration: iterations of its training, 0 for pre-trained CLIP, None if
            the file does not say.
        radii: by kind.
    """

    name: str
    iteration: int | None
    radii: Mapping[str, Radii]


@dataclass(frozen=True)
class Row:
    """One line of the table: ``mean`` to ``q95`` are radii, and of the ``vectors`` so many as
    ``saturated`` reach the ``cap``.
    """

    checkpoint: str
    iteration: int | str
    kind: str
    layer: int
    name: str
    vectors: int
    mean: float
    q05: float
    median: float
    q95: float
    curvature: float
    cap: float
    saturated: int
    share: float


def rows_of(
    measured: Sequence[Measured], names: Sequence[str], curvatures: Mapping[str, float]
) -> Iterator[Row]:
    """All rows: every kind and layer of every checkpoint over all vectors, then those of each class
    that has any. Layers count from 1; ``curvatures`` are those of "text" and "vision".
    """
    for one in measured:
        for kind, radii in one.radii.items():
            curvature = curvatures["text" if kind.startswith("text") else "vision"]
            for layer, values in enumerate(radii.layers, start=1):
                choices = [(ALL, values.numpy())]
                if radii.of_class is not None:
                    members = radii.of_class.numpy()
                    choices += [(n, values.numpy()[members[:, i]]) for i, n in enumerate(names)]
                for name, chosen in choices:
                    if len(chosen):
                        iteration = "" if one.iteration is None else one.iteration
                        numbers = _numbers(chosen, curvature, cap_of(kind, curvature))
                        yield Row(one.name, iteration, kind, layer, name, len(chosen), *numbers)


def _numbers(radii: np.ndarray, curvature: float, cap: float) -> tuple:
    """From mean to share of a row, of radii (M,)."""
    low, middle, high = np.quantile(radii, (0.05, 0.5, 0.95)).tolist()
    saturated = int((radii >= cap * TOUCHING).sum())
    share = saturated / len(radii)
    return float(radii.mean()), low, middle, high, curvature, cap, saturated, share


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV, radii with 6 digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row).items()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values})
    return text.getvalue()


def last_layer(rows: Sequence[Row], kind: str, name: str = ALL) -> list[Row]:
    """The rows of a kind and class of the last layer, checkpoint by checkpoint."""
    found = [row for row in rows if row.kind == kind and row.name == name]
    last = max((row.layer for row in found), default=0)
    return [row for row in found if row.layer == last]


def summary(rows: Sequence[Row]) -> str:
    """A few lines for the screen: mean radii before and after, and what is saturated."""
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        found = last_layer(rows, kind)
        first, last = found[0], found[-1]
        every = [row for row in rows if row.kind == kind and row.name == ALL]
        most = max(every, key=lambda row: row.share)
        lines.append(
            f"{kind}: mean radius {first.mean:.3f} ({first.checkpoint}) -> {last.mean:.3f} "
            f"({last.checkpoint}); saturated (radius {last.cap:.1f} at c = {last.curvature:g}): at "
            f"most {most.saturated} of {most.vectors} ({100 * most.share:.3g} %)"
        )
    return "\n".join(lines)
