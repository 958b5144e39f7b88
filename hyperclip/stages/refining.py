"""Refiners: what turns an image's coarse class scores into fine ones, chosen by TEST.REFINER.NAME.

A refiner gives each image a :data:`Refinement`, which serves any vocabulary and any system. To add
one, register a function of a config that returns a refiner (or None):

    @REFINER_REGISTRY.register()
    def blur(cfg):
        return lambda images: [lambda coarse: box_filter(coarse) for _ in images]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

Refinement = Callable[[Tensor], Tensor]
"""Coarse scores (T, h, w) to fine ones (T, h', w'). Its "inputs", if any, are checked for NaN."""

Refiner = Callable[[Sequence[Tensor]], list[Refinement]]
"""Images (3, H, W), RGB 0..255, of any sizes, to a refinement for each."""

REFINER_REGISTRY = Registry("REFINER")
"""Functions of a config that build a refiner, or None for none."""


@dataclass(frozen=True)
class GridRefinement:
    """Resize scores to the grid (h', w') of an operator on (N, T), bilinearly, and apply it."""

    grid: tuple[int, int]
    apply: Callable[[Tensor], Tensor]
    inputs: tuple[Tensor, ...] = ()

    def __call__(self, coarse: Tensor) -> Tensor:
        fine = F.interpolate(coarse[None], size=self.grid, mode="bilinear", align_corners=False)
        return self.apply(fine[0].flatten(1).T.contiguous()).T.unflatten(1, self.grid)


def build_entry(registry: Registry, key: str, name: str, cfg: CfgNode):  # type: ignore[no-untyped-def]
    """What the registry's entry of this name builds of a config; ValueError for an unknown name,
    which a config key holds.
    """
    if name not in registry:
        known = sorted(entry for entry, _ in registry)
        raise ValueError(
            f"{key}: got {name!r}, expected one of {known}, or one that you registered"
        )
    return registry.get(name)(cfg)


@REFINER_REGISTRY.register()
def none(cfg: CfgNode) -> None:
    """No refinement."""
