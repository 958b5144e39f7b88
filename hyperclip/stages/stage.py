"""The contract of a stage between scores and labels."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..score_maps import ScoreMaps, Size
from ..segmenter import Question, Segmenter


@dataclass(frozen=True)
class Asked:
    """What a stage may look at besides scores."""

    system: Segmenter  # without stages
    encoded: Any  # what the system's ``encode`` gave for the image
    question: Question
    size: Size  # of the answer
    silent: frozenset[int] = frozenset()  # classes whose examples alone decide: words say nothing


class Stage(nn.Module, abc.ABC):
    """Changes scores by what it sees in the image. It keeps nothing of an image or a question."""

    @abc.abstractmethod
    def see(self, images: Sequence[Tensor], encoded: Sequence[Any], system: Segmenter) -> list[Any]:
        """What it needs of each of the images, (3, H, W), RGB 0..255, that does not depend on
        words; ``encoded`` is what the system's ``encode`` gave for them.
        """

    def see_records(
        self, records: Sequence[Mapping[str, Any]], encoded: Sequence[Any], system: Segmenter
    ) -> list[Any]:
        """As :meth:`see`, of records as for :meth:`Segmenter.encode_records`."""
        return self.see([record["image"] for record in records], encoded, system)

    def check_system(self, system: Segmenter) -> None:
        """ValueError for a system that lacks what the stage needs of it, before any image."""

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """ValueError or OSError if something of images with a "file_name" is missing, before any is
        read.
        """

    @abc.abstractmethod
    def rescore(self, maps: ScoreMaps, seen: Any, asked: Asked) -> ScoreMaps:
        """The scores of an image after the stage; ``seen`` is its entry of what :meth:`see` gave.

        Raises:
            ValueError: something of the question or of the system does not fit.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain values that decide its results, by name, for the rows of results."""
