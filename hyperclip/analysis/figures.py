"""What all figures have in common: how they are drawn and saved, colours, one image with a map.

Shapes: H W image, h w grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..runtime.files import write_atomically

GREY, EDGE = "#8a8a8a", "#333333"
SEQUENTIAL = "viridis"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of panels (rows, columns), each of a size in inches, with its axes (rows, columns).

    It belongs to no window and to no global state of matplotlib.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a PNG file, in full or not at all."""
    write_atomically(path, partial(figure.savefig, format="png", dpi=dpi))


def show_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """An image uint8 (H, W, 3) without ticks."""
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def show_map(
    axes: Axes,
    values: np.ndarray,
    title: str,
    image: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    colors: str = SEQUENTIAL,
    points: Sequence[tuple[float, float]] = (),
) -> None:
    """A map (h, w) with a bar of its values, over the grey image (H, W, 3) if there is one.

    Args:
        limits: values of the ends of the bar; None for those of the map.
        points: (column, row) that get a cross, in pixels of the image, or in cells without one.
    """
    height, width = values.shape if image is None else image.shape[:2]
    low, high = limits if limits is not None else (float(values.min()), float(values.max()))
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if image is not None:
        axes.imshow(image.mean(axis=2), cmap="gray", extent=extent)
    shown = axes.imshow(
        values,
        cmap=colors,
        vmin=low,
        vmax=high if high > low else low + 1e-6,
        extent=extent,
        alpha=1.0 if image is None else 0.75,
        interpolation="nearest",
    )
    for column, row in points:
        axes.plot(column, row, "+", color="white", markersize=12, markeredgewidth=3)
        axes.plot(column, row, "+", color="red", markersize=11, markeredgewidth=1.5)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    axes.figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
