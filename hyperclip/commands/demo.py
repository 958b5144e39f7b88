"""Segment images with classes of your own choice.

    hyperclip-demo --input photos/ --output out --vocabulary "dog; truck; road, street; sky"
    hyperclip-demo --config-file configs/vitb_384_hyperbolic.yaml --input photos/ --output out \\
        --vocabulary "dog; truck; road, street; sky" --opts MODEL.WEIGHTS model_final.pth

Without --config-file the best model of which everything is on this machine is taken, and a line
says which. For each image two files are written: NAME.png, the overlay with a legend, and
NAME_labels.png, the class index of every pixel in the overlay's colours (255: no class, or below
--threshold); --save chooses among these and NAME_scores.npz. Results of an image in a folder within
the input (--recursive, photos/*/*.jpg) are in the folder of that name. A video gives NAME.mp4, and
NAME_labels/ of its frames. classes.json lists the classes, the names that were asked, and their
colours. These repeat after 155 classes; where two of the same colour meet in an image, one gets
another there, which classes.json notes under "recolored". In --vocabulary ";" or a line end
separates classes, "," synonyms; it may also be the name of a .txt file of such text or of a .json
class file. Files of a folder that are no images are named and left out. Images that cannot be read
or segmented are reported, the others are done, and the exit status is 1. --resume goes on with what
was interrupted. --format writes the answers for other programs, too: coco.json and panoptic.json
with panoptic/NAME.png, labelme/NAME.json, table.csv and more: see docs/results.md; docs/demo.md has
examples. --examples shows what classes look like, see docs/stages.md.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.logger import setup_logger

from .. import zoo
from ..config.keys import load_config
from ..data import dataset_file, vocabulary_of
from ..load import check_system, find_examples
from ..predictor import Predictor
from ..results import WRITERS, Writer, build_writers, close_all
from ..runtime import files, memory, program
from ..segmenter import BACKGROUNDS, Question
from ..vocabulary import Vocabulary, load_vocabulary
from . import register_systems
from .demo_inputs import IMAGE_RESULTS, Source, find_inputs, name_results, webcam
from .demo_results import ClassList, check_scores, chosen_kinds
from .demo_run import describe_run, note_start, still_to_do
from .demo_segment import Job, segment_all
from .demo_video import VideoReader, quiet_library

logger = logging.getLogger("hyperclip.demo")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="default: the best model on this machine")
    inputs = parser.add_mutually_exclusive_group(required=True)
    where = "images, videos, folders, glob patterns, or - for a list of files on standard input"
    inputs.add_argument("--input", nargs="+", help=where)
    inputs.add_argument("--webcam", type=int, metavar="NUMBER", help="0 for the first camera")
    add("--recursive", action="store_true", help="take folders within folders, too")
    add("--output", required=True, type=files.user_path, help="folder of the results")
    add("--vocabulary", help="'name, synonym; name; …', or a file of names; default: the config's")
    rest = "'name; name; …': what is none of the classes, asked and left unpainted"
    add("--negatives", default="", help=rest)
    rules = "which pixels belong to no class, see docs/background.md; default: the system's own"
    add("--background", default="", choices=BACKGROUNDS, help=rules)
    shown = "folder of NAME/IMAGE.jpg with NAME/IMAGE_mask.png: what classes look like"
    add("--examples", default="", metavar="FOLDER", help=shown)
    below = "leave pixels below this score unpainted, 0 to 1 (CLIPer: to 2)"
    add("--threshold", type=float, default=0.0, help=below)
    kinds = f"results of each image, joined by commas: {', '.join(IMAGE_RESULTS)}"
    add("--save", default="overlay,labels", metavar="RESULTS", help=kinds)
    add("--every", type=int, default=1, metavar="N", help="of a video take each N-th frame")
    add("--resume", action="store_true", help="go on with an earlier run of the same settings")
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


def choose_question(cfg: CfgNode, arguments: argparse.Namespace) -> Question:
    """What the command line asks; ValueError for classes, negatives, a background and a threshold
    that do not go together.
    """
    return Question.of(
        choose_vocabulary(cfg, arguments),
        background=arguments.background,
        negatives=arguments.negatives,
        threshold=arguments.threshold or None,
        scores="scores" in arguments.save,
    )


def choose_vocabulary(cfg: CfgNode, arguments: argparse.Namespace) -> Vocabulary:
    """The classes of the command line, or TEST_CLASS_JSON's, or those of the first test set;
    ValueError for no class, a name that is there twice, or negatives without classes.
    """
    if arguments.vocabulary is not None:
        if Path(arguments.vocabulary).suffix.lower() not in (".txt", ".json"):
            return Vocabulary.from_text(arguments.vocabulary)
        return load_vocabulary(arguments.vocabulary)
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


def find_sources(arguments: argparse.Namespace) -> list[Source]:
    """The images and videos of the command line, or its webcam, with names; raises what
    :func:`find_inputs` and :func:`name_results` do, and ValueError for a camera that is not there
    and options that do not go together.
    """
    if arguments.webcam is not None:
        if arguments.resume:
            raise ValueError("--resume: got --webcam, which nothing can go on with; leave one out")
        sources = [webcam(arguments.webcam)]
        VideoReader(arguments.webcam).close()
    else:
        found = find_inputs(arguments.input, arguments.recursive, arguments.output)
        sources = name_results(found, arguments.output, arguments.save)
    check_formats(arguments, sources)
    return sources


def check_formats(arguments: argparse.Namespace, sources: Sequence[Source]) -> None:
    """ValueError where ``--format`` does not go with the sources."""
    formats = [name.strip() for name in arguments.format.split(",")]
    if not any(formats):
        if not arguments.save:
            raise ValueError(f"--save: got nothing, expected some of {list(IMAGE_RESULTS)}")
        return
    for source in sources:
        if source.is_video:
            what = f"got {arguments.format} with the video {source.path}"
            raise ValueError(f"--format: {what}, expected images alone; use --save labels")
        folder = source.name.partition("/")[0]
        if "/" in source.name and folder in formats:
            what = f"results of {source.path} would go among those of --format {folder}"
            raise ValueError(f"--input: {what}. Rename its folder, or leave the format out")


def main(argv: Sequence[str] | None = None) -> int:
    """Segment what the command line names; 1 if anything could not be read, segmented or
    written.
    """
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    memory.keep_freed_memory()
    quiet_library()
    cfg = chosen_config(arguments)
    if arguments.examples:
        cfg.TEST.EXAMPLES.FOLDER = arguments.examples
    find_examples(cfg)
    check_system(cfg)
    check_threshold(cfg, arguments.threshold)
    if arguments.every < 1:
        raise ValueError(f"--every: got {arguments.every}, expected a whole number from 1 on")
    arguments.save = chosen_kinds(arguments.save)
    question = choose_question(cfg, arguments)
    sources = find_sources(arguments)
    if question.scores:
        check_scores(sources, len(question.vocabulary))
    description = describe_run(cfg, question, arguments)
    writers = build_writers(
        arguments.format,
        arguments.output,
        question.vocabulary.names,
        instances=arguments.instances,
        smallest=arguments.smallest,
        settings=description,
        resume=arguments.resume,
    )
    files.need_output_folder(arguments.output, "--output")
    with program.terminated_as_interrupted():
        failed = run(cfg, question, description, sources, writers, arguments)
    if failed:
        count = f"{failed} of {len(sources)} files"
        logger.error("%s could not be read in full or their results not be written", count)
    return int(failed > 0)


def run(
    cfg: CfgNode,
    question: Question,
    description: dict[str, Any],
    sources: list[Source],
    writers: Sequence[Writer],
    arguments: argparse.Namespace,
) -> int:
    """Segment the sources, or with ``--resume`` those that are not done; how many failed."""
    output, count = arguments.output, len(sources)
    if arguments.resume:
        sources = still_to_do(output, description, sources, arguments.save, writers)
        logger.info("--resume: %d of %d are done", count - len(sources), count)
    if not sources:
        close_all(writers)
        return 0
    predictor = Predictor.from_config(cfg)
    predictor.check(question.vocabulary)
    file = output / "classes.json"
    text = predictor.model.text
    classes = ClassList(file, question.vocabulary, text, arguments.resume)
    note_start(output, description, arguments.resume)
    job = Job(
        predictor=predictor,
        question=question,
        output=output,
        kinds=arguments.save,
        classes=classes,
        writers=writers,
        image_bits=cfg.INPUT.IMAGE_BITS,
        max_pixels=cfg.INPUT.MAX_PIXELS,
        every=arguments.every,
    )
    try:
        return segment_all(job, sources)
    finally:  # of what was done when somebody interrupts, too
        close_all(writers)
