#!/usr/bin/env python
"""Convert the validation images of the full ADE20K and their labels of its 847 frequent classes.

    python datasets/prepare_ade20k_847.py

Reads ADE20K_2021_17_01/index_ade20k.pkl and the images and _seg.png files it lists. Images and
labels are scaled to a shorter side of 512 where it is longer, and go to
ADE20K_2021_17_01/images_detectron2/validation/*.jpg (quality 75) and
annotations_detectron2/validation/*.tif (16 bits: 0..846, 65535 for objects of other classes), as in
the released code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from hyperclip.data import label_conversion as prep
from hyperclip.data.image_files import ORIENTATIONS
from hyperclip.data.index_files import need, read_ade_index
from hyperclip.runtime.program import run_program

IMAGES = 2000
HELP = (
    "ADE20K_2021_17_01 is given out on request: groups.csail.mit.edu/vision/datasets/ADE20K, see "
    "datasets/README.md"
)


def convert(path: Path, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    segments = path.with_name(f"{path.stem}_seg.png")
    image, coded = prep.read_pixels(path, orientation), prep.read_pixels(segments, orientation)
    if image.shape[:2] != coded.shape[:2]:
        raise ValueError(
            f"{segments}: got {coded.shape[:2]} pixels, expected the {image.shape[:2]} of its image"
        )
    try:
        labels = prep.ade847_labels(prep.ade_object_ids(coded))
    except ValueError as error:
        raise ValueError(f"{segments}: {error}") from error
    return prep.shrink(image, cv2.INTER_LINEAR), prep.shrink(labels, cv2.INTER_NEAREST)


def prepare(root: Path, orientation: str = "") -> prep.Counts:
    """Convert the validation images; OSError or ValueError if a source is missing or damaged.

    Args:
        orientation: see :func:`hyperclip.data.label_conversion.read_pixels`.
    """
    folder = root / "ADE20K_2021_17_01"
    listed = read_ade_index(need(folder / "index_ade20k.pkl", HELP))
    sources = [root / path for path in listed if path.name.startswith("ADE_val_")]
    images = folder / "images_detectron2/validation"
    labels = folder / "annotations_detectron2/validation"
    jobs = []
    for path in sources:
        targets = images / f"{path.stem}.jpg", labels / f"{path.stem}.tif"
        jobs.append(prep.Job(str(path), targets, partial(convert, path, orientation)))
    return prep.convert_files(jobs, labels)


def main() -> None:
    parser = prep.preparation_parser(__doc__)
    turned = "pixels that labels belong to where EXIF turns an image (default: report such images)"
    parser.add_argument("--orientation", choices=ORIENTATIONS, default="", help=turned)
    arguments = parser.parse_args()
    print(prepare(arguments.root, arguments.orientation).report(IMAGES))


if __name__ == "__main__":
    run_program(main)
