"""How far results may differ between processors where a number is so close to a cut that rounding
decides its side.

Two processors add the same numbers in another order, so that their float32 results differ in the
last digits. Behind a cut ("below a share of the largest: 0") such a difference becomes as large as
the cut itself, but only for the few entries that lie at it. What such an entry can change follows
from the arithmetic, in first order:

* a row of a normalised map is a weighted mean with the weights ``a_j / S``. An entry at the
    threshold t has the weight t / S, so with it or without it the mean y differs by ``t / S |x_j -
    y|``; * everything behind it is linear with weights that are not negative, so doubts are
    propagated with the same weights.

Every other entry has to agree to the tolerance of the comparison. Shapes: M maps, N tokens, T
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from cliper.scores import Embedded, ScoreOptions, coarse_scores
from torch import Tensor

CLOSE_PROBABILITIES = 1e-4
"""Relative distance from the cut within which an attention probability may lie on either side:
probabilities up to 0.99 are compared to 1e-4 themselves (C6), which is the error of their logits
(up to 40) behind a UNet in float32.
"""
CLOSE_CLASSES = 1e-3
"""The same for class probabilities: their logits, of scale 100, are compared to 1e-3 (C2), and exp
turns an absolute error of a logit into a relative one of the probability.
"""
ROUNDED = 2.0**-24
"""Relative error of one float32 rounding."""


def at_the_cut(values: Tensor, level: Tensor | float, close: float) -> Tensor:
    """Which values are within a relative distance of a level."""
    return (values - level).abs() <= close * torch.as_tensor(level, dtype=values.dtype)


def coarse_bounds(
    image: Embedded, text: Tensor, classes: int, options: ScoreOptions
) -> tuple[Tensor, Tensor]:
    """Between which two numbers each of CLIPer's coarse scores (T, h, w) lies, wherever entries at
    the cut fall.

    All that follows the cut has weights that are not negative, so more entries kept give larger
    scores: one bound has all entries in doubt cut, the other one none.
    """
    levels = (
        options.attention_threshold * (1 + CLOSE_CLASSES),
        options.attention_threshold * (1 - CLOSE_CLASSES),
    )
    low, high = (
        coarse_scores(image, text, classes, replace(options, attention_threshold=level))
        for level in levels
    )
    return low, high


def close_in_float32(largest_logit: float, terms: int) -> float:
    """Relative distance within which float32 maps ``softmax(q k^T)``, divided by their columns'
    largest, may differ.

    A logit is a sum of so many terms and has an absolute error of up to ``terms`` roundings of the
    largest one, which exp makes a relative error; the largest entry has the same one, and the
    division and the row's sum add a few roundings.
    """
    return 2 * ROUNDED * (terms * largest_logit + 4)


def refinement_doubt(
    maps: Sequence[Tensor],
    scores: Tensor,
    doubt: Tensor,
    threshold: float,
    close: float = CLOSE_PROBABILITIES,
) -> Tensor:
    """Doubt (N, T) of the product of cut and normalised maps (N, N), the first one outermost, with
    scores (N, T).

    Args:
        maps: softmax probabilities. doubt: that of the scores (N, T). close: relative distance from
            the cut.
    """
    for one in reversed(maps):
        scaled = one / (one.amax(dim=0) + 1e-5)
        kept = torch.where(scaled < threshold, 0.0, scaled)
        sums = kept.sum(dim=1, keepdim=True) + 1e-5
        result, doubt = kept @ scores / sums, kept @ doubt / sums
        rows, columns = at_the_cut(scaled, threshold, close).nonzero(as_tuple=True)
        doubt = doubt.index_add(
            0, rows, threshold / sums[rows] * (scores[columns] - result[rows]).abs()
        )
        scores = result
    return doubt
