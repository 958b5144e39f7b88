"""The radius adjustment of all weights against the hyperbolic maps that define it."""

from __future__ import annotations

import torch
from hyperclip.adapters import adapters
from torch import Tensor

from reference.training import literal_adapters
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip


@torch.no_grad()
def adapter_maps(settings: Settings) -> list[Row]:
    """One row: q, k and v of 24 blocks, 72 matrices."""
    _, model = build_hyperclip(settings)
    owners = [
        model.get_submodule(name.split(".parametrizations.")[0]) for name, _ in adapters(model)
    ]

    def ours() -> Tensor:
        return torch.stack([owner.in_proj_weight.sum() for owner in owners])

    def literal() -> Tensor:
        with literal_adapters(model):
            return ours()

    def floor() -> Tensor:  # reads and writes every weight once
        return torch.stack(
            [owner.parametrizations.in_proj_weight.original.mul(1.5).sum() for owner in owners]
        )

    return compare("adapters", f"{3 * len(owners)} matrices", literal, ours, settings, floor)
