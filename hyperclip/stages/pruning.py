"""Presence: names that cannot be in an image are not asked of it.

A first cheap pass compares each cell of the image with each name. A name stays if in some cell its
probability is at least a given share of that of the cell's best name, under a softmax over the
cosines on CLIP's own scale; the share does not depend on how many names there are. The system then
answers for these names alone. Shapes: T classes, t classes of them, S names, C embedding, h w grid,
H W image.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..runtime.finite import FiniteCheck
from ..score_maps import Chunk, ScoreMaps, Size, completed
from ..segmenter import Question, Segmenter
from ..vocabulary import Vocabulary


def nearness(features: Tensor, text: Tensor, class_of: Tensor | None = None) -> Tensor:
    """How far each class stays behind a cell's best one, in the cell where it does best: at most 0,
    a difference of cosines (T,).

    Args:
        features: unit embeddings (C, h, w) of cells. text: (S, C), those of names.
        class_of: the class of each name (S,), ascending; None for one name a class.
    """
    cosine = text.float() @ features.flatten(1).float()
    behind = (cosine - cosine.amax(dim=0)).amax(dim=1)
    if class_of is None:
        return behind
    best = behind.new_full((int(class_of[-1]) + 1,), -torch.inf)
    return best.scatter_reduce(0, class_of, behind, "amax")


class Presence:
    """Which classes of a vocabulary are asked of an image.

    Args:
        system: that is asked. share: TEST.PRUNE, above 0 and at most 1: of the probability of a
            cell's best name, which a name needs in some cell.
    Raises:
        ValueError: another share, or a system without embeddings of names or of cells.
    """

    def __init__(self, system: Segmenter, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"TEST.PRUNE: got {share}, expected above 0 and at most 1")
        if system.text is None or not system.has_features:
            raise ValueError(
                f"TEST.PRUNE: got {share}, but {type(system).__name__} has no embeddings of names "
                "and of an image's cells to compare. Set it to 0, or give the system `text` and "
                "`features`"
            )
        self.share, self.text = share, system.text
        self.margin = -math.log(share) / float(system.clip.logit_scale.exp())

    @torch.no_grad()
    def present(
        self,
        system: Segmenter,
        encoded: Any,
        vocabulary: Vocabulary,
        shown: Collection[int] = (),
        silent: Collection[int] = (),
    ) -> list[int]:
        """The classes that stay, ascending: one or more, every background word, those that are
        ``shown`` by examples, too, and all of a vocabulary whose mean is asked. Nothing is compared
        with those of ``shown`` that are ``silent``, whose words do not count.
        """
        if vocabulary.other:  # of which every class is a part
            return list(range(len(vocabulary.classes)))
        text, features = self.text(system.clip, vocabulary), system.features(encoded)
        check = FiniteCheck().add("the embeddings of the class names", text)
        check.add("CLIP's features of the image", features).require(system)
        behind = self._nearness(features, text, system.class_of(vocabulary), silent)
        stays = behind >= -self.margin
        stays[len(stays) - vocabulary.background_classes :] = True
        stays[list(shown)] = True
        return stays.nonzero()[:, 0].tolist()

    @staticmethod
    def _nearness(
        features: Tensor, text: Tensor, class_of: Tensor | None, silent: Collection[int]
    ) -> Tensor:
        """:func:`nearness` of classes without the silent ones, which are infinitely behind."""
        if not silent:
            return nearness(features, text, class_of)
        own = torch.arange(len(text), device=text.device) if class_of is None else class_of
        behind = torch.full((int(own[-1]) + 1,), -torch.inf, device=text.device)
        heard = ~torch.isin(own, torch.tensor(sorted(silent), device=own.device))
        if heard.any():
            found = nearness(features, text[heard], own[heard])
            behind[: len(found)] = found
        return behind

    def score(
        self,
        system: Segmenter,
        encoded: Any,
        question: Question,
        size: Size,
        shown: Collection[int] = (),
        silent: Collection[int] = (),
    ) -> ScoreMaps:
        """The system's scores for the classes that stay, as scores of all; where all stay, they are
        those of the system itself.
        """
        whole = question.vocabulary
        places = self.present(system, encoded, whole, shown, silent)
        if len(places) == len(whole.classes):
            return system.score(encoded, question, size)
        asked = replace(question, vocabulary=whole.part(places))
        maps = system.score(encoded, asked, size)
        return PartMaps(maps, torch.tensor(places, device=system.device), len(whole))


@dataclass(frozen=True)
class PartMaps(ScoreMaps):
    """Scores of which some classes were not asked: they score 0, or just less than all that were.

    Args:
        maps: the scores of the classes that were asked. places: (t,), these, ascending.
        classes: T.
    """

    maps: ScoreMaps
    places: Tensor
    classes: int

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self._spread(self.maps.coarse())

    def at(self, size: Size) -> Iterator[Chunk]:
        """See :class:`ScoreMaps`: of the classes that were asked alone, unless 0 is too much for
        the others.
        """
        asked = ((self.places[classes], maps) for classes, maps in self.maps.at(size))
        least = _below(self.maps.coarse())
        if least == 0:
            return asked
        every = torch.arange(self.classes, device=self.places.device)
        dropped = every[~torch.isin(every, self.places)]
        return completed(asked, dropped, lambda some: least.expand(len(some), *size), size)

    def replaced(self, coarse: Tensor) -> "PartMaps":
        """See :class:`ScoreMaps`; a class that was not asked is not among them afterwards."""
        return replace(self, maps=self.maps.replaced(coarse[self.places]))

    def best(self, size: Size) -> tuple[Tensor, Tensor]:
        """See :class:`ScoreMaps`."""
        labels, confidence = self.maps.best(size)
        return self.places[labels], confidence

    def whole(self, size: Size) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self._spread(self.maps.whole(size))

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.decide(labels, confidence)

    def cut(self, scores: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.cut(scores)

    def _spread(self, scores: Tensor) -> Tensor:
        """Scores (t, h, w) as those of all classes; no other may win where one scores lowest."""
        spread = _below(scores).expand(self.classes, *scores.shape[1:]).clone()
        spread[self.places] = scores
        return spread


def _below(scores: Tensor) -> Tensor:
    """0, or just less than the lowest of scores that are not all above it."""
    lowest = scores.amin()
    return torch.where(lowest > 0, 0.0, lowest.nextafter(lowest.new_tensor(-torch.inf)))
