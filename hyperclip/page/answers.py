"""From a visitor's image and words to an answer, and what is kept of both for a while.

Shapes: T classes, H W image, k best classes, h w grid of their scores.
"""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import secrets
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..analysis.inside import fused_attention
from ..data import read_image
from ..prediction import Prediction
from ..runtime.recent import Recent
from ..visualization import map_palette
from ..vocabulary import Vocabulary
from .background import Background
from .examples import Shown, VisitorsExamples
from .systems import Systems

ANSWER_BYTES = 2**29
"""Bytes of the answers that are kept."""
MOST_NAMES = 10_000


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload: so many pixels, so many bytes; the system's INPUT.MAX_PIXELS holds
    where it is lower.
    """

    pixels: int
    bytes: int

    def check(self, path: str, system_pixels: int = 0) -> None:
        """ValueError for a file that is larger, as far as its first bytes tell without decoding."""
        name, size = Path(path).name, Path(path).stat().st_size
        if size > self.bytes:
            got = f"got {size / 2**20:.1f} MB, expected at most {self.bytes / 2**20:.0f}"
            raise ValueError(f"image {name!r}: {got}. Save it smaller, or more compressed")
        most = min(self.pixels, system_pixels or self.pixels)
        width, height = _stored_size(path)
        if width * height > most:
            got = f"got {width} x {height} = {width * height / 1e6:.1f} megapixels"
            expected = f"expected at most {most / 1e6:g}"
            raise ValueError(f"image {name!r}: {got}, {expected}. Scale it down")


def _stored_size(path: str) -> tuple[int, int]:
    """Width and height; 0 of what Pillow cannot open, which :func:`read_image` explains."""
    try:
        with Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {Path(path).name!r}: {error}. Scale it down") from error
    except Exception:  # decoders raise whatever a damaged file makes them trip over
        return 0, 0


@dataclass(frozen=True)
class Request:
    """What is asked: a system's name, an uploaded file, classes as typed, the background, and what
    the visitor shows of classes.
    """

    system: str
    file: str
    classes: str
    background: Background = field(default_factory=Background)
    examples: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class BestClasses:
    """The best classes of each cell of a grid over an image, best first: labels int32 (k, h, w)
    into the ``names``, the words of the background last, and scores float16 (k, h, w).
    """

    labels: np.ndarray
    scores: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Answer:
    """An answer, and all that showing it takes: image uint8 RGB (H, W, 3)."""

    request: Request
    image: np.ndarray
    vocabulary: Vocabulary
    prediction: Prediction
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @cached_property
    def colors(self) -> np.ndarray:
        """The colour of every class in the overlay, uint8 RGB (T, 3)."""
        return map_palette(self.prediction.labels, len(self.vocabulary))

    @property
    def nbytes(self) -> int:
        """Bytes that its arrays take."""
        prediction = self.prediction
        return self.image.nbytes + prediction.labels.nbytes + prediction.confidence.nbytes

    def check_pixel(self, column: int, row: int) -> None:
        """ValueError for a pixel outside the image."""
        height, width = self.prediction.labels.shape
        if not (0 <= column < width and 0 <= row < height):
            got = f"got column {column}, row {row}"
            raise ValueError(f"Pixel: {got}, expected 0 to {width - 1} and 0 to {height - 1}")


class Answers:
    """Answers visitors, one image at a time, so that memory does not grow with their number.

    The last answers are kept by their tokens, up to ``ANSWER_BYTES``.
    """

    def __init__(self, systems: Systems, limits: Limits) -> None:
        self.systems, self.limits = systems, limits
        self._answers: Recent[str, Answer] = Recent(ANSWER_BYTES)
        self._best: Recent[str, BestClasses] = Recent(ANSWER_BYTES)
        self._one_at_a_time = threading.Lock()
        self.shown = VisitorsExamples()

    def check_image(self, system: str, file: str) -> None:
        """ValueError for an image that is too large for a system here."""
        self.limits.check(file, self.systems.config(system).INPUT.MAX_PIXELS)

    def ask(self, request: Request) -> Answer:
        """The answer, which is kept; OSError, ValueError or ImportError for whatever the visitor,
        or who started the program, can mend.
        """
        question = request.background.question(request.classes)
        vocabulary = question.vocabulary
        if len(vocabulary) > MOST_NAMES:
            got = f"got {len(vocabulary)} classes, expected at most {MOST_NAMES}"
            raise ValueError(f"Classes: {got}. Ask for fewer at a time")
        self.check_image(request.system, request.file)
        with self._one_at_a_time:
            image = self._read(request)
            model = self.systems.model(request.system)
            encoded = model.encode(request.file, image)
            examples = model.examples(request.examples)
            prediction = model.predictor.answer(encoded, question, examples)
        labels = prediction.labels.astype(np.int32)
        answer = Answer(request, image, vocabulary, replace(prediction, labels=labels))
        self._answers.put(answer.token, answer, answer.nbytes)
        return answer

    def find(self, token: str) -> Answer:
        """The answer of a token; ValueError if it is not kept any more."""
        answer = self._answers.get(token)
        if answer is None:
            raise ValueError("This answer is no longer kept. Press Segment again")
        return answer

    def forget(self, token: str) -> None:
        """Drop an answer, as its visitor has gone."""
        self._answers.drop(token)
        self._best.drop(token)

    def best(self, token: str, k: int = 3) -> BestClasses:
        """The k best classes of each pixel of an answer; ValueError and OSError as :meth:`find` and
        :meth:`ask`. They are computed when first asked for, and kept with the answer.
        """
        answer, best = self.find(token), self._best.get(token)
        if best is not None:
            return best
        with self._one_at_a_time:
            model = self.systems.model(answer.request.system)
            encoded = model.encode(answer.request.file, answer.image)
            asked = answer.vocabulary.with_background_prompts()
            examples = model.examples(answer.request.examples)
            labels, scores = model.predictor.top(encoded, asked, k, examples)
        best = BestClasses(labels, scores, asked.names)
        self._best.put(token, best, labels.nbytes + scores.nbytes)
        return best

    def attention(self, token: str, point: tuple[int, int]) -> np.ndarray:
        """How much the patch at a pixel (column, row) of an answer takes of every patch, in
        CLIPer's fused map: float32 (h, w). ValueError for a pixel outside the image, for a system
        without such a map, and as :meth:`best`.
        """
        answer = self.find(token)
        answer.check_pixel(*point)
        with self._one_at_a_time:
            model = self.systems.model(answer.request.system)
            encoded = model.encode(answer.request.file, answer.image)
            with model.predictor.computing():
                size = answer.prediction.labels.shape
                found = fused_attention(model.predictor.model, encoded.encoded, point, size)
        return found.float().cpu().numpy()

    def show(self, visitor: str, system: str, name: str, image: str, mask: str) -> int:
        """Keep an example of a class, two uploaded files; how many the visitor has. ValueError and
        OSError as :meth:`check_image` and :meth:`VisitorsExamples.add`.
        """
        for file in (image, mask):
            self.check_image(system, file)
        pixels = self._read(Request(system, image, ""))
        return len(self.shown.add(visitor, name, pixels, mask))

    def _read(self, request: Request) -> np.ndarray:
        keys = self.systems.config(request.system).INPUT
        return read_image(request.file, image_bits=keys.IMAGE_BITS, max_pixels=keys.MAX_PIXELS)
