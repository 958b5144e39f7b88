"""The segmentation heads: image and text embeddings in, one logit map for each class out.

Shapes: B images (or views), T classes, K classes kept by pruning, C channels, h w feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..config.key_rules import FRAMEWORK, options_of
from ..dense_features import DenseFeatures
from ..runtime.memory import items_at_a_time
from ..runtime.precision import at_least_float32, exactly
from ..runtime.threads import in_pieces
from .aggregation import AggregationLayer, ClassAggregation, Grid, SpatialAggregation
from .decoder import Decoder, Prepared
from .logits import ViewLogits


def cost_volume(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of image embeddings (B, C, h, w) with text embeddings (T, C): (B, T, h, w) in -1..1.

    In float32 under autocast, too: cosines of different classes differ by little. Source: CAT-Seg
    (CVPR 2024); no temperature.
    """
    image, text = at_least_float32(image), at_least_float32(text)
    with torch.autocast(image.device.type, enabled=False):
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=-1)
        return (text @ image.flatten(2)).unflatten(2, image.shape[-2:])


def top_classes(costs: Tensor, keep: int) -> Tensor | None:
    """Indices (B, keep), ascending, of the classes whose best pixel in costs (B, T, h, w) is
    highest; None if no class has to go (T <= keep, or keep is 0).
    """
    if keep <= 0 or costs.shape[1] <= keep:
        return None
    return costs.flatten(2).amax(-1).topk(keep, dim=1).indices.sort(dim=1).values


class ScaledCosine(nn.Module):
    """Logits that are cosines times a scale plus a bias, both trained. They begin at values for
    cosines of a sentence encoder, for which few of many classes are probable. Source: Zhai et al.,
    SigLIP (ICCV 2023).
    """

    def __init__(self, scale: float = 25.0, bias: float = -12.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, costs: Tensor, finer: int = 1) -> Tensor:
        """Cosines (B, T, h, w) to logits (B, T, h finer, w finer)."""
        logits = costs * self.log_scale.exp() + self.bias
        if finer == 1:
            return logits
        return F.interpolate(logits, scale_factor=finer, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class PreparedImages:
    """B images without classes: embeddings (B, C, h, w), and their guidance of all stages."""

    embeddings: Tensor
    spatial: list[list[Tensor]]
    decoder: list[Prepared]

    def __getitem__(self, images: slice) -> PreparedImages:
        """Some of the images."""
        spatial = [[block[images] for block in layer] for layer in self.spatial]
        decoder = [Prepared(stage.kernel, stage.guided[images]) for stage in self.decoder]
        return PreparedImages(self.embeddings[images], spatial, decoder)


@dataclass(frozen=True)
class HeadOptions:
    """Sizes of the head; MODEL.SEM_SEG_HEAD's keys of the same names explain it. ValueError for a
    value that its key may not have, or values that do not fit each other.
    """

    feature_resolution: Grid
    hidden_dims: int
    num_layers: int
    num_heads: int
    window_sizes: int
    appearance_guidance_proj_dim: int
    text_guidance_proj_dim: int
    decoder_dims: tuple[int, int]
    decoder_guidance_dims: tuple[int, int]
    decoder_guidance_proj_dims: tuple[int, int]
    pad_len: int
    max_classes: int
    attention_type: str
    pooling_sizes: Grid
    pooling_sizes_test: Grid

    def __post_init__(self) -> None:
        FRAMEWORK.require("MODEL.SEM_SEG_HEAD.", vars(self))
        if self.hidden_dims % self.num_heads:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_HEADS: got {self.num_heads}, expected a divisor of "
                f"{self.hidden_dims}"
            )
        for key in ("POOLING_SIZES", "POOLING_SIZES_TEST"):
            size, grid = getattr(self, key.lower()), self.feature_resolution
            if grid[0] % size[0] or grid[1] % size[1]:
                raise ValueError(
                    f"MODEL.SEM_SEG_HEAD.{key}: got {list(size)}, expected divisors of the feature "
                    f"grid {grid}"
                )


class CostVolumeHead(nn.Module):
    """CAT-Seg's head, which HyperCLIP uses unchanged. Source: CAT-Seg (CVPR 2024).

    Args:
        embed_dim: channels of image and text embeddings. width, scale: channels of the two
            intermediate maps, and how many times finer than the grid they are, per side. The
            decoder's stages are 2 and 4 times finer: a map is brought there.
        scaled_cosine: start at :class:`ScaledCosine`, to which the rest adds.
        recompute: in training, compute activations again in the backward pass, to save memory.
    """

    layers: Any  # :class:`AggregationLayer`

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int,
        width: Sequence[int],
        scale: Sequence[int],
        options: HeadOptions,
        scaled_cosine: bool,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.recompute, self.max_classes = recompute, options.max_classes
        self.pooling_train, self.pooling_test = options.pooling_sizes, options.pooling_sizes_test
        self.grid, dim, heads = options.feature_resolution, options.hidden_dims, options.num_heads
        image_dim, text_dim = options.appearance_guidance_proj_dim, options.text_guidance_proj_dim
        inside, projected = options.decoder_guidance_dims, options.decoder_guidance_proj_dims
        self.upsample = upsampling(width, scale, inside)
        self.cost_embedding = nn.Conv2d(1, dim, 7, padding=3)
        self.appearance_projection = nn.Conv2d(embed_dim, image_dim, 3, padding=1)
        self.text_projection = nn.Linear(embed_dim, text_dim)
        pairs = zip(inside, projected, strict=True)
        self.decoder_projections = nn.ModuleList([nn.Conv2d(i, o, 3, padding=1) for i, o in pairs])
        self.layers = nn.ModuleList(
            AggregationLayer(
                SpatialAggregation(dim, image_dim, heads, options.window_sizes, self.grid, exact),
                ClassAggregation(
                    dim, text_dim, heads, options.pad_len, options.attention_type, exact
                ),
            )
            # what the first layer rounds weighs most: in bfloat16 elsewhere, labels stay the same
            for exact in (layer == 0 for layer in range(options.num_layers))
        )
        self.decoder = Decoder(dim, options.decoder_dims, projected)
        self.scaled_cosine = ScaledCosine() if scaled_cosine else None
        if scaled_cosine:
            for parameter in self.decoder.classifier.parameters():
                nn.init.zeros_(parameter)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict:
        """Translate a config; ``input_shape`` holds CLIP's "embed_dim", and "width" and "scale" of
        the intermediate maps.
        """
        head = cfg.MODEL.SEM_SEG_HEAD
        for key in ("TEXT_GUIDANCE_DIM", "APPEARANCE_GUIDANCE_DIM"):
            if head[key] not in (0, input_shape["embed_dim"]):
                raise ValueError(
                    f"MODEL.SEM_SEG_HEAD.{key}: got {head[key]}, expected "
                    f"{input_shape['embed_dim']}, CLIP's embedding width (or 0, which takes it "
                    "from CLIP)"
                )
        if len(head.CLIP_LAYERS) != 2:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CLIP_LAYERS: got {list(head.CLIP_LAYERS)}, expected two "
                "blocks, one for each stage of the decoder, such as [3, 7]"
            )
        recompute = "head" in cfg.MODEL.CHECKPOINT_ACTIVATIONS
        return {
            **input_shape,
            "options": options_of(HeadOptions, head),
            "scaled_cosine": head.SCALED_COSINE,
            "recompute": recompute,
        }

    def describe(self) -> dict[str, Any]:
        """What decides its numbers in inference, in plain values."""
        return {"pooling": list(self.pooling_test), "max_classes": self.max_classes}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``nn.Module.compile``, of ``forward`` and of the parts that ``infer`` calls."""
        super().compile(*args, **kwargs)
        parts = [part for layer in self.layers for part in (layer.spatial, layer.classes)]
        for part in (self.decoder, *parts):
            part.compile(*args, **kwargs)

    def embed_costs(self, costs: Tensor) -> Tensor:
        """Cost volume (B, T, h, w) to cost embeddings (B, T, h, w, C), class map by class map."""
        maps = exactly(self.cost_embedding, costs.flatten(0, 1)[:, None])
        return maps.unflatten(0, costs.shape[:2]).permute(0, 1, 3, 4, 2)

    def prepare(self, features: DenseFeatures) -> PreparedImages:
        """What does not depend on the classes; ValueError for features of another grid."""
        grid = tuple(features.embeddings.shape[-2:])
        if grid != self.grid:
            raise ValueError(
                f"feature map: got {grid}, expected the grid {self.grid}. The image given to CLIP "
                "has to be MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION times the patch size"
            )
        appearance = F.relu(self.appearance_projection(features.embeddings)).permute(0, 2, 3, 1)
        stages = zip(self.upsample, self.decoder_projections, features.intermediates, strict=True)
        guidance = [F.relu(project(up(x))) for up, project, x in stages]
        spatial = [layer.spatial.guide(appearance) for layer in self.layers]
        return PreparedImages(features.embeddings, spatial, self.decoder.prepare(guidance))

    def select(self, embeddings: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cost volume (B, K, h, w) and text guidance (B, K, C) of the classes kept (B, K); where
        all are, the guidance is (K, C), and None stands for the classes.
        """
        text_guidance = F.relu(self.text_projection(text))
        costs = cost_volume(embeddings, text)
        kept = top_classes(costs, self.max_classes)
        if kept is None:
            return costs, text_guidance, None
        costs = costs.gather(1, kept[:, :, None, None].expand(-1, -1, *self.grid))
        return costs, text_guidance[kept], kept

    def forward(self, features: DenseFeatures, text: Tensor) -> Tensor:
        """Logits (B, T, 4h, 4w) of B images for classes of unit embeddings (T, embed_dim);
        ``REJECTED`` for classes that pruning left out.
        """
        images = self.prepare(features)
        costs, text_guidance, kept = self.select(images.embeddings, text)
        recompute = self.recompute and self.training
        pooling = self.pooling_train if self.training else self.pooling_test
        x = self.embed_costs(costs)
        for layer, guided in zip(self.layers, images.spatial, strict=True):
            x = layer(x, guided, text_guidance, pooling, recompute)
        logits = self.decoder(x.permute(0, 1, 4, 2, 3), images.decoder, recompute)
        if self.scaled_cosine is not None:
            logits = logits + self.scaled_cosine(costs, finer=4)
        return ViewLogits(logits, len(text), kept).whole()

    @torch.no_grad()
    def infer(self, images: PreparedImages, text: Tensor, chunk: int = 0) -> ViewLogits:
        """The logits of ``forward`` with ``pooling_test``, from ``prepare``, in bounded memory.

        Args:
            chunk: class maps handled at a time, 0 for what ``items_at_a_time`` says; the embeddings
                of one image's, and of more images' within ``chunk``, are in memory together.
        """
        costs, text_guidance, kept = self.select(images.embeddings, text)
        b, k, h, w = costs.shape
        channels = self.cost_embedding.out_channels
        chunk = chunk or items_at_a_time(h * w * 4 * channels, costs.device)
        logits, group = costs.new_empty(b, k, 4 * h, 4 * w), min(b, max(1, chunk // k))
        memory = costs.new_empty(group, k, h, w, channels)
        for i in range(0, b, group):
            own = slice(i, i + group)
            some, own_text = images[own], text_guidance if kept is None else text_guidance[own]
            x = memory[: len(some.embeddings)]
            in_pieces(lambda maps, part: maps.copy_(self.embed_costs(part)), chunk, x, costs[own])
            for layer, guided in zip(self.layers, some.spatial, strict=True):
                layer.update(x, guided, own_text, self.pooling_test, chunk)
            decode = partial(self.decoder, prepared=some.decoder)
            maps = x.permute(0, 1, 4, 2, 3)
            in_pieces(lambda out, part, f=decode: out.copy_(f(part)), chunk, logits[own], maps)
        if self.scaled_cosine is not None:
            logits += self.scaled_cosine(costs, finer=4)
        return ViewLogits(logits, len(text), kept)


def upsampling(
    width: int | Sequence[int], scale: int | Sequence[int], dims: Sequence[int]
) -> nn.ModuleList:
    """Transposed convolutions of two maps to 2 and 4 times the grid; ValueError for a map that is
    finer than that.
    """
    widths = [width] * 2 if isinstance(width, int) else list(width)
    scales = [scale] * 2 if isinstance(scale, int) else list(scale)
    layers = []
    for stage, (channels, finer, dim, target) in enumerate(
        zip(widths, scales, dims, (2, 4), strict=True)
    ):
        if target % finer:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CLIP_LAYERS: entry {stage} is a map {finer} times as fine as "
                f"the embeddings, expected {'1 or 2' if target == 2 else '1, 2 or 4'}, since this "
                f"stage of the decoder is {target} times as fine. Name a later, coarser one"
            )
        layers.append(nn.ConvTranspose2d(channels, dim, target // finer, target // finer))
    return nn.ModuleList(layers)


class CosineHead(nn.Module):
    """The baseline of dense CLIP: the cosine of every patch with every class is its logit.

    Args:
        scaled_cosine: by :class:`ScaledCosine` instead, which can be trained.
    """

    @configurable
    def __init__(self, *, scaled_cosine: bool) -> None:
        super().__init__()
        self.scaled_cosine = ScaledCosine() if scaled_cosine else None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict:
        """Translate a config."""
        return {"scaled_cosine": cfg.MODEL.SEM_SEG_HEAD.SCALED_COSINE}

    def describe(self) -> dict[str, Any]:
        """Nothing of it decides numbers in inference."""
        return {}

    def forward(self, features: DenseFeatures, text: Tensor) -> Tensor:
        """Logits (B, T, h, w) for unit embeddings (T, C)."""
        costs = cost_volume(features.embeddings, text)
        return costs if self.scaled_cosine is None else self.scaled_cosine(costs)

    def prepare(self, features: DenseFeatures) -> DenseFeatures:
        """The features themselves."""
        return features

    def infer(self, images: DenseFeatures, text: Tensor, chunk: int = 0) -> ViewLogits:
        """As :meth:`CostVolumeHead.infer`; the maps are small, so there is nothing to bound."""
        return ViewLogits(self(images, text), len(text))
