"""Evaluation: streaming confusion matrix, scores, Detectron2 evaluator."""

from .confusion import ConfusionMatrix, SegmentationScores
from .evaluator import SemSegEvaluator

__all__ = ["ConfusionMatrix", "SegmentationScores", "SemSegEvaluator"]
