#!/usr/bin/env python
"""Convert COCO-Stuff's pixel maps into class indices. Not needed: the raw maps are read as well;
this only reads a bit faster.

    python datasets/prepare_coco_stuff.py --split val2017

coco-stuff/annotations/<split>/*.png (0..181, 255) become
coco-stuff/annotations_detectron2/<split>/*.png (0..170, 255).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from hyperclip.data import label_conversion as prep
from hyperclip.data.image_files import read_raw_label
from hyperclip.data.index_files import need
from hyperclip.data.pairing import Kind, is_hidden
from hyperclip.runtime.program import run_program

IMAGES = {"val2017": 5000, "train2017": 118287}
HELP = (
    "It is for the png files of COCO-Stuff's stuffthingmaps_trainval2017.zip, see "
    "datasets/README.md"
)


def convert(path: Path) -> np.ndarray:
    return prep.coco_stuff_labels(read_raw_label(path))


def prepare(root: Path, split: str) -> prep.Counts:
    """Convert one split; OSError or ValueError if a source is missing or damaged."""
    source = need(root / "coco-stuff/annotations" / split, HELP)
    target = root / "coco-stuff/annotations_detectron2" / split
    raw = Kind("label", source, (".png",), ("", ""))
    paths = sorted(p for p in source.iterdir() if raw.takes(p) and not is_hidden(p.name))
    if not paths:
        raise FileNotFoundError(f"{str(source)!r} has no png file. {HELP}")
    jobs = [prep.Job(str(p), (target / p.name,), partial(convert, p)) for p in paths]
    return prep.convert_files(jobs, target)


def main() -> None:
    parser = prep.preparation_parser(__doc__)
    parser.add_argument("--split", choices=[*IMAGES, "both"], default="both")
    arguments = parser.parse_args()
    for split in IMAGES if arguments.split == "both" else [arguments.split]:
        print(prepare(arguments.root, split).report(IMAGES[split]))


if __name__ == "__main__":
    run_program(main)
