"""Refiners: what turns coarse class scores into fine ones, chosen by MODEL.CLIPER.REFINER.NAME.

A refiner gives each image a :class:`Refinement`, which serves any vocabulary. To add one, register
a function of a config that returns a refiner (or None):

    @REFINER_REGISTRY.register()
    def blur(cfg):
        return lambda images: [lambda coarse: box_filter(coarse) for _ in images]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from hyperclip.config.key_rules import options_of
from torch import Tensor, nn

from .affinity import FuseOptions
from .diffusion import DiffusionAttention, DiffusionOptions
from .feature_refiner import FeatureExtractor, mix_alike
from .pretrained import load_diffusion

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


class DiffusionRefiner(nn.Module):
    """Refines with the self-attention of a latent diffusion model; see :class:`DiffusionAttention`.
    ValueError for "selection" of a map that does not exist.
    """

    def __init__(self, attention: DiffusionAttention, options: FuseOptions) -> None:
        super().__init__()
        options.check_index(attention.count)
        self.attention, self.options = attention, options

    def forward(self, images: Sequence[Tensor]) -> list[Refinement]:
        """One refinement for each image."""
        return [
            GridRefinement(m.grid, partial(m.apply, options=self.options), (*m.queries, *m.keys))
            for m in self.attention(images)
        ]


class FeatureRefiner(nn.Module):
    """Refines with similarities of self-supervised features; see :class:`FeatureExtractor`."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Sequence[Tensor]) -> list[Refinement]:
        """One refinement for each image."""
        refinements: list[Refinement] = []
        for image in images:
            features = self.extractor(image)
            unit = F.normalize(features.flatten(1).T.float(), dim=-1)
            grid = features.shape[1], features.shape[2]
            refinements.append(GridRefinement(grid, partial(mix_alike, unit=unit), (unit,)))
        return refinements


@REFINER_REGISTRY.register()
def none(cfg: CfgNode) -> None:
    """No refinement."""


@REFINER_REGISTRY.register()
def diffusion(cfg: CfgNode) -> DiffusionRefiner:
    """Build from MODEL.CLIPER.DIFFUSION; with MODEL.CLIPER.HALF in float16 on a GPU."""
    node = cfg.MODEL.CLIPER.DIFFUSION
    half = cfg.MODEL.CLIPER.HALF and torch.device(cfg.MODEL.DEVICE).type == "cuda"
    loaded = load_diffusion(node.MODEL, node.REVISION, torch.float16 if half else torch.float32)
    cache = Path(node.CACHE) if node.CACHE else None
    attention = DiffusionAttention(loaded, options_of(DiffusionOptions, node), cache)
    return DiffusionRefiner(attention, fuse_options(cfg))


@REFINER_REGISTRY.register()
def features(cfg: CfgNode) -> FeatureRefiner:
    """Build from MODEL.CLIPER.FEATURES."""
    return FeatureRefiner(build_extractor(cfg))


def build_extractor(cfg: CfgNode) -> FeatureExtractor:
    """The feature extractor of MODEL.CLIPER.FEATURES."""
    node = cfg.MODEL.CLIPER.FEATURES
    return FeatureExtractor(node.MODEL, node.WEIGHTS, node.MAX_SIZE)


def fuse_options(cfg: CfgNode) -> FuseOptions:
    """How maps are fused; a negative threshold stands for MODEL.CLIPER.ATTENTION_THRESHOLD."""
    node = cfg.MODEL.CLIPER.REFINER
    threshold = node.THRESHOLD if node.THRESHOLD >= 0 else cfg.MODEL.CLIPER.ATTENTION_THRESHOLD
    return options_of(FuseOptions, node, threshold=threshold)


def build_refiner(cfg: CfgNode) -> Refiner | None:
    """Build the refiner that the config names; ValueError for an unknown name."""
    name = cfg.MODEL.CLIPER.REFINER.NAME
    if name not in REFINER_REGISTRY:
        known = sorted(key for key, _ in REFINER_REGISTRY)
        raise ValueError(
            f"MODEL.CLIPER.REFINER.NAME: got {name!r}, expected one of {known}, or one that you "
            "registered"
        )
    return REFINER_REGISTRY.get(name)(cfg)
