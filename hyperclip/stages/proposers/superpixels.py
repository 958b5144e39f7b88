"""Superpixels: parts of an image of similar colour, by SLIC of scikit-image (Achanta et al., 2012).

Shapes: H W image.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...config.key_rules import FRAMEWORK, options_of
from ...runtime.extras import how_to_install
from ..regions import REGIONS_REGISTRY, in_size

INSTALL = how_to_install("regions")


@dataclass(frozen=True)
class Superpixels:
    """Cuts every image into superpixels, which cover it.

    Args:
        number: about so many of an image. compactness: of their shapes against their colours.
        max_size: they are found with the longer side of the image as small; 0 for any size.
    Raises:
        ModuleNotFoundError: without scikit-image. ValueError: as its key.
    """

    number: int
    compactness: float
    max_size: int

    def __post_init__(self) -> None:
        FRAMEWORK.require("TEST.REGIONS.SUPERPIXELS.", vars(self))
        if importlib.util.find_spec("skimage") is None:
            needs = "TEST.REGIONS.NAME: superpixels need the package scikit-image"
            raise ModuleNotFoundError(f"{needs}. Install it: {INSTALL}")

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """See :data:`hyperclip.stages.Proposer`."""
        return [self._cut(image) for image in images]

    def _cut(self, image: Tensor) -> Tensor:
        from skimage.segmentation import slic

        pixels: np.ndarray = (
            np.ascontiguousarray(image.cpu().float().permute(1, 2, 0).numpy()) / 255
        )
        height, width = pixels.shape[:2]
        longer = max(height, width)
        if 0 < self.max_size < longer:
            size = [max(1, round(side * self.max_size / longer)) for side in (width, height)]
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        found = slic(pixels, self.number, self.compactness, start_label=0, channel_axis=-1)
        return in_size(torch.from_numpy(found).long(), (height, width))


@REGIONS_REGISTRY.register()
def superpixels(cfg: CfgNode) -> Superpixels:
    """Build from TEST.REGIONS.SUPERPIXELS."""
    return options_of(Superpixels, cfg.TEST.REGIONS.SUPERPIXELS)
