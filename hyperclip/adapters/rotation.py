"""Rotation of the rows of an attention weight by orthogonal blocks, so that no norm changes.

Shapes: R blocks, b side of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .base import (
    ADAPTER_REGISTRY,
    PROJECTIONS,
    Adapter,
    AdapterOptions,
    RowsAdapter,
    Site,
    block_product,
    check_blocks,
)


class Rotation(RowsAdapter):
    """``W' = W R^T`` with blocks ``(I - S)^-1 (I + S)`` of R, S = ``(P - P^T) / 2``, P free.

    Source: Cayley's map as in HyRo (CVPR 2026) and OFT.

    Args:
        width: D. block_size: side b of the blocks, a divisor of D. projections: which of "q", "k",
            "v" are rotated.
    Raises:
        ValueError: a block size that does not divide the width, or an unknown projection.
    """

    def __init__(
        self, width: int, block_size: int = 128, projections: Iterable[str] = PROJECTIONS
    ) -> None:
        super().__init__(projections)
        check_blocks(width, block_size)
        for name in self.projections:
            free = torch.zeros(width // block_size, block_size, block_size)
            self.register_parameter(name, nn.Parameter(free))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        return block_product(rows, cayley(getattr(self, name)))


def cayley(free: Tensor) -> Tensor:
    """Rotations (R, b, b) of free matrices (R, b, b); the identity at zero."""
    skew = (free - free.mT) / 2
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    return torch.linalg.solve(one - skew, one + skew)


@ADAPTER_REGISTRY.register()
def rotation(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Rotations of every site's own."""
    return [Rotation(site.width, options.side(site.encoder), options.projections) for site in sites]
