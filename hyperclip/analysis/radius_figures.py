"""Figures of hyperbolic radii: by layer, class and iteration, the paper's densities, the ball.

Shapes: M vectors, C embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import EDGE, GREY, new_figure
from .radius import KINDS, evenly
from .radius_rows import ALL, Measured, Row, last_layer

COLORS = {"text": "#c0392b", "image": "#2471a3", "pixel": "#1e8449"}
RADIUS = "hyperbolic radius 2|v|"
MOST_CLASSES = 40
VIEWED = 0.8
"""The farthest vector of the ball's view is drawn at this share of the ball's radius."""
TITLES = {
    "text": "text: prompts of the class names",
    "image": "image: CLIP's class token",
    "pixel": "pixel: patches, as in dense features",
}


def kinds_of(rows: Sequence[Row]) -> list[str]:
    """The kinds of embeddings that were measured, in order."""
    return [kind for kind in KINDS if any(row.kind == kind for row in rows)]


def by_layer(rows: Sequence[Row]) -> Figure:
    """Median and 5 to 95 % of every kind, layer by layer, of the first and the last checkpoint."""
    kinds = kinds_of(rows)
    figure, axes = new_figure(1, len(kinds), 3.6, 3.3)
    for panel, kind in zip(axes[0], kinds, strict=True):
        found = [row for row in rows if row.kind == kind and row.name == ALL]
        ends = list(dict.fromkeys((found[0].checkpoint, found[-1].checkpoint)))
        for name, color in zip(ends, (GREY, COLORS[kind]), strict=False):
            chosen = [row for row in found if row.checkpoint == name]
            layers = [row.layer for row in chosen]
            panel.plot(layers, [row.median for row in chosen], "o-", color=color, label=name, ms=4)
            bounds = [row.q05 for row in chosen], [row.q95 for row in chosen]
            panel.fill_between(layers, *bounds, color=color, alpha=0.2, linewidth=0)
        panel.set_xticks(layers)
        _label(panel, TITLES[kind], "layer, read through the last norm and projection", RADIUS)
        panel.legend(fontsize=7, title="median, band 5 to 95 %", title_fontsize=7)
    return figure


def by_class(rows: Sequence[Row]) -> Figure:
    """Mean radius of each class before and after: of the ``MOST_CLASSES`` whose text moved most."""
    kinds, names = kinds_of(rows), list(dict.fromkeys(row.name for row in rows))
    names.remove(ALL)
    ends = {
        (kind, name): (found[0].mean, found[-1].mean)
        for kind in kinds
        for name in names
        if (found := last_layer(rows, kind, name))
    }
    moved = sorted(names, key=lambda n: -abs(np.subtract(*ends.get((kinds[0], n), (0, 0)))))
    shown = moved[:MOST_CLASSES]
    figure, axes = new_figure(1, len(kinds), 3.6, 1.2 + 0.19 * len(shown))
    for panel, kind in zip(axes[0], kinds, strict=True):
        for place, name in enumerate(reversed(shown)):
            if (kind, name) in ends:
                first, last = ends[kind, name]
                panel.plot([first, last], [place, place], color=GREY, linewidth=1, zorder=1)
                before = panel.scatter(first, place, color=GREY, s=16)
                after = panel.scatter(last, place, color=COLORS[kind], s=16)
                handles = [before, after]
        panel.set_yticks(range(len(shown)))
        panel.set_yticklabels(reversed(shown) if kind == kinds[0] else [], fontsize=7)
        panel.set_ylim(-0.8, len(shown) - 0.2)
        _label(panel, TITLES[kind], f"mean {RADIUS}", "")
        if any((kind, name) in ends for name in shown):
            panel.legend(handles, ["first", "last"], fontsize=7, loc="best")
    if len(shown) < len(names):
        figure.suptitle(f"{len(shown)} of {len(names)} classes: whose text moved most", fontsize=9)
    return figure


def by_iteration(rows: Sequence[Row]) -> Figure:
    """Mean and 5 to 95 % of every kind over the checkpoints."""
    kinds = kinds_of(rows)
    figure, axes = new_figure(1, len(kinds), 3.6, 3.3)
    for panel, kind in zip(axes[0], kinds, strict=True):
        found = last_layer(rows, kind)
        places, label = _places(found, panel)
        means = [row.mean for row in found]
        panel.plot(places, means, "o-", color=COLORS[kind], ms=4, label="mean")
        bounds = [row.q05 for row in found], [row.q95 for row in found]
        band = {"color": COLORS[kind], "alpha": 0.2, "linewidth": 0, "label": "5 to 95 %"}
        panel.fill_between(places, *bounds, **band)
        _label(panel, TITLES[kind], label, RADIUS)
        panel.legend(fontsize=7)
    return figure


def _places(found: Sequence[Row], panel: Axes) -> tuple[list[int], str]:
    """Where checkpoints are on the axis: at their iterations, or side by side with their names."""
    if all(row.iteration != "" for row in found):
        return [int(row.iteration) for row in found], "iterations of fine-tuning"
    panel.set_xticks(range(len(found)), [row.checkpoint for row in found], rotation=20, fontsize=7)
    return list(range(len(found))), "checkpoint"


def densities(measured: Sequence[Measured], kinds: Sequence[str]) -> Figure:
    """The paper's figure: how the radii of embeddings are distributed, checkpoint by checkpoint,
    from CLIP as it was pre-trained at image level to the last one, tuned at pixel level.
    """
    figure, axes = new_figure(1, len(kinds), 4.2, 3.4)
    for panel, kind in zip(axes[0], kinds, strict=True):
        shades = np.linspace(1.0, 0.25, max(len(measured) - 1, 1))[::-1]
        values = [one.radii[kind].layers[-1].numpy() for one in measured]
        low, high = min(map(np.min, values)), max(map(np.max, values))
        edge = 0.2 * max(float(high - low), 1e-3)
        grid = np.linspace(low - edge, high + edge, 400)
        for i, (one, radii) in enumerate(zip(measured, values, strict=True)):
            color, alpha = (GREY, 1.0) if i == 0 else (COLORS[kind], float(shades[i - 1]))
            density = kernel_density(radii, grid)
            ends = i in (0, len(measured) - 1)
            panel.plot(grid, density, color=color, alpha=alpha, label=one.name)
            if ends:
                panel.fill_between(grid, density, color=color, alpha=0.25, linewidth=0)
        panel.set_ylim(bottom=0)
        _label(panel, TITLES[kind], f"{RADIUS} (the paper's axis looks like |v|)", "density")
        panel.legend(fontsize=7)
    return figure


def kernel_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Density of values (M,) at the points of a grid: Gaussian kernels of Silverman's width."""
    spread = min(values.std(), np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34)
    step = grid[1] - grid[0]
    width = max(0.9 * float(spread) * len(values) ** -0.2, float(step))
    bins = np.bincount(np.clip(np.round((values - grid[0]) / step), 0, len(grid) - 1).astype(int))
    bins = np.pad(bins, (0, len(grid) - len(bins)))
    distance = (grid[:, None] - grid) / width
    kernel = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
    return kernel @ bins / len(values)


def ball(measured: Sequence[Measured], kinds: Sequence[str], most: int = 400) -> Figure:
    """First and last checkpoint in a disc: the distance from the middle is the point's in a ball of
    a curvature that puts the farthest at ``VIEWED``, so radii are as measured; the angle is that of
    the first two principal components of all vectors drawn, less their mean.
    """
    ends = list({one.name: one for one in (measured[0], measured[-1])}.values())
    chosen = [(one, kind, _some(one, kind, most)) for one in ends for kind in kinds]
    points, curvature = view_of_ball([vectors for _, _, vectors in chosen])
    figure, axes = new_figure(1, len(ends), 4.2, 4.4)
    for panel, one in zip(axes[0], ends, strict=True):
        for (other, kind, vectors), places in zip(chosen, points, strict=True):
            if other is one:
                mean = 2 * np.linalg.norm(vectors, axis=1).mean()
                label = f"{kind} (mean radius {mean:.2f})"
                size, order = (8, 2) if kind == "pixel" else (20, 3)
                style = {"color": COLORS[kind], "alpha": 0.6, "linewidths": 0, "zorder": order}
                panel.scatter(*places.T, s=size, label=label, **style)
        angle = np.linspace(0, 2 * np.pi, 200)
        panel.plot(np.cos(angle), np.sin(angle), color=EDGE, linewidth=1.2)
        farthest = 2 * np.arctanh(VIEWED) / np.sqrt(curvature)
        for share in (0.25, 0.5, 0.75, 1.0):
            at = np.tanh(np.sqrt(curvature) * share * farthest / 2)
            panel.plot(at * np.cos(angle), at * np.sin(angle), ":", color=GREY, linewidth=0.7)
            panel.annotate(f"{share * farthest:.1f}", (0, at), fontsize=6, color=EDGE, ha="center")
        panel.set_aspect("equal")
        panel.set_axis_off()
        panel.set_title(one.name, fontsize=9)
        panel.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, -0.12), ncols=1)
    note = f"distance: radius 2|v| (rings) in a ball of c = {curvature:.3g}; angle: PCA"
    figure.suptitle(note, fontsize=9)
    return figure


def _some(one: Measured, kind: str, most: int) -> np.ndarray:
    """At most so many of the vectors of a kind, evenly spread over all (M, C)."""
    vectors = one.radii[kind].embeddings
    if vectors is None:
        raise ValueError(f"{kind}: no embeddings were kept, expected those of a checkpoint")
    return evenly(vectors, most).float().numpy()


def view_of_ball(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Tangent vectors (M, C) of several groups as points (M, 2) of the unit disc, and the curvature
    magnitude of the ball that it stands for; see :func:`ball`.
    """
    together = np.concatenate(groups)
    norms = np.linalg.norm(together, axis=1)
    curvature = (np.arctanh(VIEWED) / max(float(norms.max()), 1e-6)) ** 2
    centred = together - together.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    points = unit * np.tanh(np.sqrt(curvature) * norms)[:, None]
    return np.split(points, np.cumsum([len(group) for group in groups])[:-1]), float(curvature)


def _label(panel: Axes, title: str, x: str, y: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    panel.tick_params(labelsize=7)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
