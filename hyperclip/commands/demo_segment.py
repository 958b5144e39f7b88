"""The work of the demo: each image and video in turn, with progress, and what is said of faults."""

import io
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..data import read_image
from ..prediction import Prediction
from ..predictor import Predictor
from ..results import Writer, add_to_all
from ..runtime import files, finite
from ..segmenter import Question
from ..visualization import overlay
from .demo_inputs import FRAME_RESULTS, PART, TIMES, VIDEO, Source, remark_pages
from .demo_results import (
    ClassList,
    largest_classes,
    save_labels,
    save_prediction,
    save_scores,
)
from .demo_video import Frame, VideoFile, VideoReader

logger = logging.getLogger("hyperclip.demo")

SECONDS_BETWEEN_LINES = 10.0
"""How often a line says how far a video is, where no progress bar does."""


@dataclass(frozen=True)
class Job:
    """What is done with every image and frame.

    Attributes:
        kinds: of results.
        image_bits, max_pixels: see :func:`read_image`. every: the frames that count.
    """

    predictor: Predictor
    question: Question
    output: Path
    kinds: tuple[str, ...]
    classes: ClassList
    writers: Sequence[Writer] = ()
    image_bits: int = 0
    max_pixels: int = 0
    every: int = 1

    def ask(self, image: np.ndarray, path: Path | None = None) -> Prediction:
        """The prediction of an image, uint8 RGB (H, W, 3), which was read from a file."""
        encoded = self.predictor.encode(image, str(path) if path else "")
        return self.predictor.answer(encoded, self.question)


def segment_all(job: Job, sources: Sequence[Source]) -> int:
    """Write the results of all sources, one after the other; how many of them failed. When
    somebody interrupts, a line says how much is done.
    """
    failed = done = 0
    try:
        with progress_bar(len(sources), "file") as bar:
            for source in sources:
                succeeded = (segment_video if source.is_video else segment_image)(job, source)
                failed, done = failed + (not succeeded), done + 1
                bar.update()
    except KeyboardInterrupt:
        what = f"{done} of {len(sources)} are done, and no file is half-written"
        logger.warning("Interrupted: %s; the same command with --resume goes on from there", what)
        raise
    return failed


@contextmanager
def progress_bar(total: int | None, unit: str) -> Iterator[tqdm]:
    """A progress bar with the time that is left, below the log's lines; none off a terminal."""
    with ExitStack() as stack:
        shown = sys.stderr.isatty()
        if shown:
            loggers = [logging.getLogger("hyperclip")]
            stack.enter_context(logging_redirect_tqdm(loggers))
        options = {"disable": not shown, "dynamic_ncols": True, "leave": False}
        yield stack.enter_context(tqdm(total=total, unit=f" {unit}", **options))


def segment_image(job: Job, source: Source) -> bool:
    """Write the results of an image; False, and a line, if it failed."""
    start = time.perf_counter()
    path, name = source.path, source.name
    try:
        image = read_image(path, image_bits=job.image_bits, max_pixels=job.max_pixels)
        remark_pages(path)
    except (OSError, ValueError) as error:
        logger.error("%s: skipped: %s", path, error)
        return False
    try:
        prediction = job.ask(image, path)
        save_prediction(job.output, name, image, prediction, job.kinds)
        add_to_all(job.writers, name, source.relative.as_posix(), prediction.answer)
    # of this image, as broken weights were refused above, or of the length of its name, say
    except (finite.NotFiniteError, OSError) as error:
        logger.error("%s: skipped: %s", path, error)
        return False
    job.classes.add(name, prediction.labels)
    seconds = time.perf_counter() - start
    logger.info("%s: %s (%.1f s)", path, largest_classes(prediction), seconds)
    return True


def segment_video(job: Job, source: Source) -> bool:
    """Write the results of a video, or of a webcam until somebody interrupts; False, and a line,
    if it failed or not all of its frames can be read.
    """
    try:
        reader = VideoReader(source.origin)
    except ValueError as error:
        logger.error("%s: skipped: %s", source.path, error)
        return False
    with closing(reader):
        try:
            count = _segment_frames(job, source, reader)
        except (finite.NotFiniteError, OSError) as error:
            logger.error("%s: not finished: %s", source.path, error)
            return False
        fault = reader.fault()
    if count:
        logger.info("%s: %d frames segmented", source.path, count)
    if fault:
        logger.error("%s: %s", source.path, fault)
    return not fault


def _segment_frames(job: Job, source: Source, reader: VideoReader) -> int:
    """Write the results of all frames; how many there are."""
    total, times, count = -(-reader.announced // job.every) or None, io.StringIO(), 0
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(total, "frame"))
        video = None
        if "overlay" in job.kinds:
            target, part = (job.output / name.format(source.name) for name in (VIDEO, PART))
            video = stack.enter_context(VideoFile(target, part, reader.rate / job.every))
        told = time.monotonic()
        try:
            for frame in reader.frames(job.every):
                _segment_frame(job, source, frame, video)
                times.write(f"{frame.number},{frame.seconds:.3f}\n")
                count += 1
                bar.update()
                if bar.disable and time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    logger.info("%s: %d of %s frames", source.path, count, total or "?")
        except KeyboardInterrupt:  # which is how a recording ends
            if source.camera is None:
                raise
    if count:
        table = f"frame,seconds\n{times.getvalue()}"
        files.write_text(job.output / TIMES.format(source.name), table)
    return count


def _segment_frame(job: Job, source: Source, frame: Frame, video: VideoFile | None) -> None:
    prediction = job.ask(frame.image)
    labels, names = prediction.labels, prediction.names
    targets = {
        kind: job.output / FRAME_RESULTS[kind].format(source.name, frame.number)
        for kind in job.kinds
        if kind in FRAME_RESULTS
    }
    if "labels" in targets:
        save_labels(targets["labels"], labels, len(names), steady=True)
    if "scores" in targets:
        save_scores(targets["scores"], prediction)
    if video is not None:
        video.add(overlay(frame.image, labels, names, steady=True), frame.seconds)
