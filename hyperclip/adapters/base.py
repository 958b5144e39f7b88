"""What all adapters have in common: torch parametrizations of attention weights.

Shapes: O rows of a weight, D width, R blocks, b side of a block.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

PROJECTIONS = ("q", "k", "v")
MATRICES = (*PROJECTIONS, "out")
"""What an adapter may be on. A weight holds one of them, or several, rows below rows."""
AS_RELEASED = -1.0  # a text curvature that leaves the choice to the adapter
ENCODERS = ("vision", "text")

ADAPTER_REGISTRY = Registry("ADAPTER")
"""Adapters by their name in MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: functions that build one for each
site.

    @ADAPTER_REGISTRY.register()
    def scale(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
        return [Scale(site.weight) for site in sites]
"""


class Adapter(nn.Module):
    """Its ``forward`` maps a frozen weight to the one that is used; it starts as the identity."""

    def starts_at_identity(self) -> list[nn.Parameter]:
        """Parameters (…, b, b) that start as identities, to which weight decay can pull them."""
        return []


class RowsAdapter(Adapter):
    """An adapter of some of q, k and v, each alone, in a weight that ``holds`` some of them: all
    three in ``in_proj_weight`` (3D, D).
    """

    def __init__(self, projections: Iterable[str], holds: Sequence[str] = PROJECTIONS) -> None:
        super().__init__()
        chosen = checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS)
        self.holds = tuple(holds)
        self.projections = tuple(name for name in chosen if name in self.holds)

    def adapt(self, name: str, rows: Tensor) -> Tensor:
        """The rows (O, D) of the projection of this name that are used instead of its own."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight, (3D, D) with q, k and v, to the adapted one, in float32 or wider."""
        parts = dict(zip(self.holds, weight.chunk(len(self.holds)), strict=True))
        with torch.autocast(weight.device.type, enabled=False):
            parts |= {name: self.adapt(name, parts[name]) for name in self.projections}
        return torch.cat(list(parts.values()))


@dataclass(frozen=True)
class Site:
    """A weight that is adapted."""

    encoder: str  # "vision" or "text"
    layer: int
    weight: Tensor
    matrices: tuple[str, ...] = PROJECTIONS  # of MATRICES, rows below rows

    @property
    def width(self) -> int:
        """D, its input features."""
        return self.weight.shape[1]

    @property
    def rows(self) -> int:
        """O, the rows of each of its matrices; D in CLIP's own towers."""
        return len(self.weight) // len(self.matrices)


@dataclass(frozen=True)
class AdapterOptions:
    """The keys MODEL.ADAPTER.*, see :mod:`hyperclip.config.keys`."""

    encoders: Iterable[str]
    projections: Iterable[str]  # empty for the adapter's; its function gets them
    block_size: int
    block_size_text: int
    curvature_vision: float
    curvature_text: float
    rank: int
    alpha: float
    literal: bool
    context_dim: int
    merged: bool

    def side(self, encoder: str) -> int:
        """Side of the blocks in an encoder."""
        return self.block_size_text or self.block_size if encoder == "text" else self.block_size

    def curvature(self, encoder: str, released_text: float = 1.0) -> float:
        """Curvature magnitude in an encoder; ``released_text`` where the options leave it open."""
        if encoder == "text":
            return released_text if self.curvature_text == AS_RELEASED else self.curvature_text
        return self.curvature_vision


def checked_choices(key: str, values: Iterable[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``values`` as a tuple, each once, in the order of those that are allowed; ValueError
    if there is none or one not allowed.
    """
    values = dict.fromkeys(values)
    if not values or not values.keys() <= set(allowed):
        raise ValueError(f"{key}: got {list(values)}, expected one or more of {list(allowed)}")
    return tuple(value for value in allowed if value in values)


def checked_curvature(c: float) -> float:
    """Return a curvature magnitude; ValueError unless it is positive."""
    if not 0 < c < float("inf"):
        raise ValueError(f"MODEL.ADAPTER.CURVATURE_*: got {c}, expected a positive number")
    return float(c)


def check_blocks(width: int, block_size: int) -> None:
    """ValueError unless blocks of this side fill the diagonal of a width."""
    if block_size < 1 or width % block_size:
        raise ValueError(
            f"MODEL.ADAPTER.BLOCK_SIZE: got {block_size}, expected a divisor of the attention "
            f"width {width}"
        )


def block_product(weight: Tensor, blocks: Tensor, out: Tensor | None = None) -> Tensor:
    """``weight`` (…, O, R b) times the transpose of the block-diagonal matrix of ``blocks`` (…, R,
    b, b), written to ``out``, without gradients, if that is given.
    """
    r, b, _ = blocks.shape[-3:]
    columns = weight.unflatten(-1, (r, b)).transpose(-2, -3)
    product = (columns @ blocks.transpose(-1, -2)).transpose(-2, -3)
    if out is None:
        return product.reshape(weight.shape)
    out.unflatten(-1, (r, b)).copy_(product)
    return out
