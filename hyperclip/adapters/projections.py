"""Fine-tuning that trains attention weights themselves: CAT-Seg's, and low-rank updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .base import ADAPTER_REGISTRY, PROJECTIONS, Adapter, AdapterOptions, Site, checked_choices


class TrainedProjections(Adapter):
    """CAT-Seg's fine-tuning: the q and v rows of ``in_proj_weight`` train, the k rows stay frozen.

    Args:
        weight: the pre-trained ``in_proj_weight`` (3D, D) whose rows the parameters start from.
        projections: which of "q", "k", "v" train.
    """

    def __init__(self, weight: Tensor, projections: Iterable[str] = ("q", "v")) -> None:
        super().__init__()
        self.projections = checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS)
        for name, part in zip(PROJECTIONS, weight.detach().chunk(3), strict=True):
            if name in self.projections:
                self.register_parameter(name, nn.Parameter(part.clone()))

    def forward(self, weight: Tensor) -> Tensor:
        """Replace the trained rows of ``weight`` (3D, D)."""
        frozen = dict(zip(PROJECTIONS, weight.chunk(3), strict=True))
        return torch.cat(
            [getattr(self, n) if n in self.projections else frozen[n] for n in PROJECTIONS]
        )


class LowRank(Adapter):
    """LoRA: ``W' = W + (alpha / r) B A`` for each projection, with B at zero in the beginning.

    Args:
        width: D. rank: r, from 1 to D. alpha: scale. projections: which of "q", "k", "v" are
            adapted.
    Raises:
        ValueError: a rank that is out of range, or an unknown projection.
    Source: Hu et al., LoRA (ICLR 2022).
    """

    def __init__(
        self,
        width: int,
        rank: int = 8,
        alpha: float = 8.0,
        projections: Iterable[str] = PROJECTIONS,
    ) -> None:
        super().__init__()
        if not 1 <= rank <= width:
            raise ValueError(
                f"MODEL.ADAPTER.RANK: got {rank}, expected 1 to the attention width {width}"
            )
        self.projections, self.scale = (
            checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS),
            alpha / rank,
        )
        for name in self.projections:
            down = torch.empty(rank, width)
            nn.init.kaiming_uniform_(down, a=5**0.5)
            self.register_parameter(f"{name}_down", nn.Parameter(down))
            self.register_parameter(f"{name}_up", nn.Parameter(torch.zeros(width, rank)))

    def forward(self, weight: Tensor) -> Tensor:
        """Map ``in_proj_weight`` (3D, D) to the updated weight, computed in float32 or wider."""
        parts = list(weight.chunk(3))
        with torch.autocast(weight.device.type, enabled=False):
            for i, name in enumerate(PROJECTIONS):
                if name in self.projections:
                    up, down = getattr(self, f"{name}_up"), getattr(self, f"{name}_down")
                    parts[i] = parts[i] + self.scale * up @ down
        return torch.cat(parts)


@ADAPTER_REGISTRY.register()
def attention(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """CAT-Seg: the q and v weights train, or those of the options."""
    return [TrainedProjections(site.weight, options.projections) for site in sites]


@ADAPTER_REGISTRY.register()
def lora(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """Low-rank updates of every site's own."""
    return [LowRank(site.width, options.rank, options.alpha, options.projections) for site in sites]
