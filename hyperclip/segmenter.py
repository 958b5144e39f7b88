"""The contract of every system: encode images without words, then answer questions about them.

    encoded = system.encode([image])[0]
    answer = system.segment(encoded, Question(Vocabulary.from_text("dog; road")), (480, 640))

A system is an ``nn.Module`` that inherits :class:`Segmenter` and is registered in Detectron2's
``META_ARCH_REGISTRY``; docs/new_system.md has a worked example. Nothing that was asked stays behind
on it. Shapes: T classes, S names, H W image.
"""

import abc
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .clip.embedder import TextEmbedder
from .labels import NO_CLASS
from .normalization import CLIP_MEAN, CLIP_STD
from .score_maps import GridMaps, ScoreMaps
from .vocabulary import Vocabulary
from .vocabulary.names import split_words

BACKGROUNDS = ("own", "none", "threshold", "words", "other")
"""Which pixels belong to none of the classes: as the system has it by itself; none of them; those
of a low score; those that look more like the vocabulary's background words than like a class; or
more like the mean of all classes than like any of them.
"""


@dataclass(frozen=True)
class Question:
    """What is asked of an image. Thresholds are on the scale of the system's confidence, None for
    its own rule.

    Raises:
        ValueError: a threshold that is negative or not finite; an unknown background, "none" with a
            threshold, "words" without background words, or "other" of a single class.
    """

    vocabulary: Vocabulary
    background: str = "own"  # which pixels get the label NO_CLASS: one of BACKGROUNDS
    class_threshold: float | None = None  # a class whose best pixel stays below it is left out
    pixel_threshold: float | None = None  # pixels below it get the label NO_CLASS
    scores: bool = False  # whether the score maps of all classes are wanted too

    def __post_init__(self) -> None:
        for name in ("class_threshold", "pixel_threshold"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: got {value}, expected a number from 0 on, or None")
        if self.background not in BACKGROUNDS:
            expected = f"expected one of {list(BACKGROUNDS)}"
            raise ValueError(f"background: got {self.background!r}, {expected}")
        if self.background == "none" and self.has_threshold:
            raise ValueError(
                "background 'none': got a threshold, too, expected none, since every pixel gets a "
                "class. Choose 'threshold'"
            )
        if self.background == "words" and not self.vocabulary.background:
            raise ValueError(
                f"background 'words': vocabulary {self.vocabulary.name!r} has no background words. "
                "Name what is none of the classes, 'sky; wall' say"
            )
        if self.background == "other" and len(self.vocabulary) < 2:
            raise ValueError(
                f"background 'other': got the class {self.vocabulary.names[0]!r} alone, which is "
                "its own mean; expected two or more. Choose 'words' or 'threshold'"
            )

    @classmethod
    def of(
        cls,
        vocabulary: str | Sequence[str] | Vocabulary,
        *,
        background: str = "",
        negatives: str = "",
        threshold: float | None = None,
        class_threshold: float | None = None,
        scores: bool = False,
    ) -> Self:
        """What a person asks: in texts ``;`` or a line end separates names, ``,`` synonyms.

        Args:
            vocabulary: names as text, or a list of a text for each class.
            background: one of ``BACKGROUNDS``; "" for "words" if there are ``negatives``, else
                "own".
            negatives: names of what is none of the classes, for the background "words".
            threshold: pixels of a lower score get no class. class_threshold, scores: see above.
        Raises:
            ValueError: an empty vocabulary, a name that is there twice, negatives with another
                background, or as above.
        """
        if isinstance(vocabulary, str):
            vocabulary = Vocabulary.from_text(vocabulary)
        elif not isinstance(vocabulary, Vocabulary):
            vocabulary = replace(Vocabulary.from_names(list(vocabulary)), typed=True)
        words = split_words(negatives)
        background = background or ("words" if words else "own")
        if words and background != "words":
            raise ValueError(
                f"negatives: got {', '.join(words)} with background {background!r}, expected "
                "'words', which leaves out what looks like them (a threshold may go with it)"
            )
        if words:
            vocabulary = replace(vocabulary, background=words)
        return cls(vocabulary, background, class_threshold, threshold, scores)

    @property
    def has_threshold(self) -> bool:
        """Whether it says below which score pixels or classes are left out."""
        return (self.class_threshold, self.pixel_threshold) != (None, None)


@dataclass(frozen=True)
class TrainingQuestion:
    """What the labels of a training batch mean: classes 0..T-1 of a vocabulary, or ``ignore``."""

    vocabulary: Vocabulary
    ignore: int


@dataclass(frozen=True)
class Segmentation:
    """The answer to a question. The scale of the scores is the system's own."""

    labels: Tensor  # int64 (H, W), 0..T-1 or NO_CLASS
    confidence: Tensor  # float (H, W), the score of that class
    scores: Tensor | None = None  # float (T, H, W) if they were asked for

    def as_dict(self) -> dict[str, Tensor]:
        """As Detectron2's models answer: "sem_seg" holds the scores, if they were asked for."""
        answer = {"sem_seg_labels": self.labels, "sem_seg_confidence": self.confidence}
        return answer if self.scores is None else {"sem_seg": self.scores, **answer}


def label(maps: ScoreMaps, size: tuple[int, int], scores: bool = False) -> Segmentation:
    """The answer that scores give in a size (H, W): the best class of each pixel, as far as the
    thresholds let it; with ``scores`` all maps, too.
    """
    if not scores:
        labels, confidence = maps.best(size)
        return Segmentation(maps.decide(labels, confidence), maps.cut(confidence))
    whole = maps.whole(size)
    confidence, labels = whole.max(dim=0)
    return Segmentation(maps.decide(labels, confidence), maps.cut(confidence), maps.cut(whole))


@dataclass(frozen=True)
class Description:
    """What a result says about the system that it is of."""

    system: str
    backbone: str = ""  # what the papers' tables call it
    method: str = ""  # the row of the papers' tables that it belongs to; "" if none published it
    variant: str = ""
    class_lists: str = "catseg"  # family of class lists that the method was published with
    abstains: bool = False  # whether pixels may stay without a class where no background exists
    # plain values that decide its numbers
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # why its number is not comparable with a published one as it is
    # what the variant changes of the released config, by config key
    variant_settings: Mapping[str, Any] = field(default_factory=dict)


class Segmenter(nn.Module, abc.ABC):
    """A system that segments images by words; it normalises them, RGB, 0..255, as CLIP does."""

    clip: Any
    text: TextEmbedder | None = None
    """What embeds the class names, if the text tower of ``clip`` does."""
    takes_checkpoint = True  # whether MODEL.WEIGHTS holds its weights; not of training-free systems
    half_precision = False  # whether it takes float16 on GPUs by itself
    sampled_classes = 0  # that a training step asks; 0 for all of them
    train_vocabulary: Vocabulary | None = None
    """What a training step asks where its images do not say."""
    ignore = 255
    """Label of pixels without a class where the images do not say."""
    trained_on: tuple[str, ...] = ()
    """The datasets that its weights were trained on, as far as their checkpoint says."""
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, pixel_mean: Sequence[float] = CLIP_MEAN, pixel_std: Sequence[float] = CLIP_STD
    ) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @abc.abstractmethod
    def encode(self, images: Sequence[Tensor]) -> list[Any]:
        """Everything about images, uint8 or float (3, H, W), RGB, 0..255, of any sizes, that does
        not depend on words: what :meth:`segment` takes.
        """

    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> list[Any]:
        """As :meth:`encode`, of Detectron2's records: an "image" each, and what is known of its
        file: "file_name", "height", "width" and "half", which stages may look at.
        """
        return self.encode([record["image"] for record in records])

    @abc.abstractmethod
    def segment(self, encoded: Any, question: Question, size: tuple[int, int]) -> Segmentation:
        """Answer a question about an entry of what :meth:`encode` gave, in the size (H, W). Its
        background is "own", "none" or "threshold"; whoever asks calls :meth:`answer`.

        Raises:
            ValueError: a name that does not fit into the text tower.
        """

    def score(self, encoded: Any, question: Question, size: tuple[int, int]) -> ScoreMaps:
        """What :meth:`segment` makes labels of, with the question's thresholds: what the stages of
        :mod:`hyperclip.stages` work on. By itself all maps in the size (H, W) of the answer; a
        system that has them smaller should say so, since stages are slow on large ones.

        Raises:
            ValueError: as :meth:`segment`, or for a system that gives no scores.
        """
        asked = replace(question, scores=True, class_threshold=None)
        whole = self.segment(encoded, asked, size)
        if whole.scores is None:
            system = type(self).__name__
            raise ValueError(f"{system}.segment gave no scores, which the question asked for")
        classes, pixels = question.class_threshold or 0.0, question.pixel_threshold
        if pixels is None:  # then the system's own rule counts
            return GridMaps(whole.scores, classes, left_out=whole.labels == NO_CLASS)
        return GridMaps(whole.scores, classes, pixels)

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """ValueError or OSError if something that images with a "file_name" need is missing, before
        any is read.
        """

    @property
    def has_features(self) -> bool:
        """Whether :meth:`features` gives embeddings."""
        return type(self).features is not Segmenter.features

    def features(self, encoded: Any) -> Tensor:
        """Unit embeddings (C, h, w) of an image's cells, in the space of the text embeddings.

        Raises:
            ValueError: a system that has none.
        """
        raise ValueError(
            f"{type(self).__name__} gives no embeddings of an image's cells, which examples, "
            "memory banks and attention within regions need: its class lacks `features`"
        )

    def answer(self, encoded: Any, question: Question, size: tuple[int, int]) -> Segmentation:
        """As :meth:`segment`, with any background: words, or the mean of the classes, are asked as
        further classes, and their pixels get the label NO_CLASS.

        Raises:
            ValueError: as :meth:`segment`, or "other" of a system without text embeddings.
        """
        if question.background not in ("words", "other"):
            return self.segment(encoded, question, size)
        classes = len(question.vocabulary)
        whole = self.segment(encoded, self.with_rest(question), size)
        labels = torch.where(whole.labels < classes, whole.labels, NO_CLASS)
        scores = None if whole.scores is None else whole.scores[:classes]
        return Segmentation(labels, whole.confidence, scores)

    def with_rest(self, question: Question) -> Question:
        """The question whose background words, or mean of the classes, are further classes behind
        the others; itself for another background. Raises as :meth:`answer`.
        """
        vocabulary = question.vocabulary
        if question.background not in ("words", "other"):
            return question
        if question.background == "words":
            asked = vocabulary.with_background_prompts()
        elif self.text is not None:
            asked = replace(vocabulary, other=True)
        else:
            system = type(self).__name__
            raise ValueError(f"background 'other': {system} has no embeddings of names to average")
        rule = "own" if question.has_threshold else "none"
        return replace(question, vocabulary=asked, background=rule)

    @abc.abstractmethod
    def describe(self, dataset: Collection[str] = ()) -> Description:
        """What a result says about this system, on the dataset of these names."""

    @classmethod
    def largest_confidence(cls, cfg: CfgNode) -> float:
        """The highest confidence that its answers can have with a config."""
        return 1

    def class_of(self, vocabulary: Vocabulary) -> Tensor | None:
        """The class of each of ``text``'s embeddings (S,), ascending; None for one a class."""
        classes = self.text.class_of(vocabulary) if self.text is not None else None
        return None if classes is None else torch.tensor(classes, device=self.device)

    def check(self, vocabulary: Vocabulary) -> None:
        """ValueError for a name that does not fit into the text tower, before any image."""
        if self.text is not None:
            self.text.check(self.clip, vocabulary)

    def checkpoint_settings(self) -> dict[str, Any]:
        """What the parameters were trained for and do not tell, in plain values by config key; a
        checkpoint keeps it, and does not load into a model with other values.
        """
        return {}

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Losses, by name, of a batch as for :meth:`forward`; not of a training-free system."""
        raise ValueError(
            f"{type(self).__name__} is training-free: evaluate it with tools/train_net.py "
            "--eval-only"
        )

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Detectron2's interface.

        Args:
            batched_inputs: dicts with "image" (3, H, W) RGB 0..255; in training "sem_seg" (H, W);
                in inference "question", a :class:`Question`, and optionally "height" and "width" of
                the answer.
        Returns:
            in training :meth:`losses`, else :meth:`Segmentation.as_dict` of each image; ValueError
            for one without a question.
        """
        if self.training:
            return self.losses(batched_inputs)
        if not all("question" in x for x in batched_inputs):
            raise ValueError(
                'inference needs class names: got an image without "question", expected '
                '{"image": …, "question": Question(vocabulary)}'
            )
        encoded = self.encode_records(batched_inputs)
        answers = []
        for x, image in zip(batched_inputs, encoded, strict=True):
            height, width = x["image"].shape[1:]
            size = (x.get("height", height), x.get("width", width))
            answers.append(self.answer(image, x["question"], size).as_dict())
        return answers

    def training_question(self, batched_inputs: Sequence[Mapping[str, Any]]) -> TrainingQuestion:
        """What a batch is asked in training: what its first image says ("vocabulary" and
        "ignore_label", the same in all), else ``train_vocabulary``; ValueError if there is none.
        """
        first = batched_inputs[0]
        vocabulary = first.get("vocabulary", self.train_vocabulary)
        if vocabulary is None:
            raise ValueError(
                "training needs class names: set model.train_vocabulary, or give each image a "
                '"vocabulary" (the trainer does, from DATASETS.TRAIN)'
            )
        return TrainingQuestion(vocabulary, first.get("ignore_label", self.ignore))

    @property
    def needs_checkpoint(self) -> bool:
        """Whether a part of it is random until a checkpoint is loaded."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the system is."""
        return self.pixel_mean.device

    def normalise(self, image: Tensor) -> Tensor:
        """Image (..., 3, H, W), RGB 0..255, to what its towers expect, on the system's device."""
        return (image.to(self.device).float() - self.pixel_mean) / self.pixel_std


def bare(model: nn.Module) -> Segmenter:
    """The system itself, without the wrapper that distributes its training."""
    inner = getattr(model, "module", model)
    if not isinstance(inner, Segmenter):
        raise TypeError(f"model: got {type(inner).__name__}, expected a Segmenter")
    return inner
