"""Where windows are, what they weigh, and what a cell gets of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip.labels import NO_CLASS
from hyperclip.large.blend import Quarter, blended, label_cell
from hyperclip.large.lattice import Box, Lattice, anchor_of, mirrored, weights
from hyperclip.score_maps import GridMaps
from rasterio.transform import Affine


def test_lines_are_mirrored_again_and_again():
    padded = np.pad(np.arange(3), 10, mode="symmetric")
    np.testing.assert_array_equal(mirrored(-10, 13, 3), padded)
    np.testing.assert_array_equal(mirrored(-3, 4, 1), np.zeros(7))


@pytest.mark.parametrize("window", [2, 10, 768])
def test_weights_of_overlapping_windows_add_up_to_one(window):
    line = weights(window)
    half = window // 2
    torch.testing.assert_close(line[:half] + line[half:], torch.ones(half), atol=1e-6, rtol=0)
    assert (line > 0).all() and (line[:half].diff() > 0).all()
    torch.testing.assert_close(line, line.flip(0))


def test_cells_cover_a_box():
    lattice = Lattice(20, row=3, column=-4)
    box = Box(3, 23, 0, 7)
    rows, columns = lattice.cells(box)
    assert (rows, columns) == (range(2), range(2))
    assert lattice.box(rows, columns) == Box(3, 23, -4, 16)
    assert lattice.cells(Box(2, 24, 0, 7))[0] == range(-1, 3)
    assert box.common(Box(0, 5, 5, 9)) == Box(3, 5, 5, 7)
    assert 0 in box.common(Box(30, 40, 0, 7)).size


@pytest.mark.parametrize("window", [0, 1, 7])
def test_windows_that_cannot_be(window):
    with pytest.raises(ValueError, match=f"window: got {window}, expected an even number"):
        Lattice(window)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.5, 0, 500_000.25, 0, -0.5, 5_500_000.25),
        Affine(1 / 3600, 0, 10.123, 0, -1 / 3600, 47.456),
        Affine.translation(7000.4, 900.1) @ Affine.rotation(25) @ Affine.scale(0.3, -0.4),
    ],
    ids=["half a pixel off", "degrees", "rotated"],
)
def test_images_of_one_grid_have_one_lattice(transform):
    row, column = anchor_of(tuple(transform)[:6])
    for down, right in ((0, 1), (1000, 0), (12345, 54321)):
        part = transform @ Affine.translation(right, down)
        assert anchor_of(tuple(part)[:6]) == (row - down, column - right)
    x, y = transform @ (column, row)
    size = max(abs(value) for value in (transform.a, transform.b, transform.d, transform.e))
    assert abs(x) < 1.5 * size and abs(y) < 1.5 * size


def test_a_cell_is_the_mean_of_its_windows():
    window, generator = 8, torch.Generator().manual_seed(0)
    maps = [torch.rand(3, 8, 8, generator=generator) for _ in range(4)]
    places = [(lower, right) for lower in (True, False) for right in (True, False)]
    quarters = [Quarter(GridMaps(m), *place) for m, place in zip(maps, places, strict=True)]
    line = weights(window)
    expected = torch.zeros(3, 4, 4)
    for m, (lower, right) in zip(maps, places, strict=True):
        for y in range(4):
            for x in range(4):
                row, column = y + 4 * lower, x + 4 * right
                expected[:, y, x] += m[:, row, column] * line[row] * line[column]
    whole = torch.cat([chunk for _, chunk in blended(quarters, window)])
    torch.testing.assert_close(whole, expected)
    labels, confidence = label_cell(quarters, window)
    assert torch.equal(labels, expected.argmax(0))
    torch.testing.assert_close(confidence, expected.amax(0))


def test_pixels_that_windows_leave_out():
    """Below a threshold all windows do; where they differ, the one with more weight decides."""
    scores = torch.ones(1, 8, 8)
    left_out = torch.ones(8, 8, dtype=torch.bool)
    nothing, something = GridMaps(scores, left_out=left_out), GridMaps(scores)
    places = [(True, True), (True, False), (False, True), (False, False)]
    quarters = [Quarter(nothing if right else something, lower, right) for lower, right in places]
    labels, _ = label_cell(quarters, 8)
    # the window that leaves out has its right half here, so it weighs more on the left
    assert labels.tolist() == [[NO_CLASS] * 2 + [0] * 2] * 4
    below = [Quarter(GridMaps(0.4 * scores, 0.0, 0.5), *place) for place in places]
    assert (label_cell(below, 8)[0] == NO_CLASS).all()
    above = [Quarter(GridMaps(0.6 * scores, 0.0, 0.5), *place) for place in places]
    assert (label_cell(above, 8)[0] == 0).all()
