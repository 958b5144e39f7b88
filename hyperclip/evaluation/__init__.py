"""Evaluation: streaming confusion matrix, scores, Detectron2 evaluator."""

from ..runtime import detectron2  # noqa: F401  (first, see there)

# isort: split
from .confusion import ConfusionMatrix, SegmentationScores
from .evaluator import SemSegEvaluator

__all__ = ["ConfusionMatrix", "SegmentationScores", "SemSegEvaluator"]
