"""Segment images with classes of your own choice.

    hyperclip-demo --config-file configs/vitb_384_hyperbolic.yaml --input photos/ --output out \\
        --vocabulary "dog; truck; road, street; sky" --opts MODEL.WEIGHTS model_final.pth

For each image two files are written: NAME.png, the overlay with a legend, and NAME_labels.png, the
class index of every pixel in the overlay's colours (255: no class, or below --threshold);
classes.json lists the classes with the names that were asked and their colours, which repeat after
155 classes: where two of the same colour meet in an image, one gets another there, and classes.json
says so under "recolored". In --vocabulary ";" or a line end separates classes, "," synonyms; it may
also be the name of a .txt file of such text or of a .json class file. Of a folder, whatever is no
image is named and left out. Images that cannot be read or segmented are reported, the others are
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
from ..predictor import Predictor
from ..runtime.files import need_output_folder, user_path, write_atomically
from ..runtime.finite import NotFiniteError
from ..runtime.memory import keep_freed_memory
from ..visualization import label_image, map_palette, overlay, palette
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.names import split_words
from . import register_systems

logger = logging.getLogger("hyperclip.demo")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--input", required=True, nargs="+", help="image files, folders or glob patterns"
    )
    parser.add_argument("--output", required=True, type=user_path, help="folder of the results")
    parser.add_argument(
        "--vocabulary", help="'name, synonym; name; …', or a file of names; default: the config's"
    )
    parser.add_argument(
        "--negatives", default="", help="'name; name; …': what is none of the classes (CLIPer)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="leave pixels below this score unpainted, 0 to 1 (CLIPer: to 2)",
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def check_threshold(cfg: CfgNode, threshold: float) -> None:
    """ValueError if no score of the system can be on either side of the threshold; NaN and infinity
    included.
    """
    limit = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).largest_confidence(cfg)
    if not 0 <= threshold <= limit:
        raise ValueError(
            f"--threshold: got {threshold}, expected 0 to {limit}, the range of this system's "
            "scores"
        )


def find_images(inputs: list[str]) -> list[Path]:
    """Image files of the given files, folders and patterns, in order and once each.

    What a folder holds besides images is logged by name, but for hidden files.

    Raises:
        FileNotFoundError: nothing matches one of them.
    """
    found: dict[Path, None] = {}
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
        found.update(dict.fromkeys(matches))
    return list(found)


def result_names(images: list[Path], output: Path) -> dict[Path, str]:
    """A name for each image's results: its stem, or its whole name where another image of its
    folder has that stem.

    Raises:
        ValueError: two images of the same name, or a result that would replace an input.
    """
    stems = Counter((path.parent, path.stem) for path in images)
    names = {
        path: path.stem if stems[path.parent, path.stem] == 1 else path.name for path in images
    }
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
    source = cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON
    return (
        load_vocabulary(source)
        if source
        else vocabulary_of(cfg.DATASETS.TEST[0], cfg.TEST.VOCABULARY)
    )


class ClassList:
    """classes.json: what each index of the label maps is, and its colour.

    Args:
        file: where it is written. vocabulary: the classes. text: what asks them, if that is known.
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
        write_atomically(
            self.file, lambda p: p.write_text(json.dumps(self.classes, indent=1) + "\n")
        )

    def add(self, name: str, labels: np.ndarray) -> None:
        """Note the classes that have another colour in this image's results."""
        own = map_palette(labels, len(self.classes))
        changed = np.flatnonzero((own != self.colors).any(axis=1)).tolist()
        for i in changed:
            self.classes[i].setdefault("recolored", {})[name] = own[i].tolist()
        if changed:
            self.write()


def save_prediction(
    output: Path, name: str, image: np.ndarray, labels: np.ndarray, names: list[str]
) -> None:
    """Write the overlay and the label map of one image."""
    picture = Image.fromarray(overlay(image, labels, names))
    index = label_image(labels, len(names))
    write_atomically(output / f"{name}.png", lambda p: picture.save(p, format="PNG"))
    write_atomically(output / f"{name}_labels.png", lambda p: index.save(p, format="PNG"))


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the images of the command line; 1 if some could not be read or segmented, or their
    results not be written.
    """
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    keep_freed_memory()
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    check_threshold(cfg, arguments.threshold)
    vocabulary = choose_vocabulary(cfg, arguments)
    images = find_images(arguments.input)
    names = result_names(images, arguments.output)
    need_output_folder(arguments.output, "--output")
    predictor = Predictor.from_config(cfg)
    classes = ClassList(arguments.output / "classes.json", vocabulary, predictor.model.text)
    failed = 0
    for path in images:
        start = time.perf_counter()
        try:
            image = np.ascontiguousarray(
                read_image(path, image_bits=cfg.INPUT.IMAGE_BITS, max_pixels=cfg.INPUT.MAX_PIXELS)
            )
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
            save_prediction(arguments.output, names[path], image, labels, prediction.names)
        # a name that is too long with its ending, say: the others are done
        except OSError as error:
            logger.error("%s: %s", path, error)
            failed += 1
            continue
        classes.add(names[path], labels)
        largest = np.bincount(prediction.labels.ravel() + 1, minlength=len(vocabulary) + 1)[
            1:
        ].argsort()[::-1][:3]
        found = ", ".join(vocabulary.names[i] for i in largest if (prediction.labels == i).any())
        logger.info("%s: %s (%.1f s)", path, found, time.perf_counter() - start)
    if failed:
        logger.error(
            "%d of %d images could not be read or their results not be written", failed, len(images)
        )
    return 1 if failed else 0
