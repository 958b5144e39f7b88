#!/usr/bin/env python
"""Write the procedural dataset tinyscenes as image and label files: a few seconds, no download.

    python datasets/prepare_tinyscenes.py

The files land in ``tinyscenes/`` below DETECTRON2_DATASETS (default: ``datasets``). Files that
exist are kept, and several runs at once do not disturb each other.
"""

from __future__ import annotations

from functools import partial

from hyperclip.data import dataset_root
from hyperclip.data.label_conversion import Job, convert_files
from hyperclip.runtime.program import run_program
from hyperclip.tinyscenes.drawing import SPLITS, render_scene
from hyperclip.tinyscenes.fine import FINE_SPLITS, render_fine_scene


def main() -> None:
    worlds = ((SPLITS, render_scene), (FINE_SPLITS, render_fine_scene))
    rows = [(*row, render) for splits, render in worlds for row in splits.items()]
    for split, spec, render in rows:
        folder = dataset_root() / "tinyscenes" / split
        jobs = []
        for index in range(spec.images):
            targets = tuple(folder / kind / f"{index:05d}.png" for kind in ("images", "labels"))
            make = partial(render, split, index)
            jobs.append(Job(f"scene {index} of {split}", targets, make))
        print(convert_files(jobs, folder).report(spec.images))


if __name__ == "__main__":
    run_program(main)
