"""HyperCLIP++'s adapter: shared linear relations mix the blocks of all layers and of both towers.

One tensor holds a block for each (slot, place): a slot is a projection of a layer, a place one of
the blocks on the diagonal, the text tower's first. Relations across slots are shared, those across
places belong to a layer. All is linear, so a layer's relations are multiplied before they touch the
blocks, which is a hundred times cheaper than transforming the whole tensor. The released code's
relations start at random values, which destroys CLIP; here they start as the identity.

Shapes: L layers, m of the matrices q, k, v, out, S = m L slots, u places of the text tower, v of
the vision tower, R blocks of a weight, b side of the blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import base
from .base import ENCODERS, MATRICES
from .radius import capped_product

CURVATURE_TEXT = 0.01  # as released; the image tower's is that of the options


class Relation(nn.Module):
    """``x -> x + W2 W1 x`` for n features, with 4 n hidden ones and W2 zero in the beginning."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.up = nn.Linear(size, 4 * size, bias=False)
        self.down = nn.Linear(4 * size, size, bias=False)
        nn.init.zeros_(self.down.weight)

    def matrix(self) -> Tensor:
        """The relation as a matrix (n, n)."""
        product = self.down.weight @ self.up.weight
        return torch.eye(len(product), dtype=product.dtype, device=product.device) + product


class SharedBlocks(nn.Module):
    """The blocks of both towers (S, u + v, b, b), identities at first, and their relations.

    Args:
        layers: L, the deeper tower's. places: (u, v), 0 for a tower that is not adapted. side: b.
        matrices: what has blocks, of q, k, v and out.
    """

    def __init__(
        self, layers: int, places: tuple[int, int], side: int, matrices: Sequence[str] = MATRICES
    ) -> None:
        super().__init__()
        self.places, self.matrices = places, tuple(matrices)
        slots = len(self.matrices) * layers
        self.blocks = nn.Parameter(torch.eye(side).repeat(slots, sum(places), 1, 1))
        self.across_slots = Relation(slots)
        self.across_places = nn.ModuleList(Relation(sum(places)) for _ in range(layers))

    def of(self, encoder: str, layer: int, matrices: Sequence[str]) -> Tensor:
        """Blocks (m, R, b, b) of some of q, k, v, out in a layer of a tower."""
        rows = [len(self.matrices) * layer + self.matrices.index(name) for name in matrices]
        text = self.places[0]
        chosen = slice(0, text) if encoder == "text" else slice(text, None)
        slots = self.across_slots.matrix()[rows]
        relation: Relation = self.across_places[layer]  # type: ignore[assignment]
        return torch.einsum("ms,rp,spij->mrij", slots, relation.matrix()[chosen], self.blocks)


class RelatedRadius(base.Adapter):
    """Radius adjustment of a site with blocks from the tensor that all sites share. Source:
    HyperCLIP++ as released.

    Args:
        encoder, layer, matrices: which blocks are this site's: some of q, k, v in order, or out.
        curvature: c; ValueError unless c > 0. holds: the matrices of the weight, q, k and v or out
            if that is left open.
    """

    def __init__(
        self,
        shared: SharedBlocks,
        encoder: str,
        layer: int,
        matrices: Sequence[str],
        curvature: float,
        holds: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.shared, self.encoder, self.layer = shared, encoder, layer
        self.matrices = tuple(matrices)
        usual = MATRICES[3:] if self.matrices == MATRICES[3:] else MATRICES[:3]
        self.holds = tuple(holds) or usual
        self.curvature = base.checked_curvature(curvature)

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight, (3D, D) with q, k and v or (D, D) with out, in float32 or wider."""
        with torch.autocast(weight.device.type, enabled=False):
            blocks = self.shared.of(self.encoder, self.layer, self.matrices)
            parts = dict(zip(self.holds, weight.chunk(len(self.holds)), strict=True))
            for name, own in zip(self.matrices, blocks, strict=True):
                parts[name] = capped_product(parts[name], own, self.curvature)
            return torch.cat(list(parts.values()))

    def starts_at_identity(self) -> list[nn.Parameter]:
        return [self.shared.blocks]


@base.ADAPTER_REGISTRY.register()
def relations(sites: Sequence[base.Site], options: base.AdapterOptions) -> list[base.Adapter]:
    """One shared tensor over all sites, those of output projections too if the options say so."""
    found = {encoder: {s.width for s in sites if s.encoder == encoder} for encoder in ENCODERS}
    for encoder, widths in found.items():
        if len(widths) > 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE 'relations': the {encoder} tower has attention "
                f"of the widths {sorted(widths)}, expected one width. Leave it out of "
                "MODEL.ADAPTER.ENCODERS, or use another adapter"
            )
    width_of = {encoder: max(widths, default=0) for encoder, widths in found.items()}
    side = options.block_size
    if options.block_size_text not in (0, side):
        raise ValueError(
            f"MODEL.ADAPTER.BLOCK_SIZE_TEXT: got {options.block_size_text}, expected 0 or "
            f"BLOCK_SIZE {side}: with 'relations' both towers share their blocks"
        )
    for width in width_of.values():
        base.check_blocks(width or side, side)
    places = (width_of["text"] // side, width_of["vision"] // side)
    matrices = [name for name in MATRICES if name in tuple(options.projections)]
    shared = SharedBlocks(1 + max(site.layer for site in sites), places, side, matrices)
    adapters: list[base.Adapter] = []
    for site in sites:
        own = [name for name in matrices if name in site.matrices]
        curvature = options.curvature(site.encoder, CURVATURE_TEXT)
        kind = (site.encoder, site.layer, own, curvature, site.matrices)
        adapters.append(RelatedRadius(shared, *kind))
    return adapters
