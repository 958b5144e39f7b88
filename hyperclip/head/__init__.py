"""The cost-volume head: cost volume, aggregation, decoder, loss."""

from .cost_head import REJECTED, CosineHead, CostVolumeHead
from .loss import pixel_class_bce, sample_classes

__all__ = ["REJECTED", "CosineHead", "CostVolumeHead", "pixel_class_bce", "sample_classes"]
