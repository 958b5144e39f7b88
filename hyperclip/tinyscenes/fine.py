"""tinyscenes_fine: the shapes of tinyscenes, some of them thin, on grounds with a structure.

The phrases are those of :mod:`hyperclip.tinyscenes.drawing`. The ground of a scene is made of one
to three of ``GROUNDS``, in grey tones, and is to get no class. An object is filled or thin: a ring,
a frame, a cross of bars or a star of rays. Every image is a pure function of its split and index.
"""

import cv2
import numpy as np

from ..labels import IGNORE
from .drawing import (
    SCENE_SIZE,
    Split,
    class_names,
    filled,
    finish,
    paint,
    polygon,
    shape_mask,
    turn,
)

FINE_SPLITS = {
    "fine_tune": Split("seen", 120, 11),
    "fine_seen": Split("seen", 120, 12),
    "fine_unseen": Split("unseen", 120, 13),
}
GROUNDS = ("grass", "sand", "water", "brick")
"""What is around the shapes. No caption of the pre-training names it."""
THIN_SHARE = 0.25
"""How many of the objects are thin."""
_HOLES = {"circle": 0.70, "square": 0.66, "triangle": 0.52}
"""Radius of the hole of a thin shape, as a share of the outer one."""


def thin_mask(shape: str, size: int, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Draw one thin shape, with the arguments of :func:`shape_mask`: the outline of a circle, a
    square or a triangle, a cross of bars, or a star of rays.
    """
    corners, turned = polygon(shape), turn(np.deg2rad(angle)) * radius
    if shape in _HOLES:
        outer, hole = (filled(corners @ turned * k + center, size) for k in (1.0, _HOLES[shape]))
        return outer & ~hole
    if shape == "cross":  # what is not the end of an arm tells how wide it is
        corners = np.where(np.abs(corners) < 0.5, corners * 0.4, corners)
    else:  # every second corner is an inner one
        corners = corners * np.resize((1.0, 0.5), len(corners))[:, None]
    return filled(corners @ turned + center, size)


def _noise(size: int, rng: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise in about -1..1, of so many rows and columns of cells: float32 (size, size)."""
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _relief(ground: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """How light a ground of ``GROUNDS`` is, in about -1..1: float32 (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    phase = rng.uniform(0, 100)
    if ground == "grass":
        return _noise(size, rng, (size // 5, size // 2))
    if ground == "sand":
        return 0.6 * _noise(size, rng, (size, size)) + 0.3 * _noise(size, rng, (6, 6))
    if ground == "water":
        waves = (y + 3 * _noise(size, rng, (4, 8)) + phase) / rng.uniform(5, 8)
        return np.sin(2 * np.pi * waves)
    height, width = rng.uniform(6, 8), rng.uniform(13, 17)
    shifted = x + phase + np.floor((y + phase) / height) % 2 * width / 2
    mortar = ((y + phase) % height < 1.4) | (shifted % width < 1.4)
    return np.where(mortar, 1.0, -0.25).astype(np.float32)


def _ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """One to three grounds with soft bends between them: float32 (size, size, 3) in 0..255."""
    kinds = rng.permutation(GROUNDS)[: int(rng.integers(1, 4))]
    part = np.argmax([_noise(size, rng, (3, 3)) for _ in kinds], axis=0)
    image = np.zeros((size, size, 3), np.float32)
    for k, kind in enumerate(kinds):
        tone = rng.uniform(60, 180) + rng.uniform(-8, 8, 3)
        whole = tone + _relief(kind, size, rng)[..., None] * rng.uniform(6, 12)
        image[part == k] = whole[part == k]
    return image


def render_fine_scene(
    split: str, index: int, size: int = SCENE_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Draw image ``index`` of a split of ``FINE_SPLITS``: 2 to 5 objects, later ones in front.

    Returns image uint8 RGB (size, size, 3) and label uint8 (size, size): the index of the phrase in
    ``class_names(FINE_SPLITS[split].part)``, or ``IGNORE`` for the ground. Raises ValueError for an
    unknown split.
    """
    if split not in FINE_SPLITS:
        known = sorted(FINE_SPLITS)
        raise ValueError(f"split of tinyscenes: got {split!r}, expected one of {known}")
    names = class_names(FINE_SPLITS[split].part)
    rng = np.random.default_rng([FINE_SPLITS[split].stream, index])
    image, label = _ground(size, rng), np.full((size, size), IGNORE, np.uint8)
    for _ in range(int(rng.integers(2, 6))):
        k = int(rng.integers(len(names)))
        radius = rng.uniform(0.15, 0.25) * size
        center = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
        mask_of = thin_mask if rng.uniform() < THIN_SHARE else shape_mask
        label[paint(image, names[k], center, radius, rng, mask_of)] = k
    return finish(image, rng), label
