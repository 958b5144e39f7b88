"""Segment an image of any size, in bounded memory, by windows of a fixed lattice.

A pixel's scores are the mean of those of the four windows of :mod:`.lattice` that cover it, by
their weights, whatever part of the image is asked and however much is in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..predictor import Predictor
from ..results import pixels_by_name
from ..runtime.files import user_path
from ..runtime.weighing import kept_bytes
from ..segmenter import Question, Segmenter
from ..stages import Regions, Staged
from ..stages.model_print import probe_picture
from ..stages.regions import RecordProposer
from ..vocabulary import Vocabulary
from ..wrapper import unwrapped
from .output import kind_of, write_labels, write_polygons
from .pieces import Pieces
from .request import Request, describe
from .task import Progress, Task

logger = logging.getLogger("hyperclip.large")

SCORES_KEPT = 2**29
"""Bytes of windows' scores that strips of the default width keep in memory."""
WIDEST = 4096
"""Pixels of the widest strip, by default."""


@dataclass(frozen=True)
class Areas:
    """How many pixels each class has, by name, none of them has, and are without data."""

    classes: dict[str, int]
    no_class: int
    no_data: int


def segment_file(
    predictor: Predictor,
    input: str | Path,
    output: str | Path,
    vocabulary: str | Sequence[str] | Vocabulary | Question,
    *,
    progress: Progress | None = None,
    polygons: str | Path | None = None,
    **options: Any,
) -> Areas:
    """Write the labels of an image of any size as a GeoTIFF. What an earlier call of the same
    settings has done is not done again.

    Args:
        vocabulary: as :meth:`Predictor.segment` takes it, or a question.
        options: the others of :class:`Request`.
    Raises:
        ValueError: settings that do not fit the image, the model or an earlier call's. OSError: a
            file that is missing or cannot be written. NotFiniteError: NaN in the scores.
    """
    question = vocabulary if isinstance(vocabulary, Question) else Question.of(vocabulary)
    outlines = user_path(polygons) if polygons else None
    request = Request(user_path(input), user_path(output), outlines, **options)
    return segment_request(predictor, request, question, progress)


def segment_request(
    predictor: Predictor, request: Request, question: Question, progress: Progress | None = None
) -> Areas:
    """:func:`segment_file` of a request."""
    check_model(predictor, question)
    names = question.vocabulary.names
    with request.open(len(names)) as (raster, box):
        logger.info("%s", raster.remark)
        lattice = raster.lattice(request.window or window_of(predictor.model))
        width = request.tile or default_tile(predictor, question, lattice.window)
        task = Task(predictor, question, raster, lattice, box, max(1, width // lattice.stride))
        settings = {**describe(request, predictor, question), **task.settings}
        pieces = Pieces(request.output, settings, request.restart)
        task.run(pieces, request.batch, progress)
        boxes = [piece.box for piece in task.pieces()]
        counts = write_labels(request.output, raster, box, names, boxes, pieces)
    if request.polygons:
        logger.info("%s", write_polygons(request.polygons, request.output, names))
    pieces.remove()
    _, none, no_data = kind_of(len(names))
    areas = pixels_by_name(names, counts[: len(names)].tolist())
    return Areas(areas, int(counts[none]), int(counts[no_data]))


def check_model(predictor: Predictor, question: Question) -> None:
    """ValueError for names that the model cannot take, and for what needs the whole image."""
    if question.class_threshold is not None:
        raise ValueError(
            "class threshold: it asks for a class's best pixel in the whole image, which is not in "
            "memory at once. Use a threshold of pixels"
        )
    model = predictor.model
    for stage in model.each_stage() if isinstance(model, Staged) else ():
        if isinstance(stage, Regions) and isinstance(stage.proposer, RecordProposer):
            raise ValueError(
                f"TEST.REGIONS.NAME: got {stage.name!r}, whose files are of whole images, expected "
                "regions that are found in each window, or none"
            )
    predictor.check(question.vocabulary)


def window_of(model: Segmenter) -> int:
    """The default window: twice the side that CLIP sees; ValueError for a model that does not say
    what that is.
    """
    system = unwrapped(model)
    size = getattr(system, "resolution", None)
    if size is None:
        visual = getattr(getattr(system, "clip", None), "visual", None)
        size = getattr(visual, "image_size", None)
    if size is None:
        name = type(system).__name__
        raise ValueError(f"window: {name} does not say what size it sees; give --window PIXELS")
    return 2 * int(np.max(size))


def default_tile(predictor: Predictor, question: Question, window: int) -> int:
    """A width for which two rows of windows, as a test picture has them, fit ``SCORES_KEPT``."""
    picture = probe_picture().permute(1, 2, 0).numpy()
    repeats = (-(-window // picture.shape[0]), -(-window // picture.shape[1]), 1)
    whole = np.ascontiguousarray(np.tile(picture, repeats)[:window, :window])
    size = max(1, kept_bytes(predictor.scores(predictor.encode(whole), question)))
    cells = max(1, SCORES_KEPT // (2 * size) - 1)
    return min(max(WIDEST, window), cells * (window // 2))
