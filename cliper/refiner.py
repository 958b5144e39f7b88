"""The refiners of CLIPer, for it and any other system, by their names in REFINER_REGISTRY."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from hyperclip.config.key_rules import options_of
from hyperclip.stages.refining import (
    REFINER_REGISTRY,
    GridRefinement,
    Refinement,
    Refiner,
    build_entry,
)
from torch import Tensor, nn

from .affinity import FuseOptions
from .diffusion import DiffusionAttention, DiffusionOptions
from .feature_refiner import FeatureExtractor, mix_alike
from .pretrained import load_diffusion


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
    """The refiner of MODEL.CLIPER.REFINER.NAME; ValueError for an unknown name."""
    key, name = "MODEL.CLIPER.REFINER.NAME", cfg.MODEL.CLIPER.REFINER.NAME
    return build_entry(REFINER_REGISTRY, key, name, cfg)
