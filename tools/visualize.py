#!/usr/bin/env python
"""Draw input, truth, prediction and legend for pictures of a registered dataset.

    python tools/visualize.py --config-file configs/quickstart/hyperclip.yaml \\
        --dataset tinyscenes_val_unseen --output output/pictures --limit 8 \\
        --opts MODEL.WEIGHTS output/quickstart/hyperclip/model_final.pth
"""

from __future__ import annotations

import argparse

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data  # noqa: F401  (registers the datasets)
import numpy as np
import torch
from hyperclip.config import load_config
from hyperclip.data import find_dataset, load_records
from hyperclip.data.class_lists import test_vocabulary
from hyperclip.data.dataset_file import register_files
from hyperclip.data.mapper import read_pair
from hyperclip.evaluation.protocols import to_dataset_labels
from hyperclip.evaluation.running import background_rule
from hyperclip.load import check_system
from hyperclip.predictor import Predictor
from hyperclip.runtime.files import need_output_folder, user_path, write_atomically
from hyperclip.runtime.program import run_program
from hyperclip.visualization import NO_CLASS, comparison
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--dataset",
        required=True,
        help="alias or registered name; tools/evaluate.py --list shows them",
    )
    parser.add_argument("--output", required=True, type=user_path, help="folder of the images")
    parser.add_argument(
        "--limit", type=int, default=8, help="how many images, from the first one on"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    arguments = parser.parse_args()
    if arguments.limit < 0:
        parser.error(f"--limit: got {arguments.limit}, expected 0 or more")
    need_output_folder(arguments.output, "--output")
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    register_files(cfg.DATASETS.FILES)
    spec = find_dataset(arguments.dataset)
    vocabulary, records = test_vocabulary(cfg, spec.name), load_records(spec)
    predictor = Predictor.from_config(cfg)
    background = background_rule(spec.name)
    for record in records[: arguments.limit]:
        image, truth = read_pair(record)
        predictor.set_image(image)
        answer = torch.from_numpy(
            predictor.predict(vocabulary, background=background == "threshold").labels
        )
        labels = to_dataset_labels(answer, len(spec.label_names), background).numpy()
        picture = comparison(
            image, np.where(truth == spec.ignore, NO_CLASS, truth), labels, spec.label_names
        )
        target = arguments.output / f"{record['image_id'].replace('/', '-')}.png"
        write_atomically(
            target, lambda path, p=picture: Image.fromarray(p).save(path, format="PNG")
        )


if __name__ == "__main__":
    run_program(main)
