"""What the instruments look at: images of a dataset, with truth, or files, and the words asked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from ..data import dataset_file, find_dataset, load_records, read_image, vocabulary_of
from ..data.class_lists import test_vocabulary
from ..data.mapper import read_pair
from ..data.registry import DatasetSpec
from ..labels import NO_CLASS
from ..vocabulary import Vocabulary, load_vocabulary
from .demo_inputs import VIDEO_SUFFIXES, find_inputs

Pixels = tuple[np.ndarray, np.ndarray | None]
"""An image, uint8 RGB (H, W, 3), and its truth (H, W), ``NO_CLASS`` where there is none."""


@dataclass(frozen=True)
class Inspected:
    """Words, and pictures by name with what reads each; ``spec`` of their dataset, if any."""

    vocabulary: Vocabulary
    pictures: Mapping[str, Callable[[], Pixels]]
    spec: DatasetSpec | None = None

    @property
    def names(self) -> list[str]:
        """What the truth's labels and the answers are called."""
        return self.vocabulary.names if self.spec is None else self.spec.label_names


def add_inputs(parser: argparse.ArgumentParser, needed: bool) -> None:
    """--dataset or --input, --vocabulary and --limit."""
    group = parser.add_mutually_exclusive_group(required=needed)
    known = "alias or registered name; tools/evaluate.py --list shows them"
    group.add_argument("--dataset", help=known)
    files = "images, folders of them, or patterns; they have no truth"
    group.add_argument("--input", nargs="+", metavar="PATH", help=files)
    words = "'name, synonym; name; …', or a file of names; default: the dataset's or the config's"
    parser.add_argument("--vocabulary", help=words)
    limit = "how many images, from the first one on (default: %(default)s)"
    parser.add_argument("--limit", type=int, default=8, help=limit)


def inputs_of(cfg: CfgNode, arguments: argparse.Namespace) -> Inspected:
    """What the command line names, without reading an image.

    Raises:
        ValueError: words that are none, or that do not go with a dataset's labels; a limit below 0.
        FileNotFoundError: no such images.
    """
    if arguments.limit < 0:
        raise ValueError(f"--limit: got {arguments.limit}, expected 0 or more")
    dataset_file.register_files(cfg.DATASETS.FILES)
    if arguments.dataset:
        if arguments.vocabulary is not None:
            raise ValueError(
                "--vocabulary: got --dataset, whose labels have names of their own; leave it out, "
                "or give the images by --input"
            )
        return _of_dataset(cfg, find_dataset(arguments.dataset), arguments.limit)
    pictures = {}
    for path, relative in find_inputs(arguments.input or []).items():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            name = _plain(relative.with_suffix("").as_posix())
            while name in pictures:
                name += "_2"
            pictures[name] = partial(_read_alone, path, cfg)
    kept = dict(list(pictures.items())[: arguments.limit])
    return Inspected(words_of(cfg, arguments.vocabulary), kept)


def words_of(cfg: CfgNode, given: str | None) -> Vocabulary:
    """The words of the command line, else TEST_CLASS_JSON's, else the first test set's; ValueError
    if there are none.
    """
    if given is not None:
        is_file = Path(given).suffix.lower() in (".txt", ".json")
        return load_vocabulary(given) if is_file else Vocabulary.from_text(given)
    if cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON:
        return load_vocabulary(cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON)
    if not cfg.DATASETS.TEST:
        raise ValueError("--vocabulary: the config names no classes: give 'dog; truck; road'")
    return vocabulary_of(cfg.DATASETS.TEST[0], cfg.TEST.VOCABULARY)


def _of_dataset(cfg: CfgNode, spec: DatasetSpec, limit: int) -> Inspected:
    vocabulary, records = test_vocabulary(cfg, spec.name), load_records(spec)[:limit]
    pictures = {_plain(record["image_id"]): partial(_read, record, spec) for record in records}
    return Inspected(vocabulary, pictures, spec)


def _read(record: dict, spec: DatasetSpec) -> Pixels:
    image, truth = read_pair(record)
    return image, np.where(truth == spec.ignore, NO_CLASS, truth)


def _read_alone(path: Path, cfg: CfgNode) -> Pixels:
    keys = cfg.INPUT
    return read_image(path, image_bits=keys.IMAGE_BITS, max_pixels=keys.MAX_PIXELS), None


def _plain(name: str) -> str:
    """A name of a file, without folders."""
    return re.sub(r"[/\\]", "-", name)


def check_names(given: Sequence[str], vocabulary: Vocabulary, key: str) -> list[int]:
    """The classes of these names; ValueError, with those there are, for one that is none."""
    known = {name: i for i, name in reversed(list(enumerate(vocabulary.names)))}
    if unknown := [name for name in given if name not in known]:
        some = ", ".join(vocabulary.names[:12]) + (", …" if len(vocabulary) > 12 else "")
        raise ValueError(f"{key}: got {unknown[0]!r}, expected one of the classes: {some}")
    return [known[name] for name in given]
