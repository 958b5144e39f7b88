"""Masks of EoMT (Kerssies et al., 2025), with the models of transformers: one of each query that
the model takes for an object or a surface of any of its classes. Shapes: R masks, H W image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...config.key_rules import FRAMEWORK
from ..regions import REGIONS_REGISTRY, partition
from .transformers_masks import KEY, load_masks

EXAMPLE = "tue-mps/coco_panoptic_eomt_large_640"


class EomtMasks(nn.Module):
    """Proposes the masks of a panoptic or instance model of EoMT; of overlapping ones the smallest
    counts.

    Args:
        model, processor: of transformers, see :func:`load_masks`. score: the least probability of
            a class other than none.
    Raises:
        ValueError: a semantic model, which cuts an image into parts, or a score that its key
            TEST.REGIONS.MASKS.SCORE may not have.
    """

    def __init__(self, model: nn.Module, processor: Any, score: float) -> None:
        super().__init__()
        FRAMEWORK.require("TEST.REGIONS.MASKS.", {"score": score})
        if processor.do_split_image:
            got = "got a semantic model, which cuts an image into parts"
            raise ValueError(f"{KEY}: {got}, expected a panoptic or instance one ({EXAMPLE})")
        self.model, self.processor, self.score = model, processor, score

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """See :data:`hyperclip.stages.Proposer`."""
        return [partition(self.masks(image)) for image in images]

    def masks(self, image: Tensor) -> Tensor:
        """The masks of an image (3, H, W), RGB 0..255, bool (R, H, W), that count."""
        pixels = image.cpu().clamp(0, 255).to(torch.uint8)
        asked = self.processor(images=[pixels], return_tensors="pt")["pixel_values"]
        answer = self.model(pixel_values=asked.to(next(self.model.parameters()).device))
        chances = answer.class_queries_logits[0].softmax(dim=-1)[:, :-1].amax(dim=1)
        logits = answer.masks_queries_logits[:, chances >= self.score]
        size = (image.shape[1], image.shape[2])
        if not logits.shape[1]:
            return logits.new_zeros(0, *size, dtype=torch.bool)
        whole = F.interpolate(logits, size=asked.shape[-2:], mode="bilinear", align_corners=False)
        return self.processor.unpad_image(whole, [size], self.processor.size)[0] > 0


@REGIONS_REGISTRY.register()
def eomt(cfg: CfgNode) -> EomtMasks:
    """Build from TEST.REGIONS.MODEL and MASKS.SCORE."""
    classes = ("AutoModelForUniversalSegmentation", "AutoImageProcessor")
    model, processor = load_masks(cfg.TEST.REGIONS.MODEL, ("eomt", "eomt_dinov3"), classes, EXAMPLE)
    return EomtMasks(model.to(cfg.MODEL.DEVICE), processor, cfg.TEST.REGIONS.MASKS.SCORE)
