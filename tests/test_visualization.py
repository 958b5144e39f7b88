"""Colours, outlines and legends: what can be told apart, and that all images of a map agree."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hyperclip.visualization import (
    COLORS,
    NO_CLASS,
    label_image,
    legend,
    line_width,
    map_palette,
    overlay,
    paint,
    palette,
)
from PIL import Image

ALL = [20, 150, 171, 254, 459, 847, 3000]


def cielab(rgb):
    """sRGB 0..255 to CIELAB of D65, by its definition."""
    x = np.asarray(rgb, float) / 255
    x = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
    xyz = x @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def cie76(one, other):
    return np.linalg.norm(cielab(one) - cielab(other), axis=-1)


def touching(labels):
    """Pairs of labels of pixels that touch, also at corners."""
    pairs = [
        (labels[1:], labels[:-1]),
        (labels[:, 1:], labels[:, :-1]),
        (labels[1:, 1:], labels[:-1, :-1]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ]
    a, b = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    return a[a != b], b[a != b]


def test_any_two_of_155_colours_differ_visibly():
    distance = cie76(palette(155)[:, None], palette(155)[None])
    assert distance[~np.eye(155, dtype=bool)].min() >= 20
    assert (
        cie76(palette(155), np.zeros(3)).min() >= 20
        and cie76(palette(155), np.full(3, 255)).min() >= 16
    )


@pytest.mark.parametrize("classes", ALL)
def test_a_class_has_the_same_colour_among_any_number_and_differs_from_the_next(classes):
    colors = palette(classes)
    np.testing.assert_array_equal(colors, palette(5000)[:classes])
    assert cie76(colors[1:], colors[:-1]).min() >= 20 and colors.any(axis=1).all()


@pytest.mark.parametrize("classes", ALL)
@pytest.mark.parametrize("kind", ["rows of classes", "few classes that share a colour", "noise"])
def test_neighbours_in_a_map_differ_visibly(classes, kind):
    rng = np.random.default_rng(classes)
    if kind == "rows of classes":
        width = 155 if classes > 310 else 5  # below each class the one that shares its colour
        labels = np.arange(classes // width * width).reshape(-1, width)
    elif kind == "noise":
        labels = rng.choice(rng.choice(classes, min(classes, 60), replace=False), (40, 50))
    else:
        labels = rng.choice(np.arange(3, classes, 155), (30, 30))
    labels = labels.repeat(2, 0).repeat(2, 1)
    labels[:3, :4] = NO_CLASS
    a, b = touching(labels)
    colors = map_palette(labels, classes)
    inside = (a != NO_CLASS) & (b != NO_CLASS)
    assert inside.sum() == 0 or cie76(colors[a[inside]], colors[b[inside]]).min() >= 20
    present = [i for i in np.unique(labels) if i != NO_CLASS]
    if len(present) <= len(COLORS):
        assert len({tuple(colors[i]) for i in present}) == len(present)
    np.testing.assert_array_equal(map_palette(labels, classes), colors)
    absent = np.setdiff1d(np.arange(classes), present)
    np.testing.assert_array_equal(colors[absent], palette(classes)[absent])


def test_only_classes_that_would_share_a_colour_get_another():
    labels = np.array([[4, 159, 314], [10, 10, 20]])
    changed = np.flatnonzero((map_palette(labels, 400) != palette(400)).any(axis=1))
    assert changed.tolist() == [159, 314]
    assert not (map_palette(np.array([[159, 7]]), 400) != palette(400)).any()


@pytest.mark.parametrize("classes", [3, 150, 200, 254])
def test_label_map_overlay_and_legend_show_the_same_colours(classes):
    labels = (
        np.array([[0, 0, classes - 1, NO_CLASS]] * 3 + [[0, classes // 2, classes - 1, 1]])
        .repeat(100, 0)
        .repeat(100, 1)
    )
    names = [f"c{i}" for i in range(classes)]
    file = io.BytesIO()
    label_image(labels, classes).save(file, format="PNG")
    from_file = np.asarray(Image.open(file).convert("RGB"))
    painted = paint(
        np.zeros((*labels.shape, 3), np.uint8), labels, map_palette(labels, classes), alpha=1.0
    )
    blended = overlay(np.zeros((*labels.shape, 3), np.uint8), labels, names)
    for y, x in ((50, 50), (350, 150), (50, 250), (350, 350)):
        color = map_palette(labels, classes)[labels[y, x]]
        np.testing.assert_array_equal(from_file[y, x], color)
        np.testing.assert_array_equal(painted[y, x], color)
        np.testing.assert_allclose(blended[y, x], 0.55 * color, atol=1)
    assert not from_file[50, 350].any() and not blended[50, 350].any()  # the background
    swatch = blended[10, 400 + 10]  # of the largest class
    np.testing.assert_array_equal(swatch, map_palette(labels, classes)[0])


@pytest.mark.parametrize(
    ("shape", "width"), [((480, 640), 1), ((900, 900), 1), ((1200, 1600), 2), ((3000, 4000), 5)]
)
def test_outlines_and_legend_scale_with_the_image(shape, width):
    labels = np.zeros(shape, np.int64)
    labels[:, shape[1] // 2 :] = 1
    picture = overlay(np.zeros((*shape, 3), np.uint8), labels, ["left", "right"])
    assert line_width(shape) == width
    row = picture[shape[0] // 2, : shape[1]]
    assert (row == 255).all(axis=1).sum() == width
    panel = picture[:, shape[1] :]
    swatch = (panel == palette(2)[0]).all(axis=2)
    assert abs(swatch.any(axis=1).sum() - 13 * width) <= 2 and panel.shape[1] == width * (
        40 + 9 * 5
    )
    written = (panel < 100).all(axis=2)
    assert 6 * width <= written[: 22 * width].any(axis=1).sum() <= 16 * width


def test_a_legend_says_how_many_classes_did_not_fit():
    labels = np.arange(50)[:, None].repeat(10, 1)
    short, whole = (
        legend(labels, [f"c{i}" for i in range(50)], palette(50), height)
        for height in (100, 50 * 22)
    )
    swatches = [any((panel == c).all(axis=2).sum() > 50 for panel in (short,)) for c in palette(50)]
    # three classes and "and 47 more"
    assert sum(swatches) == 3 and (short[3 * 22 : 4 * 22] < 100).any()
    assert sum((whole == c).all(axis=2).sum() > 50 for c in palette(50)) == 50
