"""A dataset of twelve images of coloured quarters, some wide and some high, for trainings of
seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 40, 220),
    "white": (240, 240, 240),
}


TONES = {"yellow": (230, 220, 40), "black": (10, 10, 10), "cyan": (40, 210, 220)}


def write_colours(
    folder: Path, name: str = "colours", colours: dict[str, tuple[int, int, int]] = COLOURS
) -> Path:
    """Write images, labels and the YAML file that describes them, whose path is returned."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for k in range(12):
        h, w = (96, 120) if k % 3 else (110, 96)
        label = (
            rng.integers(len(colours), size=(2, 2))
            .repeat(h // 2, 0)
            .repeat(w // 2, 1)
            .astype(np.uint8)
        )
        Image.fromarray(np.array(list(colours.values()), np.uint8)[label]).save(
            folder / f"images/{k:02d}.png"
        )
        Image.fromarray(label).save(folder / f"labels/{k:02d}.png")
    path, folders = folder / f"{name}.yaml", {"images": "images", "labels": "labels"}
    path.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "splits": {"train": folders, "val": folders},
                "classes": list(colours),
            }
        )
    )
    return path


def keys_of(path: Path, iterations: int, **others: object) -> list[str]:
    """Overrides of the quickstart's config for a training on the colours; ``A__B=value`` is the key
    A.B.
    """
    keys = {
        "MODEL__DEVICE": "cpu",
        "SEED": 3,
        "DATASETS__FILES": [str(path)],
        "DATASETS__TRAIN": ["colours_train"],
        "DATASETS__TEST": ["colours_val"],
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4,
        "MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES": 0,
        "SOLVER__MAX_ITER": iterations,
        "SOLVER__IMS_PER_BATCH": 4,
        "SOLVER__LOG_PERIOD": 1,
        "INPUT__COLOR_AUG_SSD": True,
        "INPUT__CROP__ENABLED": True,
        "INPUT__CROP__TYPE": "absolute",
        "INPUT__CROP__SIZE": [80, 80],
        "INPUT__SIZE_DIVISIBILITY": 96,
        **others,
    }
    return [text for key, value in keys.items() for text in (key.replace("__", "."), str(value))]
