"""Rotation of the rows of an attention weight by orthogonal blocks, so that no norm changes.

Shapes: R blocks, b side of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from . import base


class Rotation(base.RowsAdapter):
    """``W' = W R^T`` with blocks ``(I - S)^-1 (I + S)`` of R, S = ``(P - P^T) / 2``, P free.

    ``block_size`` is b, a divisor of the ``width`` D; ``projections`` are those of "q", "k", "v"
    that are rotated; ValueError for others. Source: Cayley's map as in HyRo (CVPR 2026) and OFT.
    """

    def __init__(
        self, width: int, block_size: int = 128, projections: Iterable[str] = base.PROJECTIONS
    ) -> None:
        super().__init__(projections)
        base.check_blocks(width, block_size)
        for name in self.projections:
            free = torch.zeros(width // block_size, block_size, block_size)
            self.register_parameter(name, nn.Parameter(free))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        return base.block_product(rows, cayley(getattr(self, name)))


def cayley(free: Tensor) -> Tensor:
    """Rotations (R, b, b) of free matrices (R, b, b); the identity at zero."""
    skew = (free - free.mT) / 2
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    return torch.linalg.solve(one - skew, one + skew)


@base.ADAPTER_REGISTRY.register()
def rotation(sites: Sequence[base.Site], options: base.AdapterOptions) -> list[base.Adapter]:
    """Rotations of every site's own."""
    return [Rotation(site.width, options.side(site.encoder), options.projections) for site in sites]
