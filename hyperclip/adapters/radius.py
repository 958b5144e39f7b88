"""HyperCLIP's adapter: hyperbolic radius adjustment of the rows of an attention weight.

Shapes: Q projections, O rows of one, D width, R = D / b blocks, b side of a block.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .. import hyperbolic
from . import base


class RadiusAdjustment(base.RowsAdapter):
    """HyperCLIP's adapter: ``W' = log0(M (x)_c exp0(W))`` by rows, with a free block-diagonal M.

    The maps cancel: ``W'`` is ``W M^T`` with row norms capped at artanh(1 - 1e-3) / sqrt(c), which
    is what is computed unless ``literal``. Source: HyperCLIP (CVPR 2025).

    Args:
        width: D. block_size: side b of the blocks, a divisor of D.
        curvature: magnitude c > 0 of the ball's curvature.
        projections: which of "q", "k", "v" are adjusted.
        literal: compose the maps of :mod:`hyperclip.hyperbolic` instead.
        holds: which of them the weight has.
    Raises:
        ValueError: a block size that does not divide the width, an unknown projection, c <= 0.
    """

    def __init__(
        self,
        width: int,
        block_size: int,
        curvature: float,
        projections: Iterable[str] = base.PROJECTIONS,
        literal: bool = False,
        holds: Sequence[str] = base.PROJECTIONS,
    ) -> None:
        super().__init__(projections, holds)
        base.check_blocks(width, block_size)
        self.curvature, self.literal = base.checked_curvature(curvature), literal
        identity = torch.eye(block_size).repeat(width // block_size, 1, 1)
        for name in self.projections:
            self.register_parameter(name, nn.Parameter(identity.clone()))

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight, (3D, D) with q, k and v, to the adjusted one, in float32 or wider."""
        parts = weight.unflatten(0, (len(self.holds), -1))
        chosen = [self.holds.index(name) for name in self.projections]
        blocks = [getattr(self, name) for name in self.projections]
        with torch.autocast(weight.device.type, enabled=False):
            if len(chosen) == len(self.holds):
                return self._adjust(parts, blocks).flatten(0, 1)
            adjusted = self._adjust(parts[chosen], blocks)
        index = torch.tensor(chosen, device=weight.device)
        return parts.index_copy(0, index, adjusted).flatten(0, 1)

    def _adjust(self, weights: Tensor, blocks: list[Tensor]) -> Tensor:
        """Adjust weights (Q, O, D), each by its blocks (R, b, b)."""
        pairs = zip(weights, blocks, strict=True)
        if self.literal:
            return torch.stack([self._literal(one, own) for one, own in pairs])
        if torch.is_grad_enabled():
            return capped_product(weights, torch.stack(blocks), self.curvature)
        result = torch.empty_like(weights)
        for (one, own), out in zip(pairs, result, strict=True):  # each stays in a CPU's cache
            capped_product(one, own, self.curvature, out)
        return result

    def _literal(self, weight: Tensor, blocks: Tensor) -> Tensor:
        points = hyperbolic.expmap0(weight, self.curvature)
        product = hyperbolic.mobius_matvec(torch.block_diag(*blocks), points, self.curvature)
        return hyperbolic.logmap0(product, self.curvature)

    def starts_at_identity(self) -> list[nn.Parameter]:
        return list(self.parameters())


def capped_product(
    weight: Tensor, blocks: Tensor, curvature: float, out: Tensor | None = None
) -> Tensor:
    """``weight`` (…, O, D) times the transpose of a block-diagonal matrix, its rows' norms capped
    before and after as the ball of this curvature does; written to ``out``, without gradients, if
    that is given.
    """
    input_cap = hyperbolic.tangent_cap(curvature, hyperbolic.POINT_MARGIN)
    output_cap = hyperbolic.tangent_cap(curvature)
    product = base.block_product(weight, blocks, out)
    # scaling a row commutes with the product
    before = input_cap / weight.norm(dim=-1, keepdim=True).clamp_min(input_cap)
    after = output_cap / (product.norm(dim=-1, keepdim=True) * before).clamp_min(output_cap)
    return product * (before * after) if out is None else product.mul_(before * after)


@base.ADAPTER_REGISTRY.register()
def hyperbolic_radius(
    sites: Sequence[base.Site], options: base.AdapterOptions
) -> list[base.Adapter]:
    """Radius adjustment of every site's own."""
    adapters: list[base.Adapter] = []
    for site in sites:
        side, curvature = options.side(site.encoder), options.curvature(site.encoder)
        kind = (options.projections, options.literal, site.matrices)
        adapters.append(RadiusAdjustment(site.width, side, curvature, *kind))
    return adapters
