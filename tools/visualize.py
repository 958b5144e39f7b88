#!/usr/bin/env python
"""Draw input, truth, prediction and legend for images of a registered dataset.

    python tools/visualize.py --config-file configs/quickstart/hyperclip.yaml \\
        --dataset tinyscenes_val_unseen --output output/drawn --limit 8 \\
        --opts MODEL.WEIGHTS output/quickstart/hyperclip/model_final.pth
"""

import argparse
from functools import partial

import cliper  # noqa: F401  (registers CLIPer and its keys)
import numpy as np
import torch
from hyperclip.config import load_config
from hyperclip.data import find_dataset, load_records
from hyperclip.data.class_lists import test_vocabulary
from hyperclip.data.dataset_file import register_files
from hyperclip.data.mapper import read_pair
from hyperclip.evaluation.evaluator import to_dataset_labels
from hyperclip.load import check_system
from hyperclip.predictor import Predictor
from hyperclip.runtime.files import need_output_folder, user_path, write_atomically
from hyperclip.runtime.program import program_parser, run_program
from hyperclip.visualization import NO_CLASS, comparison
from PIL import Image


def main() -> None:
    parser = program_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    known = "alias or registered name; tools/evaluate.py --list shows them"
    parser.add_argument("--dataset", required=True, help=known)
    parser.add_argument("--output", required=True, type=user_path, help="folder of the images")
    limit = "how many images, from the first one on"
    parser.add_argument("--limit", type=int, default=8, help=limit)
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
    for record in records[: arguments.limit]:
        image, truth = read_pair(record)
        predictor.set_image(image)
        background = "threshold" if spec.background == "threshold" else "own"
        answer = predictor.predict(vocabulary, background=background).labels
        names = spec.label_names
        labels = to_dataset_labels(torch.from_numpy(answer), len(names), spec.background).numpy()
        truth = np.where(truth == spec.ignore, NO_CLASS, truth)
        drawn = Image.fromarray(comparison(image, truth, labels, names))
        target = arguments.output / f"{record['image_id'].replace('/', '-')}.png"
        write_atomically(target, partial(drawn.save, format="PNG"))


if __name__ == "__main__":
    run_program(main)
