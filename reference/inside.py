"""Slow twins of :mod:`hyperclip.analysis.inside`, pixel by pixel and class by class.

Shapes: T classes, A heads, C channels, d numbers of a head, H W image.
"""

import math

import torch
from hyperclip.head.aggregation import ClassAggregation
from torch import Tensor


def margin_and_entropy(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (T, H, W): best less second, and the entropy in shares of log T, both (H, W)."""
    margin, entropy = torch.zeros(scores.shape[1:]), torch.ones(scores.shape[1:])
    for row in range(scores.shape[1]):
        for column in range(scores.shape[2]):
            values = scores[:, row, column].tolist()
            ordered = sorted(values, reverse=True)
            margin[row, column] = ordered[0] - ordered[1]
            positive = [max(value, 0) for value in values]
            if (total := sum(positive)) > 0:
                shares = [value / total for value in positive if value > 0]
                found = -sum(share * math.log(share) for share in shares)
                entropy[row, column] = found / math.log(len(values))
    return margin, entropy


def class_weights(attention: ClassAggregation, x: Tensor, guidance: Tensor) -> Tensor:
    """Shares (A, T, T + 1) of normalised tokens x (T, C) with guidance of as many: every pair of
    classes by itself, and as many padding tokens as there are, one after the other.
    """
    projections = attention.projections
    copies = max(0, attention.pad_length - len(x))
    token = attention.norm1(attention.padding_token)
    tokens = torch.cat([x, token.expand(copies, -1)])
    guided = torch.cat([guidance, attention.padding_guidance.expand(copies, -1)])
    both = torch.cat([tokens, guided], dim=1)
    q = projections.q(both).unflatten(1, (attention.heads, -1))
    k = projections.k(both).unflatten(1, (attention.heads, -1))
    shares = torch.zeros(attention.heads, len(x), len(x) + 1)
    for head in range(attention.heads):
        for row in range(len(x)):
            raw = [similarity(attention, q[row, head], other[head]) for other in k]
            total = sum(raw)
            shares[head, row, : len(x)] = torch.tensor(raw[: len(x)]) / total
            shares[head, row, -1] = sum(raw[len(x) :]) / total
    return shares


def similarity(attention: ClassAggregation, q: Tensor, k: Tensor) -> float:
    """Of a query (d,) with a key (d,), not normalised."""
    if attention.attention == "full":
        return math.exp(float(q @ k) / math.sqrt(len(q)))
    return float((torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1))
