"""From requests to answers: what is kept of images and words, and how a batch is answered."""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import hashlib
import logging
import re
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..predictor import EncodedImage, Predictor
from ..runtime import memory
from ..runtime.finite import NotFiniteError
from ..runtime.program import one_line
from ..runtime.recent import Recent
from ..runtime.weighing import kept_bytes
from ..segmenter import Question, Segmenter
from .batches import Batches
from .fields import Fields
from .limits import Limits, Refusal
from .metrics import Metrics
from .outputs import Output, output_of
from .uploads import check_upload, decode_upload

logger = logging.getLogger("hyperclip.serve")


@dataclass(frozen=True)
class Sizes:
    """How much is kept and how many are answered together.

    Attributes:
        image_bytes: of encoded images; the last one is kept whatever its size.
        vocabularies: questions, and their embeddings in the model. batch: requests of a batch.
    Raises:
        ValueError: one below 1.
    """

    image_bytes: int = 2**30
    vocabularies: int = 32
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"sizes: {name}: got {value}, expected a whole number from 1 on")


@dataclass(frozen=True)
class Task:
    """A request that is ready to be answered: the image is encoded, or its file is here."""

    fields: Fields
    question: Question
    image_hash: str
    encoded: EncodedImage | None = None


class Service:
    """Answers requests of a predictor's model; threads may share it.

    Args:
        image_bits: see :func:`hyperclip.data.read_image`.
    """

    def __init__(
        self, predictor: Predictor, limits: Limits, sizes: Sizes, image_bits: int = 0
    ) -> None:
        self.predictor, self.limits, self.image_bits = predictor, limits, image_bits
        self.metrics = Metrics()
        self._images: Recent[str, EncodedImage] = Recent(sizes.image_bytes)
        self._questions: Recent[Hashable, Question] = Recent(sizes.vocabularies)
        keep_embeddings(predictor.model, sizes.vocabularies)
        self.batches: Batches[Task, Output] = Batches(self._answer, sizes.batch)
        gauge = self.metrics.gauge
        gauge("waiting_requests", lambda: len(self.batches), "requests that wait for the model")
        gauge("cached_images", lambda: len(self._images), "encoded images in the cache")
        gauge("cached_image_bytes", lambda: self._images.weight, "bytes of these")
        gauge("cpu_seconds", time.process_time, "of all threads since the process began")
        gauge("resident_bytes", memory.resident_bytes, "memory of the process")

    def submit(self, fields: Fields) -> Future[Output]:
        """The future answer; Refusal for what is wrong with a request, as far as its words and the
        first bytes of its image tell.
        """
        question = self._question(fields)
        name = fields.image_hash
        if fields.image is not None:
            name = hashlib.sha256(fields.image).hexdigest()
        elif not re.fullmatch("[0-9a-f]{64}", name):
            expected = "expected the 64 hexadecimal digits of a file's SHA-256"
            raise Refusal("bad_request", f"image_hash: got {name[:80]!r}, {expected}")
        encoded = self._images.get(name)
        self.metrics.looked_up("images", encoded is not None)
        if encoded is None:
            if fields.image is None:
                how = "it left the cache, or was never sent. Send the image itself"
                raise Refusal("unknown_image", f"image_hash: {name} is not here: {how}")
            check_upload(fields.image, self.limits)
        else:
            fields = replace(fields, image=None)  # whose bytes need not wait with it
        return self.batches.submit(question, Task(fields, question, name, encoded))

    def close(self) -> None:
        """End, after what is being answered."""
        self.batches.close()

    def _question(self, fields: Fields) -> Question:
        """The question of a request, which is kept; Refusal if the model cannot be asked it."""
        words = (fields.vocabulary, fields.negatives, fields.background)
        key = (*words, fields.threshold, fields.class_threshold)
        question = self._questions.get(key)
        self.metrics.looked_up("vocabularies", question is not None)
        if question is not None:
            return question
        text = fields.vocabulary
        try:
            question = Question.of(
                text if isinstance(text, str) else list(text),
                background=fields.background,
                negatives=fields.negatives,
                threshold=fields.threshold,
                class_threshold=fields.class_threshold,
            )
            vocabulary = question.vocabulary
            names = [name for synonyms in vocabulary.classes for name in synonyms]
            self.limits.check_names([*names, *vocabulary.background])
            self.predictor.check(vocabulary)
        except ValueError as error:
            raise Refusal("bad_request", one_line(error)) from error
        self._questions.put(key, question)
        return question

    def _answer(self, tasks: list[Task]) -> Sequence[Output | Exception]:
        """The answers to a batch, or why there is none, each for itself."""
        self.metrics.observe("batch_size", len(tasks))
        encoded = self._encode(tasks)
        return [kept(partial(self._output, task, encoded[task.image_hash])) for task in tasks]

    def _output(self, task: Task, encoded: EncodedImage | Exception) -> Output:
        if isinstance(encoded, Exception):
            raise encoded
        prediction = self.predictor.answer(encoded, task.question)
        return output_of(prediction, task.question.vocabulary, task.fields, task.image_hash)

    def _encode(self, tasks: Sequence[Task]) -> dict[str, EncodedImage | Exception]:
        """What the model sees in each image, by its hash: those that are new go through it
        together, and one after the other where that fails.
        """
        known: dict[str, Any] = {}
        for task in tasks:
            name, file = task.image_hash, task.fields.image
            if name in known:
                continue
            found: Any = task.encoded or self._images.get(name)
            if found is None and file is not None:
                found = kept(partial(decode_upload, file, self.limits, self.image_bits))
            known[name] = found
        new = {n: v for n, v in known.items() if not isinstance(v, EncodedImage | Exception)}
        together = kept(partial(self.predictor.encode_all, list(new.values()))) if new else []
        if isinstance(together, Exception):
            together = [kept(partial(self.predictor.encode, pixels)) for pixels in new.values()]
        for name, own in zip(new, together, strict=True):
            known[name] = own
            if isinstance(own, EncodedImage):
                height, width = own.size
                self._images.put(name, own, max(kept_bytes(own), 3 * height * width))
        return known


def kept(function: Callable[[], Any]) -> Any:
    """What a function gives, or why it gives nothing: a Refusal where somebody can mend it."""
    try:
        return function()
    except Refusal as refusal:
        return refusal
    except NotFiniteError as error:
        return Refusal("internal", one_line(error))
    except (MemoryError, torch.OutOfMemoryError):
        how = "Send a smaller image, or fewer names"
        return Refusal("memory", f"the memory of the server does not hold the answer. {how}")
    except ValueError as error:
        return Refusal("bad_request", one_line(error))
    except Exception as error:  # a bug, which must not end the server
        logger.exception("a request failed")
        return error


def keep_embeddings(model: Segmenter, vocabularies: int) -> None:
    """Have all systems within a model keep the embeddings of so many vocabularies."""
    for module in model.modules():
        text = module.text if isinstance(module, Segmenter) else None
        if text is not None:
            text.capacity = vocabularies
