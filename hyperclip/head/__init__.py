"""The cost-volume head: cost volume, aggregation, decoder, loss."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .cost_head import CosineHead, CostVolumeHead
from .logits import REJECTED, ViewLogits
from .loss import choose_classes, in_terms_of, pixel_class_bce, present_classes
