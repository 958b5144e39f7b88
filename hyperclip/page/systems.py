"""The systems that the page offers: their configs by name, and their models, built when asked."""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from .. import zoo
from ..config import load_config
from ..evaluation.kept_rows import named_contents
from ..predictor import EncodedImage, Predictor
from ..runtime import files
from ..runtime.recent import Recent
from ..stages import Example
from .examples import Shown

logger = logging.getLogger("hyperclip.app")

ENCODED_IMAGES = 8
"""Encoded images that are kept of each model."""
ENCODED_EXAMPLES = 256
"""Examples that are kept of each model as it sees them."""


@dataclass(frozen=True)
class Offer:
    """A config file, and KEY VALUE pairs for it."""

    config: str
    overrides: tuple[str, ...] = ()


_HYPERCLIP = zoo.ZOO["quickstart/hyperclip"]
QUICKSTART = {
    "CLIPer (quickstart)": Offer("configs/quickstart/cliper.yaml"),
    "HyperCLIP (quickstart)": Offer(_HYPERCLIP.config, _HYPERCLIP.overrides),
}
"""What is offered behind everything else."""


def offered(configs: Sequence[Sequence[str]]) -> dict[str, Offer]:
    """What to offer, by the name that visitors see: configs, each a file and its KEY VALUE pairs,
    or without any the best model of :mod:`hyperclip.zoo` that is on this machine; then those of
    ``QUICKSTART`` whose package is installed. Raises as :func:`load_config` does.
    """
    others = {name: offer for name, offer in QUICKSTART.items() if _loads(name, offer)}
    offers: dict[str, Offer] = {}
    if not configs:
        with contextlib.suppress(FileNotFoundError):  # the quickstart's systems are left
            best = zoo.best_here()
            if best.config not in [offer.config for offer in others.values()]:
                offers[best.what] = Offer(best.config, tuple(best.overrides))
    given: Counter[str] = Counter()
    for file, *overrides in configs:
        load_config(file, overrides)
        given[file] += 1
        name = f"{file} ({given[file]})" if given[file] > 1 else file
        offers[name] = Offer(str(files.local_path(file).resolve()), tuple(overrides))
    return offers | others


def _loads(name: str, offer: Offer) -> bool:
    try:
        load_config(offer.config, list(offer.overrides))
    except (OSError, ValueError) as error:
        logger.warning("%s is not offered: %s", name, str(error).partition(";")[0])
        return False
    return True


def content_of(cfg: CfgNode) -> tuple[str, ...]:
    """A config, and the names and hashes of the files and folders that it names."""
    return (cfg.dump(), *(f"{name} {mark}" for name, mark in named_contents(cfg).items()))


class Model:
    """A system's model, which encodes an image once for all words, as long as it is among the last
    ``ENCODED_IMAGES``.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._encoded: Recent[str, EncodedImage] = Recent(ENCODED_IMAGES)
        self._examples: Recent[str, Example] = Recent(ENCODED_EXAMPLES)

    def encode(self, file: str, image: np.ndarray) -> EncodedImage:
        """An upload as the model sees it; the path of one has its content's hash."""
        encoded = self._encoded.get(file)
        if encoded is None:
            encoded = self.predictor.encode(image)
            self._encoded.put(file, encoded)
        return encoded

    def examples(self, shown: Sequence[Shown]) -> list[Example]:
        """Examples as the model sees them."""
        found = []
        for own in shown:
            example = self._examples.get(own.token)
            if example is None:
                example = self.predictor.example(own.image, own.mask, own.name)
                self._examples.put(own.token, example)
            found.append(example)
        return found


class Systems:
    """The systems on offer, at least one; of their models the last two in use are kept."""

    def __init__(self, offers: dict[str, Offer]) -> None:
        self._offers = dict(offers)
        self._built: Recent[tuple[str, ...], Model] = Recent(2)
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What visitors choose from, the first one by default."""
        return list(self._offers)

    def config(self, name: str) -> CfgNode:
        """The config of a system; ValueError for another name, and what :func:`load_config`
        raises.
        """
        if name not in self._offers:
            raise ValueError(f"system: got {name!r}, expected one of {self.names}")
        offer = self._offers[name]
        return load_config(offer.config, list(offer.overrides))

    def largest_confidence(self, name: str) -> float:
        """The highest confidence that a system's answers can have."""
        cfg = self.config(name)
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).largest_confidence(cfg)

    def model(self, name: str) -> Model:
        """The model of a system, built anew after its files have changed; raises as :meth:`config`
        and :meth:`Predictor.from_config` do.
        """
        with self._lock:
            cfg = self.config(name)
            key = content_of(cfg)
            while (built := self._built.get(key)) is None:
                predictor = Predictor.from_config(cfg)
                before, key = key, content_of(cfg)
                if key == before:  # else its files changed while they were read
                    self._built.put(key, Model(predictor))
            return built
