#!/usr/bin/env python
"""Write the procedural data set tinyscenes as image and label files: a few seconds, no download.

    python datasets/prepare_tinyscenes.py

The files land in ``tinyscenes/`` below DETECTRON2_DATASETS (default: ``datasets``). Files that exist are kept.
"""

from __future__ import annotations

import os
from pathlib import Path

from hyperclip.data import dataset_root
from hyperclip.data.tinyscenes import SPLITS, render_scene
from PIL import Image


def write(image: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)


def main() -> None:
    for split, spec in SPLITS.items():
        folder = dataset_root() / "tinyscenes" / split
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(spec.images):
            image_path, label_path = (folder / kind / f"{index:05d}.png" for kind in ("images", "labels"))
            if not (image_path.exists() and label_path.exists()):
                image, label = render_scene(split, index)
                write(Image.fromarray(image), image_path)
                write(Image.fromarray(label), label_path)
        print(f"{folder}: {spec.images} scenes")


if __name__ == "__main__":
    main()
