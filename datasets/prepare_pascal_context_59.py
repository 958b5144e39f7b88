#!/usr/bin/env python
"""Paint the masks of Pascal Context into one label file per validation image: 0..58, and 255 for
everything else.

    python datasets/prepare_pascal_context_59.py

Reads VOCdevkit/VOC2010/trainval_merged.json, writes
VOCdevkit/VOC2010/annotations_detectron2/pc59_val/*.png.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hyperclip.data import label_conversion as prep
from hyperclip.data.index_files import by_image, need, read_index
from hyperclip.runtime.program import run_program

IMAGES = (5104, 5105)
HELP = (
    "Pascal Context's annotations as one file were at "
    "https://codalabuser.blob.core.windows.net/public/trainval_merged.json, see datasets/README.md"
)


def convert(image: Mapping[str, Any], annotations: list[dict[str, Any]]) -> np.ndarray:
    height, width = image["height"], image["width"]
    decode = partial(prep.decode_mask, height=height, width=width)
    masks = ((a["category_id"], decode(a["segmentation"])) for a in annotations)
    return prep.context59_labels(masks, height, width)


def prepare(root: Path) -> prep.Counts:
    """Convert the validation images; OSError or ValueError if a source is missing or damaged."""
    source = need(root / "VOCdevkit/VOC2010/trainval_merged.json", HELP)
    index = read_index(
        source,
        images={"image_id": int, "file_name": str, "phase": str, "height": int, "width": int},
        annos_segmentation={"image_id": int},
    )
    images = [image for image in index["images"] if image["phase"] == "val"]
    wanted = {image["image_id"] for image in images}
    annotations = by_image(a for a in index["annos_segmentation"] if a["image_id"] in wanted)
    del index  # large: of the training images, too
    target = root / "VOCdevkit/VOC2010/annotations_detectron2/pc59_val"
    jobs = []
    for image in images:
        name = image["file_name"]
        label = target / f"{Path(name).stem}.png"
        make = partial(convert, image, annotations.get(image["image_id"], []))
        jobs.append(prep.Job(f"{source}, image {name}", (label,), make))
    return prep.convert_files(jobs, target)


def main() -> None:
    root = prep.preparation_parser(__doc__).parse_args().root
    print(prepare(root).report(*IMAGES))


if __name__ == "__main__":
    run_program(main)
