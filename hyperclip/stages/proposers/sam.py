"""Masks of SAM and SAM 2 by a grid of points, with the models of transformers.

Of each point the model gives three masks. Those that it thinks good and that hardly change with the
threshold stay, and of those that are nearly the same the best one (Kirillov et al., 2023).
Shapes: R masks, h w grid of the masks, H W image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...config.key_rules import FRAMEWORK, options_of
from ..regions import REGIONS_REGISTRY, partition
from .transformers_masks import distinct, load_masks

OFFSET = 1.0
"""Of the logits' thresholds whose masks' IoU is the stability."""


@dataclass(frozen=True)
class MaskRules:
    """Which masks count.

    Args:
        points: on a side of the grid. batch: points at a time. iou, stability: the least ones.
        duplicates: the highest IoU of two masks. ValueError: as the keys of TEST.REGIONS.MASKS.
    """

    points: int
    batch: int
    iou: float
    stability: float
    duplicates: float

    def __post_init__(self) -> None:
        FRAMEWORK.require("TEST.REGIONS.MASKS.", vars(self))


class SamMasks(nn.Module):
    """Proposes the masks of a model of SAM or SAM 2; of overlapping ones the smallest counts.

    Args:
        model, processor: of transformers, see :func:`load_masks`.
    """

    model: Any

    def __init__(self, model: nn.Module, processor: Any, rules: MaskRules) -> None:
        super().__init__()
        self.model, self.processor, self.rules = model, processor, rules

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """See :data:`hyperclip.stages.Proposer`."""
        return [partition(self.masks(image)) for image in images]

    def masks(self, image: Tensor) -> Tensor:
        """The masks of an image (3, H, W), RGB 0..255, bool (R, H, W), that count, best first."""
        height, width = image.shape[1:]
        points = grid_of_points(self.rules.points, height, width)
        asked = self.processor(
            images=[image.cpu().clamp(0, 255).to(torch.uint8)],
            input_points=[points[:, None].tolist()],
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        embeddings = self.model.get_image_embeddings(asked["pixel_values"].to(device))
        sizes = [asked[k] for k in ("original_sizes", "reshaped_input_sizes") if k in asked]
        parts: list[tuple[Tensor, Tensor]] = []
        for some in asked["input_points"].to(device).split(self.rules.batch, dim=1):
            answer = self.model(
                image_embeddings=embeddings, input_points=some, multimask_output=True
            )
            logits, quality = answer.pred_masks[0].flatten(0, 1), answer.iou_scores[0].flatten()
            good = (quality >= self.rules.iou) & (stability(logits) >= self.rules.stability)
            parts.append((logits[good], quality[good]))
        logits, quality = (torch.cat(values) for values in zip(*parts, strict=True))
        stay = distinct(logits > 0, quality, self.rules.duplicates)
        if not len(stay):
            return torch.zeros(0, height, width, dtype=torch.bool, device=device)
        return self.processor.post_process_masks([logits[stay][None]], *sizes)[0][0]


def grid_of_points(number: int, height: int, width: int) -> Tensor:
    """The centres (x, y) of number x number cells of an image, float (number², 2), in pixels."""
    shares = (torch.arange(number) + 0.5) / number
    return torch.cartesian_prod(shares * height, shares * width).flip(1)


def stability(logits: Tensor) -> Tensor:
    """The IoU (R,) of where logits (R, h, w) are above ``OFFSET`` and above -``OFFSET``, or 0."""
    high, low = ((logits > bound).sum(dim=(1, 2)) for bound in (OFFSET, -OFFSET))
    return high / low.clamp_min(1)


@REGIONS_REGISTRY.register()
def sam(cfg: CfgNode) -> SamMasks:
    """Build from TEST.REGIONS.MODEL and MASKS."""
    classes = ("SamModel", "SamProcessor")
    return _build(cfg, ("sam",), classes, "facebook/sam-vit-base")


@REGIONS_REGISTRY.register()
def sam2(cfg: CfgNode) -> SamMasks:
    """Build from TEST.REGIONS.MODEL and MASKS."""
    classes = ("Sam2Model", "Sam2Processor")
    return _build(cfg, ("sam2", "sam2_video"), classes, "facebook/sam2.1-hiera-tiny")


def _build(
    cfg: CfgNode, kinds: tuple[str, ...], classes: tuple[str, str], example: str
) -> SamMasks:
    node = cfg.TEST.REGIONS
    rules = options_of(MaskRules, node.MASKS)
    model, processor = load_masks(node.MODEL, kinds, classes, example)
    return SamMasks(model.to(cfg.MODEL.DEVICE), processor, rules)
