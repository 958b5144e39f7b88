"""What stands around a system and answers in its place, as a system itself."""

import abc
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .segmenter import Description, Question, Segmentation, Segmenter, label
from .vocabulary import Vocabulary


class Wrapper(Segmenter):
    """A system around another one, which keeps the weights; a subclass fills ``encode``, ``score``,
    ``inside`` and ``own_settings``.
    """

    system: Segmenter
    takes_checkpoint = False

    def __init__(self, system: Segmenter) -> None:
        statistics = (values.flatten().tolist() for values in (system.pixel_mean, system.pixel_std))
        super().__init__(*statistics)
        self.to(system.device)
        self.system = system
        self.text, self.half_precision = system.text, system.half_precision
        self.trained_on = system.trained_on

    @property
    def clip(self) -> Any:  # type: ignore[override]
        """The system's CLIP."""
        return self.system.clip

    @torch.no_grad()
    def segment(self, encoded: Any, question: Question, size: tuple[int, int]) -> Segmentation:
        """See :class:`Segmenter`; NotFiniteError for NaN or infinity in the scores of a stage."""
        return label(self.score(encoded, question, size), size, question.scores)

    @abc.abstractmethod
    def inside(self, encoded: Any) -> Any:
        """What the system sees in an image as it is, of what the wrapper's ``encode`` gave."""

    def features(self, encoded: Any) -> Tensor:
        """See :class:`Segmenter`: those of the image as it is."""
        return self.system.features(self.inside(encoded))

    @property
    def has_features(self) -> bool:
        """See :class:`Segmenter`."""
        return self.system.has_features

    def check(self, vocabulary: Vocabulary) -> None:
        """See :class:`Segmenter`."""
        self.system.check(vocabulary)

    @abc.abstractmethod
    def own_settings(self) -> dict[str, Any]:
        """Plain values that decide what the wrapper changes, by name."""

    def describe(self, dataset: Collection[str] = ()) -> Description:
        """See :class:`Segmenter`: with the wrapper's settings, and no published method."""
        own = self.system.describe(dataset)
        return replace(own, method="", settings={**own.settings, **self.own_settings()})


def unwrapped_image(system: Segmenter, encoded: Any) -> tuple[Segmenter, Any]:
    """The system itself, and what it sees in an image as it is."""
    while isinstance(system, Wrapper):
        encoded, system = system.inside(encoded), system.system
    return system, encoded


def unwrapped(system: Segmenter) -> Segmenter:
    """The system itself, which has the weights."""
    while isinstance(system, Wrapper):
        system = system.system
    return system
