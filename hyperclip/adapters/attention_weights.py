"""Fine-tuning that trains attention weights themselves: CAT-Seg's, and low-rank updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .base import ADAPTER_REGISTRY, PROJECTIONS, Adapter, AdapterOptions, RowsAdapter, Site


class TrainedProjections(RowsAdapter):
    """CAT-Seg's fine-tuning: the rows of ``projections``, of q, k and v, of ``weight`` (3D, D), the
    ``in_proj_weight``, train, the others stay frozen.
    """

    def __init__(self, weight: Tensor, projections: Iterable[str] = ("q", "v")) -> None:
        super().__init__(projections)
        for name, part in zip(PROJECTIONS, weight.detach().chunk(3), strict=True):
            if name in self.projections:
                self.register_parameter(name, nn.Parameter(part.clone()))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        return getattr(self, name)


class LowRank(RowsAdapter):
    """LoRA: ``W' = W + (alpha / r) B A`` for some projections of "q", "k" and "v", with B at zero
    in the beginning. ValueError for another one, or a rank r outside 1 to the width D.
    Source: Hu et al., LoRA (ICLR 2022).
    """

    def __init__(
        self,
        width: int,
        rank: int = 8,
        alpha: float = 8.0,
        projections: Iterable[str] = PROJECTIONS,
    ) -> None:
        super().__init__(projections)
        if not 1 <= rank <= width:
            raise ValueError(
                f"MODEL.ADAPTER.RANK: got {rank}, expected 1 to the attention width {width}"
            )
        self.scale = alpha / rank
        for name in self.projections:
            down = torch.empty(rank, width)
            nn.init.kaiming_uniform_(down, a=5**0.5)
            self.register_parameter(f"{name}_down", nn.Parameter(down))
            self.register_parameter(f"{name}_up", nn.Parameter(torch.zeros(width, rank)))

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        up, down = getattr(self, f"{name}_up"), getattr(self, f"{name}_down")
        return rows + self.scale * up @ down


@ADAPTER_REGISTRY.register()
def attention(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """CAT-Seg: the q and v weights train, or those of the options."""
    return [TrainedProjections(site.weight, options.projections) for site in sites]


@ADAPTER_REGISTRY.register()
def lora(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Low-rank updates of every site's own."""
    return [LowRank(site.width, options.rank, options.alpha, options.projections) for site in sites]
