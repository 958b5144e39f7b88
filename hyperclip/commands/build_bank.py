"""Build a memory bank of images without labels, for TEST.BANK.FILE.

    hyperclip-build-bank --config-file configs/quickstart/hyperclip.yaml --input photos/ \\
        --output bank.safetensors --opts MODEL.WEIGHTS model_final.pth

The bank holds what the model sees in each region of each image: of the regions that
TEST.REGIONS.NAME proposes, or of squares of TEST.BANK.CELLS cells. It is of this model alone, and
another one refuses it. Without --config-file the best model on this machine is taken. Images that
the bank has, by their content, are skipped, so that the same command adds what is new to a folder.
What is done is kept in a folder beside the bank, every 64 images, and a run that was stopped goes
on from there by the same command. Images that cannot be read are named and left out, and the exit
status is 1.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from torch import Tensor

from ..adapters import merge
from ..data.mapper import read_image
from ..data.resizing import ResizeShortestEdge
from ..evaluation.kept_rows import content_hash
from ..load import check_system, load_system
from ..runtime.files import need_output_folder, user_path
from ..runtime.finite import FiniteCheck, require_finite_weights
from ..runtime.memory import keep_freed_memory
from ..runtime.precision import Precision
from ..runtime.program import program_parser, terminated_as_interrupted
from ..segmenter import Segmenter
from ..stages import Cutter, GrowingBank, ModelPrint
from . import register_systems
from .demo import chosen_config
from .demo_inputs import VIDEO_SUFFIXES, find_inputs
from .demo_segment import progress_bar

logger = logging.getLogger("hyperclip.build_bank")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="default: the best model on this machine")
    where = "images, folders, glob patterns, or - for a list of files on standard input"
    add("--input", nargs="+", required=True, help=where)
    add("--recursive", action="store_true", help="take folders within folders, too")
    add("--output", required=True, type=user_path, metavar="FILE.safetensors", help="the bank")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".safetensors":
        got = f"got {str(arguments.output)!r}"
        parser.error(f"--output: {got}, expected a name that ends in .safetensors")
    return arguments


def find_images(arguments: argparse.Namespace) -> dict[Path, Path]:
    """The images of the command line, with their names; FileNotFoundError for none."""
    found = find_inputs(arguments.input, arguments.recursive)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        logger.warning("left out, videos: %s", ", ".join(map(str, videos)))
    images = {path: name for path, name in found.items() if path not in videos}
    if not images:
        raise FileNotFoundError(f"--input: got {arguments.input}, expected one image or more")
    return images


@dataclass(frozen=True)
class Reader:
    """Reads images as a config says, and gives what a system sees in their regions."""

    cfg: CfgNode
    system: Segmenter
    cutter: Cutter
    precision: Precision

    def pixels(self, path: Path) -> Tensor:
        """An image, uint8 (3, H, W), in the size that the config has images segmented in."""
        keys = self.cfg.INPUT
        array = read_image(path, image_bits=keys.IMAGE_BITS, max_pixels=keys.MAX_PIXELS)
        resize = ResizeShortestEdge(keys.MIN_SIZE_TEST, keys.MAX_SIZE_TEST or sys.maxsize)
        array = resize.get_transform(array).apply_image(array)
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))

    @torch.no_grad()
    def regions(self, path: Path) -> Tensor:
        """Unit embeddings of the regions of an image."""
        image = self.pixels(path)
        with self.precision.computing():
            features = self.system.features(self.system.encode([image])[0]).float()
            regions, _ = self.cutter.regions(image, features)
        FiniteCheck().add("the regions' embeddings", regions).require(self.system)
        return regions


def add_images(bank: GrowingBank, reader: Reader, images: Mapping[Path, Path]) -> tuple[int, int]:
    """Add the images that a bank lacks; how many were added, and how many failed."""
    added = failed = 0
    try:
        with progress_bar(len(images), "images") as bar:
            for path, name in images.items():
                bar.update()
                try:
                    sha256 = content_hash(path)
                    regions = None if sha256 in bank else reader.regions(path)
                except (OSError, ValueError) as error:
                    failed += 1
                    logger.error("%s", error)
                    continue
                if regions is not None:
                    bank.add(name.as_posix(), sha256, regions)
                    added += 1
    except KeyboardInterrupt:
        bank.flush()
        logger.warning(
            "Interrupted: %d images are kept in %s; the same command goes on from there",
            added,
            bank.folder,
        )
        raise
    return added, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Build or extend the bank that the command line names; 1 if an image could not be read."""
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    keep_freed_memory()
    cfg = chosen_config(arguments)
    check_system(cfg)
    images = find_images(arguments)
    need_output_folder(arguments.output.parent, "--output")
    cutter = Cutter.from_config(cfg)
    system = load_system(cfg, merged=False)
    require_finite_weights(system)
    bank = GrowingBank(arguments.output, ModelPrint.of(system), cutter.describe())
    merge(system)
    precision = Precision.of(cfg.TEST.PRECISION, system)
    precision.convert(system)
    reader = Reader(cfg, system, cutter, precision)
    with terminated_as_interrupted():
        added, failed = add_images(bank, reader, images)
        if not bank:
            raise ValueError(f"--input: none of {len(images)} images could be read: no bank")
        whole = bank.finish()
    logger.info(
        "%s: %d regions of %d images; %d added, %d were there, %d could not be read",
        arguments.output,
        len(whole.regions),
        len(whole.images),
        added,
        len(images) - added - failed,
        failed,
    )
    return int(failed > 0)
