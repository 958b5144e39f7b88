#!/usr/bin/env python
"""Write the procedural dataset tinyscenes as image and label files: a few seconds, no download.

    python datasets/prepare_tinyscenes.py

The files land in ``tinyscenes/`` below DETECTRON2_DATASETS (default: ``datasets``). Files that
exist are kept, and several runs at once do not disturb each other.

    python datasets/prepare_tinyscenes.py --others FOLDER

draws as many other scenes of each split below FOLDER instead, those of the next indices, which are
for choosing settings: DETECTRON2_DATASETS=FOLDER evaluates on them.

    python datasets/prepare_tinyscenes.py --examples 2 FOLDER

writes N examples of each phrase, images with masks, as --examples of the demo and
TEST.EXAMPLES.FOLDER read them: of seen phrases from the training scenes, of unseen ones from scenes
that are in no split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from hyperclip.data import dataset_root
from hyperclip.data.label_conversion import Job, convert_files
from hyperclip.runtime.files import user_path
from hyperclip.runtime.program import program_parser, run_program
from hyperclip.tinyscenes.drawing import SPLITS, render_scene
from hyperclip.tinyscenes.examples import MOST, render_examples
from hyperclip.tinyscenes.fine import FINE_SPLITS, render_fine_scene


def write_examples(number: int, folder: Path) -> None:
    """Write so many examples of each phrase."""
    written: dict[str, int] = {}
    jobs = []
    for name, image, mask in render_examples(number):
        index = written[name] = written.get(name, -1) + 1
        own = folder / name
        targets = (own / f"{index}.png", own / f"{index}_mask.png")
        jobs.append(Job(f"example {index} of {name}", targets, partial(pair, image, mask)))
    print(convert_files(jobs, folder).report(len(jobs)))


def pair(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return image, mask


def write_scenes(root: Path, others: bool) -> None:
    """Write the scenes of every split below a folder of datasets, or as many others."""
    worlds = ((SPLITS, render_scene), (FINE_SPLITS, render_fine_scene))
    rows = [(*row, render) for splits, render in worlds for row in splits.items()]
    for split, spec, render in rows:
        folder = root / "tinyscenes" / split
        first = spec.images if others else 0
        jobs = []
        for index in range(first, first + spec.images):
            targets = tuple(folder / kind / f"{index:05d}.png" for kind in ("images", "labels"))
            make = partial(render, split, index)
            jobs.append(Job(f"scene {index} of {split}", targets, make))
        print(convert_files(jobs, folder).report(spec.images))


def main() -> None:
    parser = program_parser(__doc__)
    parser.add_argument("--others", metavar="FOLDER", help="draw other scenes below FOLDER")
    parser.add_argument("--examples", nargs=2, metavar=("N", "FOLDER"), help="write these alone")
    arguments = parser.parse_args()
    if arguments.examples:
        number, folder = arguments.examples
        if not number.isdigit() or not 0 < int(number) <= MOST:
            raise ValueError(f"--examples: got {number!r}, expected a number from 1 to {MOST}")
        write_examples(int(number), user_path(folder))
        return
    if arguments.others is None:
        write_scenes(dataset_root(), others=False)
        return
    root = user_path(arguments.others)
    if not arguments.others or root.resolve() == dataset_root().resolve():
        expected = "expected another folder than that of the datasets, which has the splits' scenes"
        raise ValueError(f"--others: got {arguments.others!r}, {expected}")
    write_scenes(root, others=True)


if __name__ == "__main__":
    run_program(main)
