"""Evaluation: streaming confusion matrix, scores, Detectron2 evaluator."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .confusion import ConfusionMatrix, SegmentationScores
from .evaluator import SemSegEvaluator
