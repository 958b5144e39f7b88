"""tinyscenes: a procedural world of textured shapes with exact masks, drawn with NumPy and OpenCV.

A class is a noun phrase "colour texture shape" ("red striped star"). A third of the combinations is
held out: their attributes are all seen in training, their combination never is. Every image is a
pure function of (seed, index), so the dataset needs no download and is the same on every machine
with the same OpenCV.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np

from ..labels import IGNORE

COLORS = {
    "red": (215, 40, 35), "green": (45, 160, 50), "blue": (45, 75, 215),
    "yellow": (235, 205, 45), "purple": (145, 50, 170), "cyan": (50, 195, 205),
}  # fmt: skip
_POLYGONS = {
    "square": (4, 45.0, (1.0,)), "triangle": (3, -90.0, (1.0,)),
    "star": (10, -90.0, (1.0, 0.42)), "circle": (40, 0.0, (0.92,)),
}  # fmt: skip
"""Number of corners, angle of the first, and circumradii."""
TEXTURES = ("plain", "striped", "dotted")
SHAPES = ("circle", "square", "triangle", "star", "cross")


def class_names(part: str = "all") -> list[str]:
    """The phrases of one part of the world: ``seen`` (60), ``unseen`` (30) or ``all`` (90).

    A combination (colour i, texture j, shape k) is unseen when i + j + k is divisible by 3, so that
    every colour, texture, shape and every pair of them occurs among the seen ones.
    """
    if part not in ("seen", "unseen", "all"):
        raise ValueError(f"part of tinyscenes: got {part!r}, expected 'seen', 'unseen' or 'all'")
    names = []
    for attributes in product(*map(enumerate, (COLORS, TEXTURES, SHAPES))):
        unseen = sum(index for index, _ in attributes) % 3 == 0
        if part == "all" or unseen == (part == "unseen"):
            names.append(" ".join(word for _, word in attributes))
    return names


class Split(NamedTuple):
    """One split of the dataset: which phrases it shows, how many images, and its random stream."""

    part: str
    images: int
    stream: int


SPLITS = {
    "train": Split("seen", 1600, 1),
    "val_seen": Split("seen", 120, 2),
    "val_unseen": Split("unseen", 120, 3),
}
GROUND = ("grey ground", "background")
"""Words for what is around the shapes. No caption of the pre-training names it."""
SCENE_SIZE, _OBJECT_STREAM, _SCENE_STREAM = 96, 100, 101


def polygon(shape: str) -> np.ndarray:
    """Corners (N, 2) of a shape with a circumradius of 1."""
    if shape == "cross":
        w = 0.36
        one_arm = np.array([[w, w], [1.0, w], [1.0, -w]])
        return np.concatenate([one_arm @ turn(a) for a in -np.pi / 2 * np.arange(4)])
    corners, first_angle, radii = _POLYGONS[shape]
    radians = np.deg2rad(np.arange(corners) * (360.0 / corners) + first_angle)
    return np.stack([np.cos(radians), np.sin(radians)], 1) * np.resize(radii, corners)[:, None]


def turn(angle: float) -> np.ndarray:
    """Matrix (2, 2) that turns rows of points by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def shape_mask(
    shape: str, size: int, center: np.ndarray, radius: float, angle: float
) -> np.ndarray:
    """Draw one filled shape of ``SHAPES`` as a mask, bool (size, size), around a center (x, y) in
    pixels, with a circumradius in pixels and an angle in degrees.
    """
    return filled(polygon(shape) @ turn(np.deg2rad(angle)) * radius + center, size)


def filled(corners: np.ndarray, size: int) -> np.ndarray:
    """The inside of a polygon of corners (N, 2), x and y in pixels: bool (size, size)."""
    mask = np.zeros((size, size), np.uint8)
    fixed_point = np.round(corners * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed_point], 1, shift=4)
    return mask.astype(bool)


MaskOf = Callable[[str, int, np.ndarray, float, float], np.ndarray]
"""Draws the mask of an object as :func:`shape_mask` does, with its arguments."""


def _pattern(texture: str, size: int, angle: float, period: float, phase: float) -> np.ndarray:
    """Where the second tone of a texture is painted: bool array (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    a = np.deg2rad(angle)
    u = (x * np.cos(a) + y * np.sin(a)) / period + phase
    v = (y * np.cos(a) - x * np.sin(a)) / period + phase
    if texture == "plain":
        return np.zeros((size, size), bool)
    if texture == "striped":
        return (u % 1.0) < 0.5
    return (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.32**2


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth greyish ground with grain: float32 array (size, size, 3) in 0..255."""
    coarse = rng.uniform(-1, 1, (4, 4, 1)) * 30 + rng.uniform(-1, 1, (4, 4, 3)) * 10
    ground = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(1, 7)
    return ground + grain + rng.uniform(50, 190)


def paint(
    image: np.ndarray,
    phrase: str,
    center: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    mask_of: MaskOf = shape_mask,
) -> np.ndarray:
    """Paint an object into ``image`` (size, size, 3) in place; returns its mask (size, size), which
    ``mask_of`` draws.
    """
    color, texture, shape = phrase.split(" ")
    mask = mask_of(shape, len(image), center, radius, rng.uniform(-25, 25))
    tone = np.array(COLORS[color], np.float32) * rng.uniform(0.8, 1.1) + rng.uniform(-14, 14, 3)
    second = 0.2 * tone + 0.8 * rng.uniform(225, 255)
    period = rng.uniform(6.0, 8.0) * max(radius / 18.0, 0.8)
    lit = _pattern(texture, len(image), rng.uniform(0, 180), period, rng.uniform(0, 1))
    image[mask] = np.where(lit[..., None], second, tone)[mask]
    return mask


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, blur a little, and return uint8 RGB."""
    image = cv2.GaussianBlur(image.astype(np.float32), (3, 3), 0.55) * rng.uniform(0.85, 1.1)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def render_scene(split: str, index: int, size: int = SCENE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw image ``index`` of a split: 2 to 6 objects, later ones in front of earlier ones.

    Returns image uint8 RGB (size, size, 3) and label uint8 (size, size): the index of the phrase in
    ``class_names(SPLITS[split].part)``, or ``IGNORE``. Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split of tinyscenes: got {split!r}, expected one of {sorted(SPLITS)}")
    names = class_names(SPLITS[split].part)
    return draw_scene(names, np.random.default_rng([SPLITS[split].stream, index]), size, (2, 6))


def draw_scene(
    names: list[str], rng: np.random.Generator, size: int, count: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label, see :func:`render_scene`, with a number of objects in a range."""
    image, label = _background(size, rng), np.full((size, size), IGNORE, np.uint8)
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        k = int(rng.integers(len(names)))
        radius = rng.uniform(0.13, 0.25) * size
        center = rng.uniform(radius * 0.7, size - radius * 0.7, 2)
        label[paint(image, names[k], center, radius, rng)] = k
    return finish(image, rng), label


def render_object(seed: int, index: int, size: int = 48) -> tuple[np.ndarray, str]:
    """Draw one object: image uint8 RGB (size, size, 3) and its phrase, one of all 90."""
    rng = np.random.default_rng([_OBJECT_STREAM, seed, index])
    names = class_names()
    phrase = names[int(rng.integers(len(names)))]
    radius = rng.uniform(12.0, 22.0) * size / 48
    center = rng.uniform(radius * 0.85, size - radius * 0.85, 2)
    image = _background(size, rng)
    paint(image, phrase, center, radius, rng)
    return finish(image, rng), phrase


def render_captioned(world: str, seed: int, index: int) -> tuple[np.ndarray, list[str]]:
    """Draw an image for contrastive pre-training, without its mask: uint8 RGB (48, 48, 3) of the
    world "objects", see :func:`render_object`, or (96, 96, 3) of "scenes" of 1 to 3 objects, else
    ValueError; and phrases of what covers 1 % of it or more.
    """
    if world == "objects":
        image, phrase = render_object(seed, index)
        return image, [phrase]
    if world != "scenes":
        raise ValueError(f"pre-training world: got {world!r}, expected 'objects' or 'scenes'")
    names = class_names()
    rng = np.random.default_rng([_SCENE_STREAM, seed, index])
    image, label = draw_scene(names, rng, SCENE_SIZE, (1, 3))
    visible, pixels = np.unique(label[label != IGNORE], return_counts=True)
    return image, [names[k] for k in visible[pixels >= 0.01 * label.size]]
