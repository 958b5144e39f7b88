"""Models by name, for whoever gives no config: what each is, and whether all of it is here;
docs/zoo.md has them in a table.

    model = best_here()
    predictor = Predictor.from_config(model.config, model.overrides)

A package that adds systems adds its models, too: ``ZOO["mine"] = ZooModel(…)``.
"""

import difflib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

from .clip.packaged import INSTALL, PACKAGED
from .hub import HubFile
from .runtime.program import register_systems

BY_NAME = math.inf
"""Rank of a model that only its name gives."""


@dataclass(frozen=True)
class ZooModel:
    """A model with weights, in words for its user.

    Attributes:
        what: what it is and what it is not, in one line.
        missing: what of it is not on this machine; "" if nothing.
        rank: among those that are all here, the lowest is taken for whoever names none, and never
            one of ``BY_NAME``.
        weights: a checkpoint on the hub, for MODEL.WEIGHTS, that ``Predictor.from_pretrained``
            fetches; None if the config names all that there is.
        measured: figures with their protocol, for the card of what is saved.
    """

    config: str
    what: str
    missing: Callable[[], str]
    rank: float = BY_NAME
    overrides: tuple[str, ...] = ()
    weights: HubFile | None = None
    measured: str = ""


def missing_photo_packages() -> str:
    """What installs the towers of ``photo-mini``, if they are missing."""
    towers = PACKAGED["efficientnet-lite0-minilm"]
    packages = (towers.image[0], towers.text[0], "transformers")
    here = all(importlib.util.find_spec(package) for package in packages)
    return "" if here else f"its towers: {INSTALL}"


def _published(config: str, file: HubFile, clip: str, figures: str) -> ZooModel:
    """One of CAT-Seg's published checkpoints."""

    def missing() -> str:
        return "" if file.is_here() else f"{file.address}, which its first use downloads"

    return ZooModel(
        config,
        f"CAT-Seg with CLIP {clip}, the published checkpoint, trained on COCO-Stuff: any words",
        missing,
        weights=file,
        measured=f"{PUBLISHED_PROTOCOL} {figures}",
    )


CATSEG = "hamacojr/CAT-Seg-weights"
PUBLISHED_PROTOCOL = (
    "Published by CAT-Seg (CVPR 2024), not measured again: mIoU in percent, windows of 384 and a "
    "view of the whole image, over the classes of"
)
ZOO = {
    "photo-mini": ZooModel(
        "configs/photos/mini.yaml",
        "photo-mini, an ImageNet classifier that speaks through a sentence encoder, trained on a "
        "few hundred photos: rough on real photos, and no CLIP",
        missing_photo_packages,
        rank=10,
        measured=(
            "Trained without 20 of its 100 photos of COCO train2017: mIoU 20.9 % on these 20, all "
            "129 names asked, windows. Two of the sets that it was trained on, MSRC-21 and CamVid, "
            "are for non-commercial use."
        ),
    ),
    "quickstart/hyperclip": ZooModel(
        "configs/quickstart/hyperclip.yaml",
        "the quickstart's tiny HyperCLIP, which knows the drawn shapes of tinyscenes alone: "
        "nothing that it says of a photo means anything",
        lambda: "",
        overrides=("MODEL.WEIGHTS", "configs/quickstart/hyperclip_trained.safetensors"),
    ),
    "catseg-vitb": _published(
        "configs/vitb_384_catseg.yaml",
        HubFile(CATSEG, "model_base.pth", "space"),
        "ViT-B/16",
        "A-847 12.0, PC-459 19.0, A-150 31.8, PC-59 57.5, PAS-20 94.6, PAS-20b 77.3.",
    ),
    "catseg-vitl": _published(
        "configs/vitl_336_catseg.yaml",
        HubFile(CATSEG, "model_large.pth", "space"),
        "ViT-L/14 at 336 pixels",
        "A-847 16.0, PC-459 23.8, A-150 37.9, PC-59 63.3, PAS-20 97.0, PAS-20b 82.5.",
    ),
}
"""Models by name."""


def named(name: str) -> ZooModel:
    """The model of a name; ValueError, with those there are, for another."""
    register_systems()
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"model: got {name!r}, expected one of {sorted(ZOO)}, a folder that save_pretrained "
            f"wrote, or OWNER/NAME on the Hugging Face hub.{meant}"
        )
    return ZOO[name]


def best_here() -> ZooModel:
    """The best model of which everything is on this machine; FileNotFoundError if there is none."""
    register_systems()
    ranked = {name: model for name, model in ZOO.items() if model.rank < BY_NAME}
    for model in sorted(ranked.values(), key=lambda model: model.rank):
        if not model.missing():
            return model
    lacking = "; ".join(f"{name}: {model.missing()}" for name, model in ranked.items())
    raise FileNotFoundError(f"no model is on this machine, and none was named. Missing: {lacking}")
