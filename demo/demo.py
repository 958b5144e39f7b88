#!/usr/bin/env python
"""Segment images with classes of your own choice.

    python demo/demo.py --config-file configs/vitb_384_hyperbolic.yaml --input photos/ --output out \\
        --vocabulary "dog; truck; road, street; sky" --opts MODEL.WEIGHTS model_final.pth

For each image two files are written: NAME.png, the overlay with a legend, and NAME_labels.png, the class index of
every pixel in the overlay's colours (255: no class, or below --threshold); classes.json lists the classes. Images that
cannot be read are reported, the others are done, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
import time
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data  # noqa: F401  (checks the installation before anything else is imported)
import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from hyperclip.config import load_config
from hyperclip.data import read_image, vocabulary_of
from hyperclip.data.custom import register_files
from hyperclip.data.image_files import IMAGE_SUFFIXES
from hyperclip.data.pairing import is_hidden
from hyperclip.files import write_atomically
from hyperclip.memory import keep_freed_memory
from hyperclip.predictor import Prediction, Predictor
from hyperclip.visualization import BACKGROUND, label_image, overlay, palette
from hyperclip.vocabulary import Vocabulary, load_vocabulary
from PIL import Image


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", required=True, nargs="+", help="image files, folders or glob patterns")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--vocabulary", help="'name, synonym; name; …'; default: the config's classes")
    parser.add_argument("--negatives", default="", help="'name; name; …': what is none of the classes (CLIPer)")
    parser.add_argument("--threshold", type=float, default=0.0, help="leave pixels below this score unpainted")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def find_images(inputs: list[str]) -> list[Path]:
    """Image files of the given files, folders and patterns, in order and once each.

    Raises:
        FileNotFoundError: nothing matches one of them.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry)
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(entry))]
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(p.name))
        if not matches:
            raise FileNotFoundError(f"--input: no image at {entry!r}. Expected files, folders of {IMAGE_SUFFIXES}, or patterns")
        found.update(dict.fromkeys(matches))
    return list(found)


def result_names(images: list[Path], output: Path) -> dict[Path, str]:
    """A name for each image's results: its stem.

    Raises:
        ValueError: two images of the same name, or a result that would replace an input.
    """
    names = {path: path.stem for path in images}
    written: dict[Path, Path] = {}
    inputs = {path.resolve() for path in images}
    for path, name in names.items():
        for target in (output / f"{name}.png", output / f"{name}_labels.png"):
            if target.resolve() in inputs:
                raise ValueError(f"--output: {target} is an input picture and would be replaced. Choose another folder")
            if target in written:
                raise ValueError(f"--input: {written[target]} and {path} would both be written to {target}. Rename one")
            written[target] = path
    return names


def choose_vocabulary(cfg: CfgNode, arguments: argparse.Namespace) -> Vocabulary:
    """The classes of the command line, or TEST_CLASS_JSON's, or those of the first test set.

    Raises:
        ValueError: no class, a name that is there twice, or negatives without classes.
    """
    if arguments.vocabulary is not None:
        return Vocabulary.from_text(arguments.vocabulary, arguments.negatives)
    if arguments.negatives:
        raise ValueError("--negatives: give --vocabulary too; the config's classes bring negatives of their own")
    register_files(cfg.DATASETS.FILES)
    source = cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON
    return load_vocabulary(source) if source else vocabulary_of(cfg.DATASETS.TEST[0], cfg.TEST.VOCABULARY)


def save_prediction(output: Path, name: str, image: np.ndarray, prediction: Prediction, threshold: float) -> None:
    """Write the overlay and the label map of one image."""
    labels = np.where(prediction.confidence < threshold, BACKGROUND, prediction.labels)
    picture = Image.fromarray(overlay(image, labels, prediction.names))
    index = label_image(labels, len(prediction.names))
    write_atomically(output / f"{name}.png", lambda p: picture.save(p, format="PNG"))
    write_atomically(output / f"{name}_labels.png", lambda p: index.save(p, format="PNG"))


def main() -> int:
    arguments = parse_arguments()
    logger = setup_logger(name="hyperclip")
    keep_freed_memory()
    cfg = load_config(arguments.config_file, arguments.opts)
    vocabulary = choose_vocabulary(cfg, arguments)
    images = find_images(arguments.input)
    names = result_names(images, arguments.output)
    predictor = Predictor.from_config(cfg)
    colors = palette(len(vocabulary)).tolist()
    classes = [{"index": i, "name": n, "color": colors[i]} for i, n in enumerate(vocabulary.names)]
    write_atomically(arguments.output / "classes.json", lambda p: p.write_text(json.dumps(classes, indent=1) + "\n"))
    failed = 0
    for path in images:
        start = time.perf_counter()
        try:
            image = read_image(path, image_bits=cfg.INPUT.IMAGE_BITS, max_pixels=cfg.INPUT.MAX_PIXELS)
            predictor.set_image(image)
        except (OSError, ValueError) as error:
            logger.error("%s: skipped: %s", path, error)
            failed += 1
            continue
        prediction = predictor.predict(vocabulary)
        save_prediction(arguments.output, names[path], image, prediction, arguments.threshold)
        largest = np.bincount(prediction.labels.ravel() + 1, minlength=len(vocabulary) + 1)[1:].argsort()[::-1][:3]
        found = ", ".join(vocabulary.names[i] for i in largest if (prediction.labels == i).any())
        logger.info("%s: %s (%.1f s)", path, found, time.perf_counter() - start)
    if failed:
        logger.error("%d of %d images could not be read", failed, len(images))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
