#!/usr/bin/env python
"""Paint the masks of Pascal Context into one label file per validation image: 0..58, and 255 for
everything else.

    python datasets/prepare_pascal_context_59.py

Reads VOCdevkit/VOC2010/trainval_merged.json, writes
VOCdevkit/VOC2010/annotations_detectron2/pc59_val/*.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hyperclip.data import dataset_root
from hyperclip.data.conversion import (
    Counts,
    Job,
    by_image,
    context59_labels,
    convert_files,
    decode_mask,
    need,
    read_index,
)
from hyperclip.runtime.files import user_path
from hyperclip.runtime.program import run_program

IMAGES = (5104, 5105)
HELP = (
    "Pascal Context's annotations as one file were at "
    "https://codalabuser.blob.core.windows.net/public/trainval_merged.json, see datasets/README.md"
)


def convert(image: Mapping[str, Any], annotations: list[dict[str, Any]]) -> tuple[np.ndarray]:
    height, width = image["height"], image["width"]
    masks = ((a["category_id"], decode_mask(a["segmentation"], height, width)) for a in annotations)
    return (context59_labels(masks, height, width),)


def prepare(root: Path) -> Counts:
    """Convert the validation images. Raises FileNotFoundError or ValueError, which say what is
    missing or damaged.
    """
    source = need(root / "VOCdevkit/VOC2010/trainval_merged.json", HELP)
    index = read_index(
        source,
        images={"image_id": int, "file_name": str, "phase": str, "height": int, "width": int},
        annos_segmentation={"image_id": int},
    )
    images = [image for image in index["images"] if image["phase"] == "val"]
    wanted = {image["image_id"] for image in images}
    annotations = by_image(a for a in index["annos_segmentation"] if a["image_id"] in wanted)
    del index
    target = root / "VOCdevkit/VOC2010/annotations_detectron2/pc59_val"
    jobs = [
        Job(
            f"{source}, image {image['file_name']}",
            (target / f"{Path(image['file_name']).stem}.png",),
            partial(convert, image, annotations.get(image["image_id"], [])),
        )
        for image in images
    ]
    return convert_files(jobs, target)


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
    print(prepare(parser.parse_args().root).report(*IMAGES))


if __name__ == "__main__":
    run_program(main)
