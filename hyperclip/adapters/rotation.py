"""Rotation of the rows of an attention weight: blocks that are orthogonal by Cayley's map, so that
no norm changes.
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
    Site,
    block_product,
    check_blocks,
    checked_choices,
)


class Rotation(Adapter):
    """``W' = W R^T`` with block-diagonal R, each block ``(I - S)^-1 (I + S)`` of a skew-symmetric
    S, zero in the beginning.

    S is made of a free matrix P as ``(P - P^T) / 2``. Source: Cayley's map as in HyRo (CVPR 2026)
    and OFT.

    Args:
        width: D. block_size: side b of the blocks, a divisor of D. projections: which of "q", "k",
            "v" are rotated.
    Raises:
        ValueError: a block size that does not divide the width, or an unknown projection.
    """

    def __init__(
        self, width: int, block_size: int = 128, projections: Iterable[str] = PROJECTIONS
    ) -> None:
        super().__init__()
        check_blocks(width, block_size)
        self.projections = checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS)
        for name in self.projections:
            self.register_parameter(
                name, nn.Parameter(torch.zeros(width // block_size, block_size, block_size))
            )

    def forward(self, weight: Tensor) -> Tensor:
        """Map ``in_proj_weight`` (3D, D) to the rotated weight, computed in float32 or wider."""
        parts = list(weight.chunk(3))
        with torch.autocast(weight.device.type, enabled=False):
            for i, name in enumerate(PROJECTIONS):
                if name in self.projections:
                    parts[i] = block_product(parts[i], cayley(getattr(self, name)))
        return torch.cat(parts)


def cayley(free: Tensor) -> Tensor:
    """Rotations (R, b, b) of free matrices (R, b, b); the identity at zero."""
    skew = (free - free.mT) / 2
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    return torch.linalg.solve(one - skew, one + skew)


@ADAPTER_REGISTRY.register()
def rotation(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Rotations of every site's own."""
    return [Rotation(site.width, options.side(site.encoder), options.projections) for site in sites]
