#!/usr/bin/env python
"""Draw input, truth, prediction and legend for pictures of a registered dataset.

    python tools/visualize.py --config-file configs/quickstart/hyperclip.yaml --dataset tinyscenes_val_unseen \\
        --output output/pictures --limit 8 --opts MODEL.WEIGHTS output/quickstart/hyperclip/model_final.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data  # noqa: F401  (registers the datasets)
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from hyperclip.config import load_config
from hyperclip.data import read_image, vocabulary_of
from hyperclip.data.labels import read_label
from hyperclip.files import write_atomically
from hyperclip.predictor import Predictor
from hyperclip.visualization import BACKGROUND, comparison
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder of the pictures")
    parser.add_argument("--limit", type=int, default=8, help="how many pictures, from the first one on")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    arguments = parser.parse_args()
    predictor = Predictor.from_config(load_config(arguments.config_file, arguments.opts))
    vocabulary, ignore = vocabulary_of(arguments.dataset), MetadataCatalog.get(arguments.dataset).ignore_label
    for record in DatasetCatalog.get(arguments.dataset)[: arguments.limit]:
        image = np.ascontiguousarray(read_image(record["file_name"]))
        truth = read_label(record["sem_seg_file_name"], record.get("label_remap")).astype(np.int64)
        predictor.set_image(image)
        labels = predictor.predict(vocabulary).labels
        picture = comparison(image, np.where(truth == ignore, BACKGROUND, truth), labels, vocabulary.names)
        target = arguments.output / f"{Path(record['file_name']).stem}.png"
        write_atomically(target, lambda path, p=picture: Image.fromarray(p).save(path, format="PNG"))


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
