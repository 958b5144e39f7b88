"""HyperCLIP's adapter: hyperbolic radius adjustment of the rows of an attention weight.

Shapes: D width, R = D / b blocks of side b.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .. import hyperbolic
from .base import (
    ADAPTER_REGISTRY,
    PROJECTIONS,
    Adapter,
    AdapterOptions,
    Site,
    block_product,
    check_blocks,
    checked_choices,
    checked_curvature,
)


class RadiusAdjustment(Adapter):
    """HyperCLIP's adapter: ``W' = log0(M (x)_c exp0(W))`` row by row, with a free block-diagonal
    ``M``.

    Apart from clamps at the boundary of the ball, exp0, the Moebius product and log0 cancel, and
    ``W'`` is exactly ``W M^T`` with row norms capped at artanh(1 - 1e-3) / sqrt(c). That is the
    fast path; ``literal=True`` composes the maps of :mod:`hyperclip.hyperbolic` instead. Source:
    HyperCLIP (CVPR 2025).

    Args:
        width: D, input features of the projection.
        block_size: side b of the blocks; it has to divide ``width``.
        curvature: magnitude c > 0 of the ball's curvature.
        projections: which of "q", "k", "v" are adjusted.
        literal: evaluate the hyperbolic maps themselves.
    Raises:
        ValueError: a block size that does not divide the width, an unknown projection, c <= 0.
    """

    def __init__(
        self,
        width: int,
        block_size: int = 128,
        curvature: float = 0.01,
        projections: Iterable[str] = PROJECTIONS,
        literal: bool = False,
    ) -> None:
        super().__init__()
        check_blocks(width, block_size)
        self.projections = checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS)
        self.curvature, self.literal = checked_curvature(curvature), literal
        identity = torch.eye(block_size).repeat(width // block_size, 1, 1)
        for name in self.projections:
            self.register_parameter(name, nn.Parameter(identity.clone()))

    def forward(self, weight: Tensor) -> Tensor:
        """Map ``in_proj_weight`` (3D, D) to the adjusted weight (3D, D), always computed in float32
        or wider.
        """
        parts = weight.unflatten(0, (3, -1))
        chosen = [PROJECTIONS.index(name) for name in self.projections]
        blocks = [getattr(self, name) for name in self.projections]
        with torch.autocast(weight.device.type, enabled=False):
            if len(chosen) < len(PROJECTIONS):
                adjusted = self._adjust(parts[chosen], blocks)
                parts = parts.index_copy(0, torch.tensor(chosen, device=weight.device), adjusted)
            else:
                parts = self._adjust(parts, blocks)
        return parts.flatten(0, 1)

    def starts_at_identity(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def _adjust(self, weights: Tensor, blocks: list[Tensor]) -> Tensor:
        """Adjust weights (P, O, D), each by its blocks (R, b, b)."""
        if self.literal:
            return torch.stack(
                [self._literal(w, own) for w, own in zip(weights, blocks, strict=True)]
            )
        input_cap = hyperbolic.tangent_cap(self.curvature, hyperbolic.POINT_MARGIN)
        output_cap = hyperbolic.tangent_cap(self.curvature)
        if torch.is_grad_enabled():
            return capped_product(weights, torch.stack(blocks), input_cap, output_cap)
        result = torch.empty_like(weights)
        # each stays in a CPU's cache
        for one, own, out in zip(weights, blocks, result, strict=True):
            capped_product(one, own, input_cap, output_cap, out)
        return result

    def _literal(self, weight: Tensor, blocks: Tensor) -> Tensor:
        points = hyperbolic.expmap0(weight, self.curvature)
        product = hyperbolic.mobius_matvec(torch.block_diag(*blocks), points, self.curvature)
        return hyperbolic.logmap0(product, self.curvature)


def capped_product(
    weight: Tensor, blocks: Tensor, input_cap: float, output_cap: float, out: Tensor | None = None
) -> Tensor:
    """``weight`` (…, O, D) times the transpose of a block-diagonal matrix, the norms of its rows
    capped before and after.

    Scaling a row commutes with the product, so both caps are one multiplication at the end. With
    ``out``, of the shape of ``weight``, the result is written there, without gradients.
    """
    product = block_product(weight, blocks, out)
    before = input_cap / weight.norm(dim=-1, keepdim=True).clamp_min(input_cap)
    after = output_cap / (product.norm(dim=-1, keepdim=True) * before).clamp_min(output_cap)
    return product * (before * after) if out is None else product.mul_(before * after)


@ADAPTER_REGISTRY.register()
def hyperbolic_radius(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Radius adjustment of every site's own."""
    return [
        RadiusAdjustment(
            s.width,
            options.side(s.encoder),
            options.curvature(s.encoder),
            options.projections,
            options.literal,
        )
        for s in sites
    ]
