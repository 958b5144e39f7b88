"""Models by name, for whoever gives no config: what each is, and whether all of it is here.

    model = best_here()
    predictor = Predictor.from_config(model.config, model.overrides)

A package that adds systems adds its models, too: ``ZOO["mine"] = ZooModel(…)``.
"""

import difflib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from .clip.packaged import INSTALL, PACKAGED
from .runtime.program import register_systems


@dataclass(frozen=True)
class ZooModel:
    """A model with weights, in words for its user.

    Attributes:
        what: what it is and what it is not, in one line.
        missing: what of it is not on this machine; "" if nothing.
        rank: among those that are all here, the lowest is taken for whoever names none.
    """

    config: str
    what: str
    missing: Callable[[], str]
    rank: int
    overrides: tuple[str, ...] = ()


def missing_photo_packages() -> str:
    """What installs the towers of ``photo-mini``, if they are missing."""
    towers = PACKAGED["efficientnet-lite0-minilm"]
    packages = (towers.image[0], towers.text[0], "transformers")
    here = all(importlib.util.find_spec(package) for package in packages)
    return "" if here else f"its towers: {INSTALL}"


ZOO = {
    "photo-mini": ZooModel(
        "configs/photos/mini.yaml",
        "photo-mini, an ImageNet classifier that speaks through a sentence encoder, trained on a "
        "few hundred photos: rough on real photos, and no CLIP",
        missing_photo_packages,
        rank=10,
    ),
}
"""Models by name."""


def named(name: str) -> ZooModel:
    """The model of a name; ValueError, with those there are, for another."""
    register_systems()
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"model: got {name!r}, expected one of {sorted(ZOO)}.{meant}")
    return ZOO[name]


def best_here() -> ZooModel:
    """The best model of which everything is on this machine; FileNotFoundError if there is none."""
    register_systems()
    ranked = sorted(ZOO.values(), key=lambda model: model.rank)
    for model in ranked:
        if not model.missing():
            return model
    lacking = "; ".join(f"{name}: {model.missing()}" for name, model in ZOO.items())
    raise FileNotFoundError(f"no model is on this machine, and none was named. Missing: {lacking}")
