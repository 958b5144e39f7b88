"""Segment images with classes of your own choice.

    hyperclip-demo --input photos/ --output out --vocabulary "dog; truck; road, street; sky"
    hyperclip-demo --config-file configs/vitb_384_hyperbolic.yaml --input photos/ --output out \\
        --vocabulary "dog; truck; road, street; sky" --opts MODEL.WEIGHTS model_final.pth

Without --config-file the best model of which everything is on this machine is taken, and a line
says which. For each image two files are written: NAME.png, the overlay with a legend, and
NAME_labels.png, the class index of every pixel in the overlay's colours (255: no class, or below
--threshold). classes.json lists the classes, the names that were asked, and their colours. These
repeat after 155 classes; where two of the same colour meet in an image, one gets another there,
which classes.json notes under "recolored". In --vocabulary ";" or a line end separates classes, ","
synonyms; it may also be the name of a .txt file of such text or of a .json class file. Files of a
folder that are no images are named and left out. Images that cannot be read or segmented are
reported, the others are done, and the exit status is 1. --format writes the answers for other
programs, too: coco.json and panoptic.json with panoptic/NAME.png, labelme/NAME.json,
label_studio.json with label_studio.xml, cvat.xml with cvat_labels.json, voc/, cityscapes/,
table.csv, npz/NAME.npz; see docs/results.md.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

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

from .. import zoo
from ..clip import TextEmbedder
from ..config.keys import load_config
from ..data import dataset_file, image_files, pairing, read_image, vocabulary_of
from ..labels import NO_CLASS
from ..load import check_system
from ..predictor import Prediction, Predictor
from ..results import WRITERS, Answer, Writer, add_to_all, build_writers
from ..runtime import files, finite, memory, program
from ..visualization import label_image, map_palette, overlay, palette
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.names import split_words
from . import register_systems

logger = logging.getLogger("hyperclip.demo")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="default: the best model on this machine")
    add("--input", required=True, nargs="+", help="image files, folders or glob patterns")
    add("--output", required=True, type=files.user_path, help="folder of the results")
    add("--vocabulary", help="'name, synonym; name; …', or a file of names; default: the config's")
    add("--negatives", default="", help="'name; name; …': what is none of the classes (CLIPer)")
    below = "leave pixels below this score unpainted, 0 to 1 (CLIPer: to 2)"
    add("--threshold", type=float, default=0.0, help=below)
    formats = f"also write these, joined by commas: {', '.join(WRITERS)}"
    add("--format", default="", metavar="FORMATS", help=formats)
    regions = "list connected regions, not classes (not of voc, cityscapes, table, npz)"
    add("--instances", action="store_true", help=regions)
    add("--smallest", type=int, default=1, metavar="PIXELS", help="leave out smaller regions")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def chosen_config(arguments: argparse.Namespace) -> CfgNode:
    """The config of the command line, or of the best model on this machine, which is logged; raises
    as :func:`load_config` and :func:`hyperclip.zoo.best_here` do.
    """
    if arguments.config_file:
        return load_config(arguments.config_file, arguments.opts)
    model = zoo.best_here()
    logger.info("No --config-file: %s", model.what)
    return load_config(model.config, [*model.overrides, *arguments.opts])


def check_threshold(cfg: CfgNode, threshold: float) -> None:
    """ValueError unless the threshold is in the range of the system's scores."""
    limit = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).largest_confidence(cfg)
    if not 0 <= threshold <= limit:
        expected = f"0 to {limit}, the range of this system's scores"
        raise ValueError(f"--threshold: got {threshold}, expected {expected}")


def find_images(inputs: list[str]) -> list[Path]:
    """Image files of the given files, folders and patterns, in order and once each; other files of
    a folder are logged by name, unless hidden. FileNotFoundError if nothing matches one of them.
    """
    images: dict[Path, None] = {}
    suffixes = image_files.IMAGE_SUFFIXES
    for entry in inputs:
        path = files.user_path(entry)
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)))]
        if path.is_dir():
            inside = {p for p in path.iterdir() if not pairing.is_hidden(p.name)}
            matches = sorted(p for p in inside if p.is_file() and p.suffix.lower() in suffixes)
            if others := [p.name + "/" * p.is_dir() for p in sorted(inside.difference(matches))]:
                kinds = " ".join(suffixes)
                logger.warning("%s: left out, no images (%s): %s", entry, kinds, ", ".join(others))
        if not matches:
            expected = f"Expected files, folders of {suffixes}, or patterns"
            raise FileNotFoundError(f"--input: no image at {entry!r}. {expected}")
        images.update(dict.fromkeys(matches))
    return list(images)


def result_names(images: list[Path], output: Path) -> dict[Path, str]:
    """A name for each image's results: its stem, or its file name where stems repeat in a folder.
    ValueError for two images of the same name, or a result that would replace an input.
    """
    stems = Counter((path.parent, path.stem) for path in images)
    names = {p: p.stem if stems[p.parent, p.stem] == 1 else p.name for p in images}
    written: dict[Path, Path] = {}
    inputs = {path.resolve() for path in images}
    for path, name in names.items():
        for target in (output / f"{name}.png", output / f"{name}_labels.png"):
            if target.resolve() in inputs:
                what = f"{target} is an input image and would be replaced"
                raise ValueError(f"--output: {what}. Choose another folder")
            if target in written:
                what = f"{written[target]} and {path} would both be written to {target}"
                raise ValueError(f"--input: {what}. Rename one")
            written[target] = path
    return names


def choose_vocabulary(cfg: CfgNode, arguments: argparse.Namespace) -> Vocabulary:
    """The classes of the command line, or TEST_CLASS_JSON's, or those of the first test set;
    ValueError for no class, a name that is there twice, or negatives without classes.
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
    dataset_file.register_files(cfg.DATASETS.FILES)
    if cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON:
        return load_vocabulary(cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON)
    if not cfg.DATASETS.TEST:
        raise ValueError(
            "--vocabulary: the config names no classes, so give them: 'dog; truck; road, street', "
            "or a file of names"
        )
    return vocabulary_of(cfg.DATASETS.TEST[0], cfg.TEST.VOCABULARY)


class ClassList:
    """classes.json: the class and the colour of each index of the label maps, and what the model's
    embedder of names, if it has one, was asked.
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
        files.write_text(self.file, json.dumps(self.classes, indent=1) + "\n")

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
    files.write_atomically(output / f"{name}.png", lambda p: painted.save(p, format="PNG"))
    files.write_atomically(output / f"{name}_labels.png", lambda p: index.save(p, format="PNG"))


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the images of the command line; 1 if one could not be read, segmented or written."""
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    memory.keep_freed_memory()
    cfg = chosen_config(arguments)
    check_system(cfg)
    check_threshold(cfg, arguments.threshold)
    vocabulary = choose_vocabulary(cfg, arguments)
    names = result_names(find_images(arguments.input), arguments.output)
    regions = {"instances": arguments.instances, "smallest": arguments.smallest}
    writers = build_writers(arguments.format, arguments.output, vocabulary.names, **regions)
    files.need_output_folder(arguments.output, "--output")
    predictor = Predictor.from_config(cfg)
    try:
        failed = segment_files(cfg, predictor, vocabulary, names, arguments, writers)
    finally:  # of what was done when somebody interrupts, too
        for writer in writers:
            writer.close()
    if failed:
        count = f"{failed} of {len(names)} images"
        logger.error("%s could not be read or their results not be written", count)
    return int(failed > 0)


def segment_files(
    cfg: CfgNode,
    predictor: Predictor,
    vocabulary: Vocabulary,
    names: dict[Path, str],
    arguments: argparse.Namespace,
    writers: Sequence[Writer] = (),
) -> int:
    """Write the results of all images, which ``names`` names; how many of them failed."""
    classes = ClassList(arguments.output / "classes.json", vocabulary, predictor.model.text)
    bits, most = cfg.INPUT.IMAGE_BITS, cfg.INPUT.MAX_PIXELS
    done = 0
    for path, name in names.items():
        start = time.perf_counter()
        try:
            image = read_image(path, image_bits=bits, max_pixels=most)
        except (OSError, ValueError) as error:
            logger.error("%s: skipped: %s", path, error)
            continue
        try:
            prediction = predictor.segment(predictor.encode(image), vocabulary)
            unsure = prediction.confidence < arguments.threshold
            labels = np.where(unsure, NO_CLASS, prediction.labels)
            save_prediction(arguments.output, name, image, labels, prediction.names)
            answer = Answer(labels, prediction.confidence, prediction.names)
            add_to_all(writers, name, path.name, answer)
        # of this image, as broken weights were refused above, or of the length of its name, say
        except (finite.NotFiniteError, OSError) as error:
            logger.error("%s: skipped: %s", path, error)
            continue
        classes.add(name, labels)
        done += 1
        seconds = time.perf_counter() - start
        logger.info("%s: %s (%.1f s)", path, largest_classes(prediction), seconds)
    return len(names) - done


def largest_classes(prediction: Prediction) -> str:
    """Names of the three classes with the most pixels, largest first."""
    pixels = np.bincount(prediction.labels[prediction.labels >= 0], minlength=len(prediction.names))
    return ", ".join(prediction.names[i] for i in pixels.argsort()[::-1][:3] if pixels[i])
