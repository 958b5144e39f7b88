"""Maps of the Poincare ball at its origin, with the clamps that HyperCLIP's released weights were
trained under.

The ball of curvature magnitude ``c`` has the radius ``1 / sqrt(c)``. The maps come from ``geoopt``;
what is added is where points are held back from the boundary. They are evaluated in float64, since
artanh of a small float32 number cancels, and returned in the input's type. Points are the last
dimension of every tensor. Shapes: E rows of a matrix, D width. Source: HyperCLIP (CVPR 2025); Ganea
et al., "Hyperbolic Neural Networks" (2018).
"""

import math

import torch
from geoopt import PoincareBall
from torch import Tensor

POINT_MARGIN = 1e-5
"""artanh sees at most ``1 - POINT_MARGIN``: vectors read back from the ball saturate there."""
PRODUCT_MARGIN = 1e-3
"""The result of a Moebius product is projected to ``(1 - PRODUCT_MARGIN) / sqrt(c)``."""


def tangent_cap(c: float, margin: float = PRODUCT_MARGIN) -> float:
    """Largest norm that ``logmap0`` returns for a projected point: artanh(1 - margin) / sqrt(c)."""
    return math.atanh(1.0 - margin) / math.sqrt(c)


def project(y: Tensor, c: float, margin: float = PRODUCT_MARGIN) -> Tensor:
    """Pull points (..., D) outside the ball of radius ``(1 - margin) / sqrt(c)`` back onto it."""
    limit = (1.0 - margin) / math.sqrt(c)
    norm = y.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(y.dtype).tiny)
    return torch.where(norm > limit, y / norm * limit, y)


def expmap0(u: Tensor, c: float) -> Tensor:
    """Exponential map at 0 of tangent vectors (..., D): ``tanh(sqrt(c)|u|) u / (sqrt(c)|u|)``."""
    return _ball(u, c).expmap0(u.double(), project=False).to(u.dtype)


def logmap0(y: Tensor, c: float) -> Tensor:
    """Logarithmic map at 0, inverse of :func:`expmap0`: ``artanh(sqrt(c)|y|) y / (sqrt(c)|y|)``.

    Points closer to the boundary than ``POINT_MARGIN`` keep their direction and get the norm of
    that margin.
    """
    return _ball(y, c).logmap0(project(y.double(), c, POINT_MARGIN)).to(y.dtype)


def mobius_matvec(m: Tensor, x: Tensor, c: float) -> Tensor:
    """Moebius product of a matrix ``m`` (E, D) with points ``x`` (..., D), projected into the ball:
    ``tanh(|Mx|/|x| artanh(sqrt(c)|x|)) Mx / (|Mx| sqrt(c))``; a zero product gives zero.
    """
    product = _ball(x, c).mobius_matvec(
        m.double(), project(x.double(), c, POINT_MARGIN), project=False
    )
    return project(product, c).to(x.dtype)


def radius(u: Tensor) -> Tensor:
    """Hyperbolic radius of tangent vectors (..., D), the distance of ``expmap0(u)`` from 0: it
    is ``2 |u|`` for every curvature (geoopt's and the paper's metric, conformal factor 2 there).
    """
    return 2.0 * u.norm(dim=-1)


def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Geodesic distance of points (..., D) of the ball of curvature magnitude ``c``."""
    return _ball(x, c).dist(x.double(), y.double()).to(x.dtype)


def _ball(like: Tensor, c: float) -> PoincareBall:
    if not c > 0:
        raise ValueError(
            f"curvature magnitude: got {c}, expected a positive number (released: text 1.0, vision "
            "0.01)"
        )
    return PoincareBall(torch.tensor(c, dtype=torch.float64, device=like.device))
