"""Pictures of what is behind an answer, and sheets of many pictures.

Shapes: T classes, P prompts, H W image, h w grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .figures import EDGE, new_figure, show_image, show_map
from .inside import Costs, Point

MOST_CLASSES = 24
"""An attention map shows so many classes, those with the highest scores."""
TILE = 320
"""Pictures on a sheet are at least so wide, in pixels, if they are themselves."""


def cost_slices(
    image: np.ndarray, costs: Costs, names: Sequence[str], rows: Sequence[int]
) -> Figure:
    """The maps of some classes, a row each: the cosine before aggregation, what aggregation adds,
    and the score after the decoder.

    Args:
        names: of the prompts (P,) that the costs have. rows: places among these.
    """
    figure, axes = new_figure(len(rows), 4, 2.7, 2.3)
    limits = [bounds(maps[list(rows)]) for maps in (costs.cosine, costs.change)]
    for (picture, before, added, after), row in zip(axes, rows, strict=True):
        show_image(picture, image, names[row])
        maps = (costs.cosine, costs.change, costs.score)
        cosine, change, score = (one[row].cpu().numpy() for one in maps)
        show_map(before, cosine, "before: cosine", limits=limits[0])
        show_map(added, change, "aggregation adds: norm", limits=limits[1], colors="magma")
        show_map(after, score, "after: sigmoid of the logit", limits=(0.0, 1.0))
    return figure


def attention_maps(costs: Costs, names: Sequence[str]) -> Figure:
    """Class-by-class attention, a panel for each layer: rows take of columns; the last columns are
    all classes that are not shown, and the padding.
    """
    best = costs.score.flatten(1).amax(dim=1)
    order = best.argsort(descending=True, stable=True)[:MOST_CLASSES].sort().values.cpu().numpy()
    shown = [names[i] for i in order]
    side = 2.6 + 0.2 * len(shown)
    figure, axes = new_figure(1, len(costs.attention), side + 1.0, side)
    for layer, (panel, weights) in enumerate(zip(axes[0], costs.attention, strict=True), start=1):
        matrix = weights.cpu().numpy()[order]
        inside, padding = matrix[:, order], matrix[:, -1:]
        others = matrix.sum(axis=1, keepdims=True) - inside.sum(axis=1, keepdims=True) - padding
        table = np.pad(inside, ((0, 0), (0, 2)), constant_values=np.nan)
        drawn = panel.imshow(table, cmap="viridis")
        columns = [*shown, f"{len(names) - len(shown)} others", "padding"]
        panel.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        panel.set_yticks(range(len(shown)), shown, fontsize=7)
        panel.set_title(f"layer {layer}: share that a row's class takes of a column's", fontsize=9)
        for place, (far, empty) in enumerate(zip(others[:, 0], padding[:, 0], strict=True)):
            for column, share in ((len(shown), far), (len(shown) + 1, empty)):
                style = {"fontsize": 6, "ha": "center", "va": "center", "color": EDGE}
                panel.text(column, place, f"{100 * share:.0f}%", **style)
        bar = figure.colorbar(drawn, ax=panel, fraction=0.046, pad=0.02)
        bar.ax.tick_params(labelsize=7)
    return figure


def point_maps(
    image: np.ndarray, maps: Sequence[Tensor], points: Sequence[Point], title: str
) -> Figure:
    """The image, and over it a map (h, w) for each point, with its place."""
    figure, axes = new_figure(1, 1 + len(points), 3.0, 2.6)
    show_image(axes[0, 0], image, "image")
    for panel, values, point in zip(axes[0, 1:], maps, points, strict=True):
        found = values.float().cpu().numpy()
        show_map(panel, found, f"{title} {point[0]},{point[1]}", image, points=[point])
    return figure


def pixel_map(
    image: np.ndarray, values: Tensor, title: str, limits: tuple[float, float] | None = None
) -> Figure:
    """The image beside a map (H, W) of its pixels."""
    figure, axes = new_figure(1, 2, 3.2, 2.7)
    show_image(axes[0, 0], image, "image")
    show_map(axes[0, 1], values.cpu().numpy(), title, limits=limits)
    return figure


def bounds(maps: Tensor) -> tuple[float, float]:
    """The lowest and the highest value of maps."""
    return float(maps.min()), float(maps.max())


def contact_sheet(pictures: Mapping[str, Image.Image], width: int = 1600) -> Image.Image:
    """All pictures on one, row by row, with their names below: scaled down to fit, never up, and so
    many in a row as go into the width at no less than ``TILE`` pixels each. ValueError for none.
    """
    if not pictures:
        raise ValueError("contact sheet: got no picture, expected one or more")
    widest = max(picture.width for picture in pictures.values())
    columns = max(1, min(len(pictures), width // min(max(widest, TILE), width)))
    side = min(width // columns, widest)
    font = ImageFont.load_default(14)
    scaled = []
    for name, picture in pictures.items():
        scale = min(1.0, side / picture.width)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        scaled.append((name, picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    rows = [scaled[i : i + columns] for i in range(0, len(scaled), columns)]
    heights = [max(picture.height for _, picture in row) + 26 for row in rows]
    sheet = Image.new("RGB", (columns * (side + 8), sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for place, (name, picture) in enumerate(row):
            sheet.paste(picture, (place * (side + 8), top))
            label = name if len(name) <= 40 else f"…{name[-39:]}"
            draw.text((place * (side + 8) + 2, top + picture.height + 3), label, "black", font)
        top += height
    return sheet
