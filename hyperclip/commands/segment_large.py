"""Segment an image of any size, such as a GeoTIFF, with classes of your own choice.

    hyperclip-segment-large --input big.tif --output labels.tif --vocabulary "roof; road; tree"

TIFF files are read and written by windows, in bounded memory; other formats are decoded as a whole.
What the model sees at a time are windows of --window pixels that overlap by half and are fixed in
the world, so the labels do not depend on --extent or --tile. The output is a GeoTIFF of class
indices with the input's coordinates: 254 where no class is, 255 where the input has no data (65534
and 65535 of more than 254 classes). Its tag NAMES lists the classes. --polygons writes their
outlines, too. After an interruption the same command goes on from what is in OUTPUT.parts.
docs/large_images.md has more.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ..large import Areas, Request, segment_request
from ..load import check_system
from ..predictor import Predictor
from ..runtime import files, program
from ..segmenter import BACKGROUNDS, Question
from . import register_systems
from .demo import check_threshold, choose_vocabulary, chosen_config
from .demo_segment import SECONDS_BETWEEN_LINES, progress_bar

logger = logging.getLogger("hyperclip.large")

SHOWN = 10
"""So many classes are shown at the end, the largest ones."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="default: the best model on this machine")
    add("--input", required=True, type=files.user_path, metavar="FILE", help="the image")
    add("--output", required=True, type=files.user_path, metavar="FILE.tif", help="the labels")
    outlines = "also write the classes' outlines, in degrees where the image is a map"
    add("--polygons", type=files.user_path, metavar="FILE.geojson", help=outlines)
    add("--vocabulary", help="'name, synonym; name; …', or a file of names; default: the config's")
    rest = "'name; name; …': what is none of the classes"
    add("--negatives", default="", help=rest)
    rules = "which pixels belong to no class, see docs/background.md; default: the system's own"
    add("--background", default="", choices=BACKGROUNDS, help=rules)
    add("--threshold", type=float, default=0.0, help="pixels below this score get no class")
    add("--bands", default="", metavar="R,G,B", help="from 1 on; default: the file's, or 1,2,3")
    limits = "values that become black and white, for files of other than 8 bits"
    add("--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=limits)
    edges = ("LEFT", "TOP", "RIGHT", "BOTTOM")
    add("--extent", type=int, nargs=4, metavar=edges, help="the part that is wanted, in pixels")
    seen = "side of what the model sees at a time (default: twice what its CLIP takes)"
    add("--window", type=int, default=0, metavar="PIXELS", help=seen)
    width = "width that is computed at a time: a matter of memory, not of the labels"
    add("--tile", type=int, default=0, metavar="PIXELS", help=width)
    together = "windows that go through the model together (default: %(default)s)"
    add("--batch", type=int, default=4, metavar="N", help=together)
    add("--restart", action="store_true", help="start anew, and overwrite the output")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def request_of(arguments: argparse.Namespace, cfg: CfgNode) -> Request:
    """What is asked for; ValueError for numbers that cannot be."""
    try:
        bands = tuple(int(band) for band in arguments.bands.split(",") if band.strip())
    except ValueError:
        got = f"got {arguments.bands!r}"
        raise ValueError(f"--bands: {got}, expected numbers, such as 3,2,1") from None
    return Request(
        arguments.input,
        arguments.output,
        arguments.polygons,
        bands=bands,
        value_range=tuple(arguments.value_range) if arguments.value_range else None,
        extent=tuple(arguments.extent) if arguments.extent else None,
        window=arguments.window,
        tile=arguments.tile,
        batch=arguments.batch,
        restart=arguments.restart,
        image_bits=cfg.INPUT.IMAGE_BITS,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )


@contextmanager
def progress_of(what: object) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, or a line now and then off a terminal."""
    with progress_bar(None, "cell") as bar:
        told = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal told
            bar.total = total
            bar.update(done - bar.n)
            if bar.disable and time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                logger.info("%s: %d of %d cells", what, done, total)

        yield show


def summary(areas: Areas) -> str:
    """The largest classes with their shares, and what has none."""
    pixels = [*areas.classes.items(), ("(no class)", areas.no_class), ("(no data)", areas.no_data)]
    total = max(1, sum(count for _, count in pixels))
    largest = sorted((item for item in pixels if item[1]), key=lambda item: -item[1])
    shown = [f"{name} {count / total:.1%}" for name, count in largest[:SHOWN]]
    return ", ".join([*shown, *(["…"] if len(largest) > SHOWN else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Segment the image that the command line names."""
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    cfg = chosen_config(arguments)
    check_system(cfg)
    check_threshold(cfg, arguments.threshold)
    question = Question.of(
        choose_vocabulary(cfg, arguments),
        background=arguments.background,
        negatives=arguments.negatives,
        threshold=arguments.threshold or None,
    )
    request = request_of(arguments, cfg)
    with request.open(len(question.vocabulary)):
        pass  # what can be wrong with it is known before the model is there
    predictor = Predictor.from_config(cfg)
    with program.terminated_as_interrupted(), progress_of(request.input) as progress:
        try:
            areas = segment_request(predictor, request, question, progress)
        except KeyboardInterrupt:
            logger.warning("Interrupted: the same command goes on from there")
            raise
    logger.info("%s: %s", request.output, summary(areas))
    return 0
