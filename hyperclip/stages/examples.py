"""Examples beside words: images with masks that show a class, as prototypes in the text space.

A class with examples is compared with what else could be at a pixel by looks: a score s of it
becomes s exp(STRENGTH (z - z')), where z is how much the pixel looks like the class's examples, and
z' the same of the class that is best there by words. What that class looks like is told by its own
examples, or, since it has none, by those cells of this image where it is best by words. Classes
without examples keep their scores, bit by bit, and what their answer is, if examples take no pixels
of theirs. The result stays on the system's own scale, see :func:`on_scale`. Nothing is fitted in
steps: the cost is a few products a class and cell.

Shapes: T classes, t classes of a chunk, C embedding, h w grid of cells, H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import NO_CLASS
from ..runtime.finite import FiniteCheck
from ..score_maps import Chunk, ScoreMaps, Size, best_of, completed, resize
from ..segmenter import Segmenter
from ..vocabulary import Vocabulary
from ..vocabulary.names import is_blank, tokens_of
from .stage import Asked, Stage

STRENGTH = 0.5
"""Weight of looks beside words, chosen on scenes of tinyscenes_train, see docs/stages.md."""

TINY = 1e-30

MOST_EXAMPLES = 10_000
"""Examples that a store takes."""


@dataclass(frozen=True)
class Example:
    """What a system sees of one example.

    Attributes:
        name: of its class. prototype: unit embedding (C,), see :func:`prototype_of`.
        words: whether the name tells the system something; without, examples alone decide.
        takes: whether its class may win pixels where a class without examples is best by words;
            without words it may in any case.
    """

    name: str
    prototype: Tensor
    words: bool = True
    takes: bool = True


class Shown(NamedTuple):
    """What examples show of the classes of a vocabulary, which are numbers here."""

    prototypes: dict[int, Tensor]  # unit embeddings (C,) of the classes that have examples
    silent: set[int] = set()  # those of them whose words do not count
    yielding: set[int] = set()  # those that win no pixel from a class without examples


@dataclass(frozen=True)
class ExampleStore:
    """Examples of some classes, which have the names' tokens in common with those asked.

    Raises:
        ValueError: an empty name, a class of which words count and do not, or that takes pixels and
            does not, other embeddings than the first one's, more than ``MOST_EXAMPLES``.
    """

    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if len(self.examples) > MOST_EXAMPLES:
            got = f"got {len(self.examples)}, expected at most {MOST_EXAMPLES}"
            raise ValueError(f"examples: {got}. Give fewer of each class")
        firsts: dict[tuple[int, ...], Example] = {}
        for example in self.examples:
            if is_blank(example.name):
                raise ValueError("example: got an empty name, expected that of its class")
            known = firsts.setdefault(tokens_of(example.name), example)
            for key in ("words", "takes"):
                own, expected = getattr(example, key), getattr(known, key)
                if own != expected:
                    raise ValueError(
                        f"example of {example.name!r}: got {key}={own}, expected {expected} as for "
                        "this class's other examples"
                    )
            size, first = len(example.prototype), len(self.examples[0].prototype)
            if size != first:
                raise ValueError(
                    f"example of {example.name!r}: got {size} channels, expected {first} as of the "
                    "other examples; are they of another model?"
                )

    def __len__(self) -> int:
        return len(self.examples)

    def plus(self, others: Sequence[Example]) -> ExampleStore:
        """These and others."""
        return ExampleStore((*self.examples, *others))

    def check(self, vocabulary: Vocabulary) -> None:
        """ValueError for examples of a class that is not asked, or as :meth:`of`."""
        asked = {tokens_of(name) for synonyms in vocabulary.classes for name in synonyms}
        asked |= {tokens_of(name) for name in (*vocabulary.background, *vocabulary.negatives)}
        missing = [e.name for e in self.examples if tokens_of(e.name) not in asked]
        if missing:
            more = ", …" if len(vocabulary.classes) > 5 else ""
            raise ValueError(
                f"examples: got some of {missing[0]!r}, expected names of the classes asked, "
                f"{', '.join(vocabulary.names[:5])}{more}. Ask for it, too, or leave its examples "
                "out"
            )
        self.of(vocabulary)

    def of(self, vocabulary: Vocabulary) -> Shown:
        """What is shown of a vocabulary's classes, by their place in it, and nothing of other
        classes; ValueError for synonyms of one class of which words count and do not, or that take
        pixels and do not.
        """
        places: dict[tuple[int, ...], int] = {}
        for index, synonyms in enumerate(vocabulary.classes):
            for name in synonyms:
                places.setdefault(tokens_of(name), index)
        total: dict[int, Tensor] = {}
        firsts: dict[int, Example] = {}
        silent, yielding = set(), set()
        for example in self.examples:
            place = places.get(tokens_of(example.name))
            if place is not None:
                known = firsts.setdefault(place, example)
                for key in ("words", "takes"):
                    own, expected = getattr(example, key), getattr(known, key)
                    if own != expected:
                        raise ValueError(
                            f"example of {example.name!r}: got {key}={own}, expected {expected} as "
                            f"for {known.name!r}, a synonym of it here. Show both alike, or ask "
                            "for them as two classes"
                        )
                total[place] = total.get(place, 0) + example.prototype
                if not example.words:
                    silent.add(place)
                elif not example.takes:
                    yielding.add(place)
        return Shown({k: F.normalize(total[k], dim=0) for k in sorted(total)}, silent, yielding)


def prototype_of(features: Tensor, mask: Tensor) -> Tensor:
    """Unit embedding (C,) of what a mask, bool (H, W), covers: the mean of the cells' embeddings
    (C, h, w), each weighted by the share of the cell that is covered.
    """
    grid = (features.shape[1], features.shape[2])
    share = F.adaptive_avg_pool2d(mask.to(features.device, torch.float32)[None, None], grid)
    mean = (features.float() * share[0]).sum(dim=(1, 2)) / share.sum()
    return F.normalize(mean, dim=0)


def on_scale(ratio: Tensor, best: Tensor, top: Tensor) -> Tensor:
    """Scores of classes whose ratios (t, H, W) to the best score by words (H, W) are known: the
    product up to 1, and beyond that what stays below the image's highest score ``top``.
    """
    above = best + (top - best) * (1 - 1 / ratio.clamp_min(1))
    return torch.where(ratio <= 1, best * ratio, above)


class ByWords(NamedTuple):
    """What an image's scores by words are."""

    labels: Tensor  # the best class of each pixel, int64 (H, W)
    best: Tensor  # its score (H, W)
    top: Tensor  # the highest of these
    lowest: Tensor  # of all scores, or 0 if none is negative


@dataclass(frozen=True)
class ExampleMaps(ScoreMaps):
    """Scores of an image by words and examples.

    Args:
        maps: by words. features: unit embeddings (C, h, w) of the image's cells.
        shown: by examples, on the features' device. strength: see :data:`STRENGTH`.
    """

    maps: ScoreMaps
    features: Tensor
    shown: Shown
    strength: float

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.maps.classes

    def coarse(self) -> Tensor:
        """See :class:`ScoreMaps`."""
        coarse = self.maps.coarse()
        size = (coarse.shape[1], coarse.shape[2])
        result = torch.empty_like(coarse)
        for classes, maps in self._fused(lambda: iter([(self._every(coarse), coarse)]), size):
            result[classes] = maps
        return result

    def at(self, size: Size) -> Iterator[Chunk]:
        """See :class:`ScoreMaps`; those of classes without examples are as they were."""
        return self._fused(lambda: self.maps.at(size), size)

    def replaced(self, coarse: Tensor) -> ScoreMaps:
        """See :class:`ScoreMaps`."""
        return self.maps.replaced(coarse)

    def decide(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.decide(labels, confidence)

    def cut(self, scores: Tensor) -> Tensor:
        """See :class:`ScoreMaps`."""
        return self.maps.cut(scores)

    def _every(self, like: Tensor) -> Tensor:
        return torch.arange(self.classes, device=like.device)

    def _fused(self, chunks: Callable[[], Iterator[Chunk]], size: Size) -> Iterator[Chunk]:
        """Chunks of scores by words in a size, with those of classes with examples changed."""
        words = self._best_by_words(self._heard(chunks()), size)
        reference = self._reference(words.labels, size)
        nothing = words.best.new_zeros(1, *size)

        def by_looks(classes: Tensor) -> Tensor:
            return self._changed(classes, nothing.expand(len(classes), -1, -1), words, reference)

        silent = torch.tensor(sorted(self.shown.silent), dtype=torch.int64, device=nothing.device)
        heard = self._rescored(self._heard(chunks()), words, reference)
        return completed(heard, silent, by_looks, size)

    def _rescored(
        self, chunks: Iterator[Chunk], words: ByWords, reference: Tensor
    ) -> Iterator[Chunk]:
        """Chunks of classes whose words count, with those of classes with examples changed."""
        for classes, maps in chunks:
            places = [i for i, k in enumerate(classes.tolist()) if k in self.shown.prototypes]
            if places:
                changed = self._changed(classes[places], maps[places], words, reference)
                maps = maps.clone()
                maps[places] = changed
            yield classes, maps

    def _best_by_words(self, heard: Iterator[Chunk], size: Size) -> ByWords:
        """The best of classes whose words count; of no such class ``NO_CLASS``, 1/2 and 1."""
        device = self.features.device
        first = next(heard, None)
        if first is None:
            labels = torch.full(size, NO_CLASS, device=device)
            half = torch.full(size, 0.5, device=device)
            return ByWords(labels, half, half.new_ones(()), half.new_zeros(()))
        lowest = [torch.zeros((), device=device)]

        def noted() -> Iterator[Chunk]:
            for classes, maps in chain([first], heard):
                lowest.append(maps.amin().to(device))
                yield classes, maps

        labels, best = best_of(noted())
        return ByWords(labels, best, best.amax(), torch.stack(lowest).amin())

    def _heard(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The classes whose words count."""
        if len(self.shown.silent) == self.classes:
            return
        for classes, maps in chunks:
            rows = [i for i, k in enumerate(classes.tolist()) if k not in self.shown.silent]
            if len(rows) == len(classes):
                yield classes, maps
            elif rows:
                yield classes[rows], maps[rows]

    def _reference(self, labels: Tensor, size: Size) -> Tensor:
        """How much each pixel looks like the class that is best there by words, ``labels`` (H, W):
        0 for no class, and NaN where nothing says how that class looks.
        """
        grid = (self.features.shape[1], self.features.shape[2])
        cells = F.interpolate(labels[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
        result = torch.full(size, torch.nan, device=labels.device)
        result[labels == NO_CLASS] = 0
        for k in labels[labels != NO_CLASS].unique().tolist():
            prototype = self.shown.prototypes.get(k)
            if prototype is None and (cells == k).any():
                prototype = F.normalize(self.features[:, cells == k].sum(dim=1), dim=0)
            if prototype is not None:
                looks = self._looks(prototype[None], size)[0]
                result = torch.where(labels == k, looks, result)
        return result

    def _looks(self, prototypes: Tensor, size: Size) -> Tensor:
        """Cosines of all pixels (t, H, W) with prototypes (t, C)."""
        cosines = torch.einsum("tc,chw->thw", prototypes, self.features)
        return resize(cosines[None], size)[0]

    def _changed(self, classes: Tensor, maps: Tensor, words: ByWords, reference: Tensor) -> Tensor:
        """Scores (t, H, W) of classes with examples, of those by words."""
        labels, best, top, lowest = words
        chosen, device = classes.tolist(), maps.device
        own = torch.stack([self.shown.prototypes[k] for k in chosen])
        looks = self._looks(own, (maps.shape[1], maps.shape[2]))
        silent = torch.tensor([k in self.shown.silent for k in chosen], device=device)
        above = torch.where(silent[:, None, None], best, maps) - lowest
        factor = (self.strength * (looks - reference).nan_to_num(0.0)).exp()
        ratio = above / (best - lowest).clamp_min(TINY) * factor
        result = on_scale(ratio, best - lowest, top - lowest) + lowest
        # where it is best by words, its own looks are the reference, but for their rounding
        result = torch.where(classes[:, None, None] == labels, best, result)
        if not self.shown.yielding:
            return result
        without = set(range(self.classes)) - set(self.shown.prototypes)
        kept = torch.isin(labels, torch.tensor(sorted(without), device=device))
        yields = torch.tensor([k in self.shown.yielding for k in chosen], device=device)
        below = best.nextafter(best.new_tensor(-torch.inf)).clamp_min(lowest)
        return torch.where(yields[:, None, None] & kept, torch.minimum(result, below), result)


class Examples(Stage):
    """Scores by words and by examples of some of the classes."""

    def __init__(self, store: ExampleStore, strength: float = STRENGTH) -> None:
        super().__init__()
        self.store, self.strength = store, strength

    def see(
        self, images: Sequence[Tensor], encoded: Sequence[Any], system: Segmenter
    ) -> list[None]:
        """See :class:`Stage`: what the system sees is enough."""
        return [None] * len(images)

    def rescore(self, maps: ScoreMaps, seen: None, asked: Asked) -> ScoreMaps:
        """See :class:`Stage`; where no class asked has examples the scores as they are."""
        shown = self.store.of(asked.question.vocabulary)
        if not shown.prototypes:
            return maps
        features = asked.system.features(asked.encoded).float()
        FiniteCheck().add("the embeddings of the image's cells", features).require(asked.system)
        size, first = len(features), next(iter(shown.prototypes.values()))
        if len(first) != size:
            got = f"got {len(first)} channels, expected {size} as of {type(asked.system).__name__}"
            raise ValueError(f"examples: {got}; add them with the model that uses them")
        own = {k: prototype.to(features.device) for k, prototype in shown.prototypes.items()}
        return ExampleMaps(maps, features, shown._replace(prototypes=own), self.strength)

    def describe(self) -> dict[str, Any]:
        """See :class:`Stage`."""
        classes = len({tokens_of(example.name) for example in self.store.examples})
        found = {"examples": len(self.store), "classes": classes, "strength": self.strength}
        yielding = sum(not example.takes for example in self.store.examples)
        return found | {"yielding": yielding} if yielding else found


def encode_example(
    system: Segmenter,
    image: Tensor,
    mask: Tensor,
    name: str,
    words: bool = True,
    takes: bool = True,
) -> Example:
    """What a system without stages sees of an example: an image as :meth:`Segmenter.encode` takes
    it, and a mask, bool, of any size, that covers the same.

    Raises:
        ValueError: a system without embeddings of cells. NotFiniteError: NaN in them.
    """
    features = system.features(system.encode([image])[0])
    FiniteCheck().add("the embeddings of the example's cells", features).require(system)
    return Example(name, prototype_of(features, mask), words, takes)
