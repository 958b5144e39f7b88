"""Pictures to try: scenes of shapes, and two views that look like photos and are computed here.

Every picture is a pure function of its name. Shapes: H W image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..labels import IGNORE
from ..tinyscenes.drawing import SPLITS, class_names, render_scene

Color = tuple[float, float, float]
SIZE = (360, 480)
"""Height and width of the computed views."""


@dataclass(frozen=True)
class Picture:
    """A picture to try: what it is, words that fit, and how to draw it as uint8 RGB (H, W, 3)."""

    title: str
    words: str
    draw: Callable[[], np.ndarray]


def pictures() -> list[Picture]:
    """All of them: two of shapes, two views."""
    return [
        _scene("Shapes 1", "val_seen", 7),
        _scene("Shapes 2", "val_unseen", 4),
        Picture("Lake (computed)", "sky; mountain; lake; grass", draw_lake),
        Picture("Oranges (computed)", "orange, fruit; wooden table; wall", draw_oranges),
    ]


def _scene(title: str, split: str, index: int) -> Picture:
    names = class_names(SPLITS[split].part)
    _, label = render_scene(split, index)
    present = [names[i] for i in np.unique(label[label != IGNORE])]
    return Picture(title, "; ".join(present), lambda: render_scene(split, index)[0])


def _noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int = 5
) -> np.ndarray:
    """Fractal noise float32 (H, W), mean 0 and deviation 1: grids of random values, each twice as
    fine as the one before and half as strong.
    """
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal([n * 2**octave + 1 for n in cells]).astype(np.float32)
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.mean()) / total.std()


def _mix(one: np.ndarray, other: Sequence[float] | np.ndarray, share: np.ndarray) -> np.ndarray:
    """One image (H, W, 3), and of the other, an image or a colour, a share (H, W) in 0..1."""
    part = np.clip(share, 0, 1)[..., None]
    return one * (1 - part) + np.asarray(other, np.float32) * part


def _photo(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: a soft lens, darker corners, grain."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    soft = cv2.GaussianBlur(image, (0, 0), 0.7) * (1 - 0.14 * (x**2 + y**2))[..., None]
    grain = rng.standard_normal((height, width, 1)) * 3
    return np.clip(soft + grain + 0.5, 0, 255).astype(np.uint8)


def draw_lake() -> np.ndarray:
    """A lake between mountains, with grass in front: uint8 RGB of ``SIZE``."""
    rng = np.random.default_rng(11)
    height, width = SIZE
    shore, meadow = int(0.56 * height), 0.8 * height
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = _mix(
        np.full((height, width, 3), (88, 140, 205), np.float32), (226, 224, 214), y / shore
    )
    clouds = _noise(rng, SIZE, (5, 3)) + 0.4 - 1.6 * y / shore
    image = _mix(image, (247, 245, 242), 0.55 * clouds)
    layers = ((0.3, 0.11, (128, 146, 170)), (0.4, 0.09, (92, 112, 122)), (0.5, 0.05, (52, 76, 58)))
    for top, rise, color in layers:
        ridge = (top + rise * 0.5 * _noise(rng, (1, width), (1, 4), 6)[0]) * height
        rock = np.asarray(color) + 9 * _noise(rng, SIZE, (14, 10))[..., None]
        image = _mix(image, rock, y - ridge)
    below = np.clip(
        2 * shore - y - 1 + 2.5 * np.sin(y**2 / 90 + _noise(rng, SIZE, (6, 2))), 0, shore
    )
    mirrored = cv2.remap(image, x, below.astype(np.float32), cv2.INTER_LINEAR)
    ripples = 6 * _noise(rng, SIZE, (60, 6), 3)[..., None]
    water = 0.75 * cv2.GaussianBlur(mirrored, (0, 0), 2.0) + (8, 22, 34) + ripples
    image = _mix(image, water, y - shore)
    blades = _noise(rng, SIZE, (8, 120), 3)
    green = np.asarray((84, 122, 44)) + 24 * blades[..., None] + (y[..., None] - meadow) * 0.25
    edge = meadow + 8 * _noise(rng, (1, width), (1, 5))[0] + 5 * blades
    return _photo(_mix(image, green, (y - edge) / 2), rng)


def draw_oranges() -> np.ndarray:
    """Three oranges on a wooden table before a wall: uint8 RGB of ``SIZE``."""
    rng = np.random.default_rng(5)
    height, width = SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    edge = 0.45 * height
    light = 1.12 - 0.45 * x / width
    image = (np.asarray((196, 190, 176)) + 3 * _noise(rng, SIZE, (3, 3))[..., None]) * light[
        ..., None
    ]
    # Boards run to the back: their grain is noise along rays from a point above the edge
    depth = (y - edge + 90) / (height - edge + 90)
    across = (x - width / 2) / np.maximum(depth, 0.05) / width
    grain = _noise(rng, (256, 1024), (2, 60), 4)
    places = (
        ((across + 3) * 160 % 1023).astype(np.float32),
        (255 / np.maximum(depth, 1)).astype(np.float32),
    )
    streaks = cv2.remap(grain, *places, cv2.INTER_LINEAR)
    boards = np.abs((across * 6) % 1 - 0.5) < 0.012 / np.maximum(depth, 0.1)
    wood = (np.asarray((142, 92, 54)) + 13 * streaks[..., None]) * (1 - 0.45 * boards[..., None])
    image = _mix(image, wood * (0.75 + 0.3 * depth)[..., None], (y - edge) / 1.5)
    for column, row, radius in ((0.36, 0.48, 62.0), (0.63, 0.5, 58.0), (0.5, 0.64, 66.0)):
        image = _orange(image, rng, column * width, row * height, radius)
    return _photo(image, rng)


def _orange(
    image: np.ndarray, rng: np.random.Generator, column: float, row: float, radius: float
) -> np.ndarray:
    """The image with an orange around a pixel, lit from the upper left, and its shadow."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    u, v = (x - column) / radius, (y - row) / radius
    fallen = ((u - 0.35) / 1.25) ** 2 + ((v - 0.85) / 0.38) ** 2
    image = _mix(image, (30, 18, 10), 0.75 * np.exp(-1.6 * fallen**1.5))
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    pores = 0.05 * _noise(rng, u.shape, (90, 120), 2)
    toward_light = np.clip(-0.5 * u - 0.58 * v + 0.64 * depth + pores * depth, 0, 1)
    skin = np.asarray((246, 138, 22)) * (0.28 + 0.78 * toward_light)[..., None]
    skin += 120 * (toward_light**22)[..., None]
    stem = np.exp(-((u - 0.08) ** 2 + (v + 0.62) ** 2) / 0.004)
    skin = _mix(skin, (74, 84, 30), stem)
    return _mix(image, skin, (1 - np.hypot(u, v)) * radius)
