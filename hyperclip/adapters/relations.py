"""HyperCLIP++'s adapter: the blocks of all layers and of both towers are mixed by shared linear
relations.

One tensor holds a block for each (slot, place): a slot is a projection of a layer, a place one of
the blocks on the diagonal, the text tower's first. Relations across slots are shared, those across
places belong to a layer. Everything is linear, so the relations are multiplied with each other
before they touch the blocks, which is the same and about a hundred times cheaper than transforming
the whole tensor for each layer.

The released code leaves its relations at random values in the beginning, which destroys CLIP; here
they start as the identity. Shapes: L layers, m of the matrices q, k, v, out, S = m L slots, T and V
places of the text and the vision tower, b side of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import hyperbolic
from .base import (
    ADAPTER_REGISTRY,
    MATRICES,
    Adapter,
    AdapterOptions,
    Site,
    check_blocks,
    checked_curvature,
)
from .radius import capped_product

CURVATURE_TEXT = 0.01
"""As released; the image tower's is that of the options."""


class Relation(nn.Module):
    """``x -> x + W2 W1 x`` with W2 at zero in the beginning, as the matrix (n, n) that it is.

    Args:
        size: n. The hidden layer is four times as wide.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.up, self.down = (
            nn.Linear(size, 4 * size, bias=False),
            nn.Linear(4 * size, size, bias=False),
        )
        nn.init.zeros_(self.down.weight)

    def matrix(self) -> Tensor:
        """The relation as a matrix (n, n)."""
        one = torch.eye(
            self.up.in_features, dtype=self.up.weight.dtype, device=self.up.weight.device
        )
        return one + self.down.weight @ self.up.weight


class SharedBlocks(nn.Module):
    """The blocks of both towers, (S, T + V, b, b), and their relations; blocks start as identity
    matrices.

    Args:
        layers: L, the deeper tower's. places: (T, V), 0 for a tower that is not adapted. side: b.
        matrices: what has blocks, of q, k, v and out.
    """

    def __init__(
        self, layers: int, places: tuple[int, int], side: int, matrices: Sequence[str] = MATRICES
    ) -> None:
        super().__init__()
        self.places, self.matrices = places, tuple(matrices)
        self.blocks = nn.Parameter(
            torch.eye(side).repeat(len(self.matrices) * layers, sum(places), 1, 1)
        )
        self.across_slots = Relation(len(self.matrices) * layers)
        self.across_places = nn.ModuleList(Relation(sum(places)) for _ in range(layers))

    def of(self, encoder: str, layer: int, matrices: Sequence[str]) -> Tensor:
        """Blocks (m, R, b, b) of some of q, k, v, out in a layer of a tower."""
        rows = [len(self.matrices) * layer + self.matrices.index(name) for name in matrices]
        text = self.places[0]
        chosen = slice(0, text) if encoder == "text" else slice(text, None)
        slots = self.across_slots.matrix()[rows]
        relation: Relation = self.across_places[layer]  # type: ignore[assignment]
        return torch.einsum("ms,rp,spij->mrij", slots, relation.matrix()[chosen], self.blocks)


class RelatedRadius(Adapter):
    """Radius adjustment of a site with blocks from the shared tensor. Source: HyperCLIP++ as
    released.

    Args:
        shared: one for all sites. encoder, layer, matrices: which of its blocks are this site's:
            some of q, k, v in their order, or out. curvature: c > 0.
    Raises:
        ValueError: c <= 0.
    """

    def __init__(
        self,
        shared: SharedBlocks,
        encoder: str,
        layer: int,
        matrices: Sequence[str],
        curvature: float,
    ) -> None:
        super().__init__()
        self.shared, self.encoder, self.layer, self.matrices = (
            shared,
            encoder,
            layer,
            tuple(matrices),
        )
        self.curvature = checked_curvature(curvature)

    def forward(self, weight: Tensor) -> Tensor:
        """Map ``in_proj_weight`` (3D, D), or ``out_proj.weight`` (D, D), to the adjusted one, in
        float32 or wider.
        """
        with torch.autocast(weight.device.type, enabled=False):
            blocks = self.shared.of(self.encoder, self.layer, self.matrices)
            input_cap = hyperbolic.tangent_cap(self.curvature, hyperbolic.POINT_MARGIN)
            output_cap = hyperbolic.tangent_cap(self.curvature)
            names = MATRICES[3:] if self.matrices == MATRICES[3:] else MATRICES[:3]
            parts = dict(zip(names, weight.chunk(len(names)), strict=True))
            for name, own in zip(self.matrices, blocks, strict=True):
                parts[name] = capped_product(parts[name], own, input_cap, output_cap)
            return torch.cat(list(parts.values()))

    def starts_at_identity(self) -> list[nn.Parameter]:
        return [self.shared.blocks]


@ADAPTER_REGISTRY.register()
def relations(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
    """One shared tensor over all sites, with output projections where the options' projections name
    them.
    """
    widths = {
        encoder: next((s.width for s in sites if s.encoder == encoder), 0)
        for encoder in ("text", "vision")
    }
    side = options.block_size
    if options.block_size_text not in (0, side):
        raise ValueError(
            f"MODEL.ADAPTER.BLOCK_SIZE_TEXT: got {options.block_size_text}, expected 0 or "
            f"BLOCK_SIZE {side}: with 'relations' both towers share their blocks"
        )
    for width in widths.values():
        check_blocks(width or side, side)
    places = (widths["text"] // side, widths["vision"] // side)
    matrices = [name for name in MATRICES if name in tuple(options.projections)]
    shared = SharedBlocks(1 + max(site.layer for site in sites), places, side, matrices)
    inputs = [name for name in matrices if name != "out"]
    return [
        RelatedRadius(
            shared,
            s.encoder,
            s.layer,
            ["out"] if s.name == "out_proj" else inputs,
            options.curvature(s.encoder, CURVATURE_TEXT),
        )
        for s in sites
    ]
