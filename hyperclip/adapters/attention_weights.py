"""Adapters of the rows of an attention weight that are trained themselves, get low-rank updates, or
are rotated by orthogonal blocks, so that no norm changes. Shapes: R blocks, b side of a block.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from . import base
from .base import ADAPTER_REGISTRY, PROJECTIONS, Adapter, AdapterOptions, RowsAdapter, Site


class TrainedProjections(RowsAdapter):
    """CAT-Seg's fine-tuning: q and v rows, or others, of a weight train."""

    def __init__(
        self, weight: Tensor, projections: Iterable[str], holds: Sequence[str] = PROJECTIONS
    ) -> None:
        super().__init__(projections, holds)
        for name, part in zip(self.holds, weight.detach().chunk(len(self.holds)), strict=True):
            if name in self.projections:
                self.register_parameter(name, nn.Parameter(part.clone()))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        return getattr(self, name)


class LowRank(RowsAdapter):
    """LoRA: ``W' = W + (alpha / r) B A`` for some projections of "q", "k" and "v", with B at zero
    in the beginning. ``rows`` of each projection, 0 for D. ValueError for another projection, or a
    rank r outside 1 to the width D.
    Source: Hu et al., LoRA (ICLR 2022).
    """

    def __init__(
        self,
        width: int,
        rank: int,
        alpha: float,
        projections: Iterable[str] = PROJECTIONS,
        holds: Sequence[str] = PROJECTIONS,
        rows: int = 0,
    ) -> None:
        super().__init__(projections, holds)
        if not 1 <= rank <= width:
            raise ValueError(
                f"MODEL.ADAPTER.RANK: got {rank}, expected 1 to the attention width {width}"
            )
        self.scale = alpha / rank
        for name in self.projections:
            down = torch.empty(rank, width)
            nn.init.kaiming_uniform_(down, a=5**0.5)
            self.register_parameter(f"{name}_down", nn.Parameter(down))
            self.register_parameter(f"{name}_up", nn.Parameter(torch.zeros(rows or width, rank)))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        up, down = getattr(self, f"{name}_up"), getattr(self, f"{name}_down")
        return rows + self.scale * up @ down


class Rotation(RowsAdapter):
    """``W' = W R^T`` with blocks ``(I - S)^-1 (I + S)`` of R, S = ``(P - P^T) / 2``, P free.

    ``block_size`` is b, a divisor of the ``width`` D; ``projections`` are those of "q", "k", "v"
    that are rotated; ValueError for others. Source: Cayley's map as in HyRo (CVPR 2026) and OFT.
    """

    def __init__(
        self,
        width: int,
        block_size: int,
        projections: Iterable[str] = PROJECTIONS,
        holds: Sequence[str] = PROJECTIONS,
    ) -> None:
        super().__init__(projections, holds)
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


@ADAPTER_REGISTRY.register()
def attention(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """CAT-Seg: the q and v weights train, or those of the options."""
    return [TrainedProjections(s.weight, options.projections, s.matrices) for s in sites]


@ADAPTER_REGISTRY.register()
def lora(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Low-rank updates of every site's own."""
    kind = (options.rank, options.alpha, options.projections)
    return [LowRank(site.width, *kind, site.matrices, site.rows) for site in sites]


@ADAPTER_REGISTRY.register()
def rotation(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Rotations of every site's own."""
    return [
        Rotation(site.width, options.side(site.encoder), options.projections, site.matrices)
        for site in sites
    ]
