#!/usr/bin/env python
"""Paint COCO's instances into one label file per image of val2017: 0 = background, 1..80 = classes
by ascending category id.

    python datasets/prepare_coco_object.py

Reads instances_val2017.json in coco-stuff/annotations/ or coco/annotations/, writes
coco-stuff/annotations_object/val2017/. Smaller instances lie on top of larger ones, crowd regions
count, and an image without instances becomes background.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hyperclip.data import label_conversion as prep
from hyperclip.data.index_files import by_image, need, read_index
from hyperclip.runtime.program import run_program

IMAGES, CLASSES = 5000, 80
PLACES = [f"{folder}/annotations/instances_val2017.json" for folder in ("coco-stuff", "coco")]
HELP = (
    "It is in annotations_trainval2017.zip of https://cocodataset.org; if it is elsewhere, pass it "
    "as --instances FILE"
)


def prepare(root: Path, instances: Path | None = None) -> prep.Counts:
    """Convert val2017; OSError or ValueError if a source is missing or damaged."""
    source = instances or next((root / place for place in PLACES if (root / place).is_file()), None)
    if source is None:
        places = " nor ".join(repr(str(root / place)) for place in PLACES)
        raise FileNotFoundError(f"neither {places} exists. {HELP}")
    index = read_index(
        need(source, HELP),
        images={"id": int, "height": int, "width": int},
        annotations={"image_id": int},
        categories={"id": int},
    )
    ids = sorted(category["id"] for category in index["categories"])
    if len(ids) != CLASSES:
        problem = f"got {len(ids)} categories, expected the {CLASSES} of instances_val2017.json"
        raise ValueError(f"{str(source)!r}: {problem}")
    classes = {category: k + 1 for k, category in enumerate(ids)}
    annotations = by_image(index["annotations"])
    target = root / "coco-stuff/annotations_object/val2017"
    jobs = []
    for image in index["images"]:
        key = image["id"]
        size = image["height"], image["width"]
        make = partial(prep.coco_object_labels, annotations.get(key, []), classes, *size)
        jobs.append(prep.Job(f"{source}, image {key}", (target / f"{key:012d}.png",), make))
    return prep.convert_files(jobs, target)


def main() -> None:
    parser = prep.preparation_parser(__doc__)
    elsewhere = "instances_val2017.json, if it is elsewhere"
    parser.add_argument("--instances", type=Path, metavar="FILE", help=elsewhere)
    arguments = parser.parse_args()
    print(prepare(arguments.root, arguments.instances).report(IMAGES))


if __name__ == "__main__":
    run_program(main)
