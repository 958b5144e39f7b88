"""Segment images with classes of your own choice.

    hyperclip-demo --config-file configs/vitb_384_hyperbolic.yaml --input photos/ --output out \\
        --vocabulary "dog; truck; road, street; sky" --opts MODEL.WEIGHTS model_final.pth

For each image two files are written: NAME.png, the overlay with a legend, and NAME_labels.png, the
class index of every pixel in the overlay's colours (255: no class, or below --threshold).
classes.json lists the classes, the names that were asked, and their colours. These repeat after 155
classes; where two of the same colour meet in an image, one gets another there, which classes.json
notes under "recolored". In --vocabulary ";" or a line end separates classes, "," synonyms; it may
also be the name of a .txt file of such text or of a .json class file. Files of a folder that are no
images are named and left out. Images that cannot be read or segmented are reported, the others are
done, and the exit status is 1.
"""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  (first, see there)

# isort: split
import argparse
import glob
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.logger import setup_logger
from PIL import Image

from ..clip import TextEmbedder
from ..config.keys import load_config
from ..data import read_image, vocabulary_of
from ..data.dataset_file import register_files
from ..data.image_files import IMAGE_SUFFIXES
from ..data.pairing import is_hidden
from ..labels import NO_CLASS
from ..load import check_system
from ..predictor import Prediction, Predictor
from ..runtime.files import need_output_folder, user_path, write_atomically, write_text
from ..runtime.finite import NotFiniteError
from ..runtime.memory import keep_freed_memory
from ..visualization import label_image, map_palette, overlay, palette
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.names import split_words
from . import new_parser, register_systems

logger = logging.getLogger("hyperclip.demo")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    add("--input", required=True, nargs="+", help="image files, folders or glob patterns")
    add("--output", required=True, type=user_path, help="folder of the results")
    add("--vocabulary", help="'name, synonym; name; …', or a file of names; default: the config's")
    add("--negatives", default="", help="'name; name; …': what is none of the classes (CLIPer)")
    below = "leave pixels below this score unpainted, 0 to 1 (CLIPer: to 2)"
    add("--threshold", type=float, default=0.0, help=below)
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def check_threshold(cfg: CfgNode, threshold: float) -> None:
    """ValueError unless the threshold is in the range of the system's scores."""
    limit = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).largest_confidence(cfg)
    if not 0 <= threshold <= limit:
        raise ValueError(
            f"--threshold: got {threshold}, expected 0 to {limit}, the range of this system's "
            "scores"
        )


def find_images(inputs: list[str]) -> list[Path]:
    """Image files of the given files, folders and patterns, in order and once each.

    Other files of a folder are logged by name, unless they are hidden.

    Raises:
        FileNotFoundError: nothing matches one of them.
    """
    images: dict[Path, None] = {}
    for entry in inputs:
        path = user_path(entry)
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        if path.is_dir():
            shown = sorted(p for p in path.iterdir() if not is_hidden(p.name))
            matches = [p for p in shown if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
            others = [p.name + "/" * p.is_dir() for p in shown if p not in matches]
            if others:
                kinds = " ".join(IMAGE_SUFFIXES)
                logger.warning("%s: left out, no images (%s): %s", entry, kinds, ", ".join(others))
        if not matches:
            raise FileNotFoundError(
                f"--input: no image at {entry!r}. Expected files, folders of {IMAGE_SUFFIXES}, or "
                "patterns"
            )
        images.update(dict.fromkeys(matches))
    return list(images)


def result_names(images: list[Path], output: Path) -> dict[Path, str]:
    """A name for each image's results: its stem, or its file name where stems repeat in a folder.

    Raises:
        ValueError: two images of the same name, or a result that would replace an input.
    """
    stems = Counter((path.parent, path.stem) for path in images)
    names = {p: p.stem if stems[p.parent, p.stem] == 1 else p.name for p in images}
    written: dict[Path, Path] = {}
    inputs = {path.resolve() for path in images}
    for path, name in names.items():
        for target in (output / f"{name}.png", output / f"{name}_labels.png"):
            if target.resolve() in inputs:
                raise ValueError(
                    f"--output: {target} is an input image and would be replaced. Choose another "
                    "folder"
                )
            if target in written:
                raise ValueError(
                    f"--input: {written[target]} and {path} would both be written to {target}. "
                    "Rename one"
                )
            written[target] = path
    return names


def choose_vocabulary(cfg: CfgNode, arguments: argparse.Namespace) -> Vocabulary:
    """The classes of the command line, or TEST_CLASS_JSON's, or those of the first test set.

    Raises:
        ValueError: no class, a name that is there twice, or negatives without classes.
    """
    if arguments.vocabulary is not None:
        if Path(arguments.vocabulary).suffix.lower() not in (".txt", ".json"):
            return Vocabulary.from_text(arguments.vocabulary, arguments.negatives)
        loaded = load_vocabulary(arguments.vocabulary)
        return replace(loaded, negatives=split_words(arguments.negatives) or loaded.negatives)
    if arguments.negatives:
        raise ValueError(
            "--negatives: give --vocabulary too; the config's classes bring negatives of their own"
        )
    register_files(cfg.DATASETS.FILES)
    if cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON:
        return load_vocabulary(cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON)
    return vocabulary_of(cfg.DATASETS.TEST[0], cfg.TEST.VOCABULARY)


class ClassList:
    """classes.json: the class and the colour of each index of the label maps.

    Args:
        file: where it is written. vocabulary: the classes.
        text: the model's embedder of names, if it has one.
    """

    def __init__(self, file: Path, vocabulary: Vocabulary, text: TextEmbedder | None) -> None:
        self.file, self.colors = file, palette(len(vocabulary))
        self.classes: list[dict] = [
            {"index": i, "name": name, "color": self.colors[i].tolist()}
            for i, name in enumerate(vocabulary.names)
        ]
        if text is not None:
            for known, asked in zip(self.classes, text.asked(vocabulary), strict=True):
                known |= {"asked": asked, "synonyms": text.rule(vocabulary)}
        self.write()

    def write(self) -> None:
        """Write the file anew."""
        write_text(self.file, json.dumps(self.classes, indent=1) + "\n")

    def add(self, name: str, labels: np.ndarray) -> None:
        """Note the classes that have another colour in this image's results."""
        colors = map_palette(labels, len(self.classes))
        changed = np.flatnonzero((colors != self.colors).any(axis=1)).tolist()
        for i in changed:
            self.classes[i].setdefault("recolored", {})[name] = colors[i].tolist()
        if changed:
            self.write()


def save_prediction(
    output: Path, name: str, image: np.ndarray, labels: np.ndarray, names: list[str]
) -> None:
    """Write the overlay and the label map of one image."""
    painted, index = Image.fromarray(overlay(image, labels, names)), label_image(labels, len(names))
    write_atomically(output / f"{name}.png", lambda p: painted.save(p, format="PNG"))
    write_atomically(output / f"{name}_labels.png", lambda p: index.save(p, format="PNG"))


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the images of the command line; 1 if one could not be read, segmented or written."""
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    keep_freed_memory()
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    check_threshold(cfg, arguments.threshold)
    vocabulary = choose_vocabulary(cfg, arguments)
    names = result_names(find_images(arguments.input), arguments.output)
    need_output_folder(arguments.output, "--output")
    predictor = Predictor.from_config(cfg)
    failed = segment_files(cfg, predictor, vocabulary, names, arguments)
    if failed:
        logger.error(
            "%d of %d images could not be read or their results not be written", failed, len(names)
        )
    return int(failed > 0)


def segment_files(
    cfg: CfgNode,
    predictor: Predictor,
    vocabulary: Vocabulary,
    names: dict[Path, str],
    arguments: argparse.Namespace,
) -> int:
    """Write the results of all images, which ``names`` names; how many of them failed."""
    classes = ClassList(arguments.output / "classes.json", vocabulary, predictor.model.text)
    bits, most = cfg.INPUT.IMAGE_BITS, cfg.INPUT.MAX_PIXELS
    failed = 0
    for path, name in names.items():
        start = time.perf_counter()
        try:
            image = np.ascontiguousarray(read_image(path, image_bits=bits, max_pixels=most))
        except (OSError, ValueError) as error:
            logger.error("%s: skipped: %s", path, error)
            failed += 1
            continue
        try:
            prediction = predictor.segment(predictor.encode(image), vocabulary)
        except NotFiniteError as error:  # of this image: weights that are broken were refused above
            logger.error("%s: skipped: %s", path, error)
            failed += 1
            continue
        labels = np.where(prediction.confidence < arguments.threshold, NO_CLASS, prediction.labels)
        try:
            save_prediction(arguments.output, name, image, labels, prediction.names)
        except OSError as error:  # for example a name that is too long with its ending
            logger.error("%s: %s", path, error)
            failed += 1
            continue
        classes.add(name, labels)
        seconds = time.perf_counter() - start
        logger.info("%s: %s (%.1f s)", path, largest_classes(prediction), seconds)
    return failed


def largest_classes(prediction: Prediction, count: int = 3) -> str:
    """Names of the classes with the most pixels, largest first."""
    pixels = np.bincount(prediction.labels[prediction.labels >= 0], minlength=len(prediction.names))
    largest = pixels.argsort()[::-1][:count]
    return ", ".join(prediction.names[i] for i in largest if pixels[i])
