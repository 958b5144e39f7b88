"""The Python interface: encode an image once, then ask for any vocabulary.

Example::

    predictor = Predictor.from_pretrained()
    predictor.set_image("photo.jpg")  # or an array, a tensor, one of Pillow's images
    prediction = predictor.predict("dog; truck; road, street; sky")
"""

from __future__ import annotations

from .runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import contextlib
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from .config import load_config
from .data.example_files import require_mask
from .data.given_images import AnyImage, AnyMask, file_name_of, mask_of, pixels_of
from .data.resizing import ResizeShortestEdge
from .load import load_model
from .prediction import Prediction
from .pretrained import SaveOptions, locate_model, push_model, save_model
from .runtime.finite import FiniteCheck, require_finite_weights
from .runtime.precision import EXACT, Precision, at_least_float32
from .score_maps import ScoreMaps, best_few
from .segmenter import Question, Segmenter
from .stages import (
    Example,
    as_seen_by,
    encode_example,
    examples_of,
    with_examples,
)
from .vocabulary import Vocabulary, load_vocabulary
from .wrapper import unwrapped

logger = logging.getLogger(__name__)

MOST_SCORES = 2**25
"""Scores of all classes that :meth:`Predictor.top` has in memory at a time: 128 MB."""

_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
"""The lock of each model; predictors of the same model share it."""
_locks_guard = threading.Lock()


@dataclass(frozen=True)
class EncodedImage:
    """What the model's ``encode`` gave, which no vocabulary changes, and (H, W) of the image."""

    encoded: Any
    size: tuple[int, int]


class Predictor:
    """Segments images with a system in evaluation mode.

    Threads may share a predictor: one of them at a time uses the model, and :meth:`set_image` sets
    the image of the calling thread alone. In thread pools and asyncio use :meth:`encode` and
    :meth:`segment` instead, which keep nothing.

    Args:
        model: the system, used as it is: adapters are not merged.
        shortest, longest: pixels that the shortest side is resized to (0: the size stays), and that
            the longest may have at most then (0: any number).
        precision: as TEST.PRECISION; the attribute is what is really used.
        config: what the model was built of, which :meth:`save_pretrained` needs.
    """

    measured = ""
    """What is known of the model's accuracy, for the card of :meth:`save_pretrained`."""

    def __init__(
        self,
        model: Segmenter,
        *,
        shortest: int = 0,
        longest: int = 0,
        precision: str = EXACT,
        config: CfgNode | None = None,
    ) -> None:
        require_finite_weights(model)
        self._precision = Precision.of(precision, model)
        self.precision = self._precision.name
        self.model, self.resize = model, ResizeShortestEdge(shortest, longest or sys.maxsize)
        with _locks_guard:
            self._lock = _locks.setdefault(model, threading.RLock())
        self._of_thread = threading.local()
        self._shown: tuple[Example, ...] = ()
        self._config = config.clone() if config is not None else None

    @classmethod
    def from_config(cls, config: str | Path | CfgNode, overrides: Sequence[str] = ()) -> Predictor:
        """Build the model of a config, or of a config file with KEY VALUE overrides, with weights.

        Raises what :func:`hyperclip.config.load_config` and :func:`hyperclip.load.load_model` do.
        """
        if isinstance(config, CfgNode) and overrides:
            given = f"overrides {list(overrides)} with a config object"
            raise ValueError(f"{given}: merge them into it first")
        cfg = config if isinstance(config, CfgNode) else load_config(config, overrides)
        sizes = {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST}
        predictor = cls(load_model(cfg), **sizes, precision=cfg.TEST.PRECISION, config=cfg)
        predictor._precision.convert(predictor.model)
        return predictor

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "",
        overrides: Sequence[str] = (),
        *,
        revision: str = "",
        sha256: str = "",
    ) -> Predictor:
        """A model of :mod:`hyperclip.zoo` by its name, of a folder, or of a repository OWNER/NAME
        on the Hugging Face hub, with KEY VALUE overrides; without a name the best of the zoo's that
        are on this machine. The log says in a line what it is.

        Args:
            revision: of a repository: branch, tag or commit.
            sha256: that the file of the weights has to have.
        Raises:
            ValueError: an unknown name, another hash. OSError: no model is on this machine, a
                folder lacks a file, or the hub is not reached.
        """
        found = locate_model(name, revision, sha256)
        logger.info("%s", found.what)
        predictor = cls.from_config(found.config, [*found.overrides, *overrides])
        predictor.measured = found.measured
        return predictor

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, this thread alone uses the model, and computes in the predictor's precision: for
        what asks ``model`` itself.
        """
        with self._lock, self._precision.computing():
            yield

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model as a folder for :meth:`from_pretrained`, in full or not at all; ``only``
        "trained" leaves out what is CLIP's own, see :class:`hyperclip.pretrained.SaveOptions`.

        Raises:
            ValueError: the predictor has no config, the folder holds something else.
            OSError: the folder cannot be written.
        """
        model = unwrapped(self.model)
        return save_model(model, self._own_config(), folder, self._save_options(options))

    def push_to_hub(
        self,
        repository: str,
        *,
        message: str = "Upload a model of hyperclip",
        private: bool = False,
        revision: str = "",
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to OWNER/NAME on the Hugging Face hub, which
        is made if there is none, as one commit; its address. ``token`` is that of ``hf auth login``
        or HF_TOKEN unless given. Raises as :meth:`save_pretrained`.
        """
        upload = {"message": message, "private": private, "revision": revision, "token": token}
        saved = self._save_options(options)
        model = unwrapped(self.model)
        return push_model(model, self._own_config(), repository, saved, **upload)

    def _save_options(self, options: dict[str, Any]) -> SaveOptions:
        return SaveOptions(**{"measured": self.measured, **options})

    def _own_config(self) -> CfgNode:
        if self._config is None:
            raise ValueError(
                "this predictor was made of a model alone, and saving needs its config: "
                "Predictor.from_config(CONFIG), or Predictor(model, config=cfg)"
            )
        return self._config

    @property
    def config(self) -> CfgNode | None:
        """A copy of what the model was built of; None if nobody said it."""
        return None if self._config is None else self._config.clone()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The class list that the config names, as that of a saved model may; None for none."""
        name = self._config.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON if self._config is not None else ""
        return load_vocabulary(name) if name else None

    def example(self, image: AnyImage, mask: AnyMask, name: str, *, words: bool = True) -> Example:
        """What the model sees of an example: an image, and a mask of its size that is not 0 where
        the class of this name is. Without ``words`` the name says nothing, "thing 7" say: its
        examples alone decide. Whether its class may win pixels from classes without examples is
        the config's TEST.EXAMPLES.TAKE.

        Raises:
            ValueError: a mask of another size or an empty one, an empty name, a system without
                embeddings of cells.
        """
        array, covered = pixels_of(image), torch.from_numpy(mask_of(mask))
        require_mask(covered, array.shape[:2], repr(name))
        system, tensor = unwrapped(self.model), self._resized(array)
        takes = self._config is None or self._config.TEST.EXAMPLES.TAKE
        with self.computing():
            return encode_example(system, tensor, covered, name, words, takes)

    def add_examples(
        self, image: AnyImage, mask: AnyMask, name: str, *, words: bool = True
    ) -> None:
        """Show what a class looks like, from now on and in all threads; see :meth:`example`. Every
        question has to ask for the class then. ValueError, too, for ``words`` unlike before.
        """
        found = self.example(image, mask, name, words=words)
        with self._lock:
            examples_of(self.model).plus([*self._shown, found])  # raises
            self._shown = (*self._shown, found)

    def clear_examples(self) -> None:
        """Forget what :meth:`add_examples` showed; those of the config stay."""
        self._shown = ()

    def set_image(self, image: AnyImage) -> None:
        """Encode an image, see :meth:`encode`, for this thread's calls of :meth:`predict`."""
        self._of_thread.image = self.encode(image)

    def predict(self, vocabulary: str | Sequence[str] | Vocabulary, **options: Any) -> Prediction:
        """Segment this thread's image, see :meth:`segment`; RuntimeError if it has set none."""
        image: EncodedImage | None = getattr(self._of_thread, "image", None)
        if image is None:
            raise RuntimeError(
                "predict: no image yet in this thread. Call set_image(image) first, in the same "
                "thread, or hand on what encode(image) returns to segment(encoded, vocabulary)"
            )
        return self.segment(image, vocabulary, **options)

    def __call__(
        self,
        images: Iterable[AnyImage],
        vocabulary: str | Sequence[str] | Vocabulary,
        *,
        batch_size: int = 4,
        **options: Any,
    ) -> Iterator[Prediction]:
        """Segment images, of any sizes, one after the other: what :meth:`encode_all` and
        :meth:`segment` give. No more images than ``batch_size`` are in memory at a time. What is
        wrong with the question is raised before the first image.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected a number from 1 on")
        question = Question.of(vocabulary, **options)
        self.check(question.vocabulary)
        return self._answers(images, question, batch_size)

    def check(self, vocabulary: Vocabulary) -> None:
        """ValueError for names that the model cannot take, and for examples of others."""
        self.model.check(vocabulary)
        examples_of(self.model).plus(self._shown).check(vocabulary)

    def _answers(
        self, images: Iterable[AnyImage], question: Question, batch_size: int
    ) -> Iterator[Prediction]:
        remaining = iter(images)
        while some := list(islice(remaining, batch_size)):
            for encoded in self.encode_all(some):
                yield self.answer(encoded, question)

    def encode(self, image: AnyImage, file_name: str = "") -> EncodedImage:
        """Compute what does not depend on the vocabulary of an image; see :func:`pixels_of`.

        Args:
            file_name: of an image that is not given as a file, for what is found by its name, such
                as files of its regions.
        """
        return self.encode_all([image], [file_name])[0]

    def encode_all(
        self, images: Sequence[AnyImage], file_names: Sequence[str] = ()
    ) -> list[EncodedImage]:
        """As :meth:`encode`, of several images, which go through the model together."""
        names = file_names or [""] * len(images)
        arrays = [pixels_of(image) for image in images]
        tensors = [self._resized(array) for array in arrays]
        sizes = [(array.shape[0], array.shape[1]) for array in arrays]
        records = [
            {"image": tensor, "height": size[0], "width": size[1], **file_name_of(image, name)}
            for tensor, size, image, name in zip(tensors, sizes, images, names, strict=True)
        ]
        with self.computing():
            encoded = self.model.encode_records(records)
        return [EncodedImage(own, size) for own, size in zip(encoded, sizes, strict=True)]

    def _resized(self, array: np.ndarray) -> Tensor:
        resized = self.resize.get_transform(array).apply_image(array)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def _asked(
        self, image: EncodedImage, vocabulary: Vocabulary, examples: Sequence[Example]
    ) -> tuple[Segmenter, Any]:
        """The model with all examples, and the image as it sees it."""
        model = with_examples(self.model, [*self._shown, *examples])
        examples_of(model).check(vocabulary)
        return model, as_seen_by(model, self.model, image.encoded)

    def segment(
        self, image: EncodedImage, vocabulary: str | Sequence[str] | Vocabulary, **options: Any
    ) -> Prediction:
        """Segment an encoded image by a vocabulary: in text ``;`` or a line end separates classes,
        ``,`` synonyms; or a list with a text for each class. The options are those of
        :meth:`Question.of`: ``background``, ``negatives``, ``threshold``, ``class_threshold``,
        ``scores``.

        Raises:
            ValueError: an empty vocabulary, duplicates, a name that is too long, options that
                contradict each other. NotFiniteError: NaN or infinity in the result.
        """
        return self.answer(image, Question.of(vocabulary, **options))

    def answer(
        self, image: EncodedImage, question: Question, examples: Sequence[Example] = ()
    ) -> Prediction:
        """Answer a question about an encoded image, with examples for this answer alone besides
        those of :meth:`add_examples`; raises as :meth:`segment`.
        """
        vocabulary = question.vocabulary
        model, encoded = self._asked(image, vocabulary, examples)
        with self.computing():
            answer = model.answer(encoded, question, image.size)
        FiniteCheck().add("the confidence", answer.confidence).require(self.model)
        labels = answer.labels.cpu().numpy()
        confidence = at_least_float32(answer.confidence).cpu().numpy()
        text = self.model.text
        asked, synonyms = (text.asked(vocabulary), text.rule(vocabulary)) if text else (None, "")
        maps = None if answer.scores is None else answer.scores.float().cpu().numpy()
        return Prediction(labels, confidence, vocabulary.names, asked, synonyms, maps)

    def scores(self, image: EncodedImage, question: Question) -> ScoreMaps:
        """The scores of all classes in an encoded image, the question's background words among
        them, behind the others; raises as :meth:`segment`.
        """
        model, encoded = self._asked(image, question.vocabulary, ())
        with self.computing(), torch.no_grad():
            return model.score(encoded, model.with_rest(question), image.size)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The config's, and those of :meth:`add_examples`."""
        return (*examples_of(self.model).examples, *self._shown)

    def top(
        self,
        image: EncodedImage,
        vocabulary: str | Sequence[str] | Vocabulary,
        k: int = 3,
        examples: Sequence[Example] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best classes of each pixel, best first and of equals the first, without any
        background: labels int32 (k, h, w) and scores float16 (k, h, w), fewer than k for as few
        classes. The best are the labels of :meth:`segment` with the background "none".

        They are of the image's size, or smaller in its proportions where the scores of all classes
        would be more than ``MOST_SCORES``. Raises as :meth:`segment`, and ValueError for k < 1.
        """
        if k < 1:
            raise ValueError(f"k: got {k}, expected 1 or more best classes")
        vocabulary = Question.of(vocabulary).vocabulary
        height, width = image.size
        scale = min(1.0, (MOST_SCORES / (len(vocabulary) * height * width)) ** 0.5)
        size = (max(1, int(height * scale)), max(1, int(width * scale)))
        model, encoded = self._asked(image, vocabulary, examples)
        with self.computing():
            answer = model.segment(encoded, Question(vocabulary, "none", scores=True), size)
        scores = answer.scores
        if scores is None:
            system = type(self.model).__name__
            raise TypeError(f"{system}.segment gave no scores, which the question asked for")
        FiniteCheck().add("the scores", scores).require(self.model)
        best, labels = best_few(scores, min(k, len(scores)))
        return labels.cpu().numpy().astype(np.int32), best.half().cpu().numpy()
