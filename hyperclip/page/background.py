"""What the page's visitor says of pixels that are none of the classes, and how that is asked."""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..segmenter import Question
from ..vocabulary.names import split_words

RULES: Mapping[str, str] = {
    "own": "As the system is set",
    "none": "None: every pixel gets a class",
    "threshold": "Pixels below a confidence",
    "words": "Named by words",
    "other": "Unlike all of the classes",
}
"""The rules on offer, in the words that visitors see."""


@dataclass(frozen=True)
class Background:
    """Which pixels get no class.

    Attributes:
        rule: of ``RULES``, see :data:`hyperclip.segmenter.BACKGROUNDS`.
        threshold: for "threshold", the confidence below which pixels get no class.
        words: for "words", what the background is named, in text as of classes.
        class_threshold: classes whose best pixel stays below it are left out; None for the
            system's own.
    Raises:
        ValueError: another rule, no words, a threshold outside 0 to 2.
    """

    rule: str = "own"
    threshold: float = 0.0
    words: str = ""
    class_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"Background: got {self.rule!r}, expected one of {list(RULES)}")
        _check_threshold("Background threshold", self.threshold)
        if self.class_threshold is not None:
            _check_threshold("Class threshold", self.class_threshold)
        if self.rule == "words" and not split_words(self.words):
            raise ValueError("Background words: got none, expected names such as 'wall; sky'")

    def question(self, classes: str) -> Question:
        """The typed classes under this rule; ValueError as :meth:`Question.of`."""
        return Question.of(
            classes,
            background=self.rule,
            negatives=self.words if self.rule == "words" else "",
            threshold=self.threshold if self.rule == "threshold" else None,
            class_threshold=self.class_threshold,
        )


def threshold_of(name: str, text: str) -> float | None:
    """A typed threshold, None for an empty box; ValueError unless it is a number from 0 to 2."""
    if not str(text or "").strip():
        return None
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 2:
        expected = "a number from 0 to 2, or nothing for the system's own"
        raise ValueError(f"{name}: got {text!r}, expected {expected}")
    return value


def _check_threshold(name: str, value: Any) -> None:
    """ValueError unless a value is a number from 0 to 2."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and 0 <= value <= 2):
        raise ValueError(f"{name}: got {value!r}, expected a number from 0 to 2")
