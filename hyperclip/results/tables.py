"""What share of an image each class has, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .answer import Answer
from .limits import need_plain


class ClassRow(NamedTuple):
    """A class: its pixels, their share of the image in 0..1, and their mean confidence, None where
    it has none.
    """

    name: str
    pixels: int
    share: float
    confidence: float | None


def class_table(answer: Answer) -> list[ClassRow]:
    """A row for each name, in their order."""
    counted = answer.labels >= 0
    found, confidence = answer.labels[counted], answer.confidence[counted].astype(np.float64)
    count = len(answer.names)
    pixels = np.bincount(found, minlength=count).tolist()
    sums = np.bincount(found, weights=confidence, minlength=count).tolist()
    everything = max(1, answer.labels.size)
    return [
        ClassRow(name, n, n / everything, total / n if n else None)
        for name, n, total in zip(answer.names, pixels, sums, strict=True)
    ]


def pixels_by_name(names: Sequence[str], pixels: Sequence[int]) -> dict[str, int]:
    """How many pixels each name has, of classes that have so many: those of equal names together,
    as some released lists have them.
    """
    total = dict.fromkeys(names, 0)
    for name, n in zip(names, pixels, strict=True):
        total[name] += n
    return total


def need_table_names(names: Sequence[str]) -> None:
    """ValueError for names with control characters, which break the lines of a table."""
    need_plain("format table", names)
