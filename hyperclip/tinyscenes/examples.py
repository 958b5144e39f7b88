"""Examples of tinyscenes' phrases: images with masks that are in no validation split.

Shapes: H W image.
"""

from collections.abc import Iterator

import numpy as np

from ..labels import IGNORE
from .drawing import SCENE_SIZE, SPLITS, class_names, draw_scene

MOST = 20
"""Examples of a phrase."""

LEAST_PIXELS = 150
"""Of an example that are not hidden."""

UNSEEN_STREAM = 7
"""Random stream of the scenes of unseen phrases, which is that of no split."""

FIRST = 800
"""The first training scene; those before it are for choosing settings."""


def render_examples(number: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """So many examples of each phrase, in an order that does not depend on the number: phrase,
    image uint8 RGB (H, W, 3) and mask uint8 (H, W), 0 or 255.
    """
    for part in ("seen", "unseen"):
        names = class_names(part)
        left = dict.fromkeys(range(len(names)), number)
        index = FIRST
        while left:
            image, label = _scene(part, index)
            index += 1
            for k in [k for k in np.unique(label[label != IGNORE]).tolist() if k in left]:
                mask = np.where(label == k, 255, 0).astype(np.uint8)
                if np.count_nonzero(mask) >= LEAST_PIXELS:
                    yield names[k], image, mask
                    left[k] -= 1
                    if not left[k]:
                        del left[k]


def _scene(part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    stream = UNSEEN_STREAM if part == "unseen" else SPLITS["train"].stream
    return draw_scene(class_names(part), np.random.default_rng([stream, index]), SCENE_SIZE, (2, 6))
