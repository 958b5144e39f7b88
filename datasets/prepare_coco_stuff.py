#!/usr/bin/env python
"""Convert COCO-Stuff's pixel maps into class indices. Not needed: the raw maps are read as well;
this only reads a bit faster.

    python datasets/prepare_coco_stuff.py --split val2017

coco-stuff/annotations/<split>/*.png (0..181, 255) become
coco-stuff/annotations_detectron2/<split>/*.png (0..170, 255).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from hyperclip.data import dataset_root
from hyperclip.data.conversion import Counts, Job, coco_stuff_labels, convert_files, need
from hyperclip.data.label_maps import read_raw_label
from hyperclip.data.pairing import Kind, is_hidden
from hyperclip.runtime.files import user_path
from hyperclip.runtime.program import run_program

IMAGES = {"val2017": 5000, "train2017": 118287}
HELP = (
    "It is for the png files of COCO-Stuff's stuffthingmaps_trainval2017.zip, see "
    "datasets/README.md"
)


def convert(path: Path) -> tuple[np.ndarray]:
    return (coco_stuff_labels(read_raw_label(path)),)


def prepare(root: Path, split: str) -> Counts:
    """Convert one split. Raises FileNotFoundError or ValueError, which say what is missing or
    damaged.
    """
    source = need(root / "coco-stuff/annotations" / split, HELP)
    target = root / "coco-stuff/annotations_detectron2" / split
    raw = Kind("label", source, (".png",), ("", ""))
    paths = sorted(
        path for path in source.iterdir() if raw.takes(path) and not is_hidden(path.name)
    )
    if not paths:
        raise FileNotFoundError(f"{str(source)!r} has no png file. {HELP}")
    return convert_files(
        [Job(str(path), (target / path.name,), partial(convert, path)) for path in paths], target
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=user_path,
        default=dataset_root(),
        help="default: DETECTRON2_DATASETS or datasets",
    )
    parser.add_argument("--split", choices=[*IMAGES, "both"], default="both")
    arguments = parser.parse_args()
    for split in IMAGES if arguments.split == "both" else [arguments.split]:
        print(prepare(arguments.root, split).report(IMAGES[split]))


if __name__ == "__main__":
    run_program(main)
