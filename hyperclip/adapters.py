"""How CLIP is fine-tuned: radius adjustment and its siblings as torch parametrizations of attention weights.

Every adapter replaces ``attn.in_proj_weight`` (3D, D) of a block by a function of itself. At the start the
function is the identity, so that CLIP is unchanged; ``merge`` writes the function's value back as a plain weight.
Shapes: D width, R = D / b blocks of side b.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import hyperbolic

PROJECTIONS = ("q", "k", "v")
ENCODERS = ("vision", "text")
FINETUNE_MODES = ("hyperbolic", "attention", "full", "none")


class RadiusAdjustment(nn.Module):
    """HyperCLIP's adapter: ``W' = log0(M (x)_c exp0(W))`` row by row, with a free block-diagonal ``M``.

    Apart from clamps at the boundary of the ball, exp0, the Moebius product and log0 cancel, and ``W'`` is exactly
    ``W M^T`` with row norms capped at artanh(1 - 1e-3) / sqrt(c). That is the fast path; ``literal=True`` composes
    the maps of :mod:`hyperclip.hyperbolic` instead. Source: HyperCLIP (CVPR 2025).

    Args:
        width: D, input features of the projection.
        block_size: side b of the blocks; it has to divide ``width``.
        curvature: magnitude c > 0 of the ball's curvature.
        projections: which of "q", "k", "v" are adjusted.
        literal: evaluate the hyperbolic maps themselves.
    Raises:
        ValueError: a block size that does not divide the width, an unknown projection, c <= 0.
    """

    def __init__(
        self,
        width: int,
        block_size: int = 128,
        curvature: float = 0.01,
        projections: Iterable[str] = PROJECTIONS,
        literal: bool = False,
    ) -> None:
        super().__init__()
        if block_size < 1 or width % block_size:
            raise ValueError(
                f"MODEL.ADAPTER.BLOCK_SIZE: got {block_size}, expected a divisor of the attention width {width}"
            )
        if not curvature > 0:
            raise ValueError(f"MODEL.ADAPTER.CURVATURE_*: got {curvature}, expected a positive number")
        self.projections = checked_choices("MODEL.ADAPTER.PROJECTIONS", projections, PROJECTIONS)
        self.curvature, self.literal = float(curvature), literal
        identity = torch.eye(block_size).repeat(width // block_size, 1, 1)
        for name in self.projections:
            self.register_parameter(name, nn.Parameter(identity.clone()))

    def forward(self, weight: Tensor) -> Tensor:
        """Map ``in_proj_weight`` (3D, D) to the adjusted weight (3D, D), always computed in float32 or wider."""
        parts = list(weight.chunk(3))
        with torch.autocast(weight.device.type, enabled=False):
            for i, name in enumerate(PROJECTIONS):
                if name in self.projections:
                    adjust = self._literal if self.literal else self._fast
                    parts[i] = adjust(parts[i].detach(), getattr(self, name))
        return torch.cat(parts)

    def _fast(self, weight: Tensor, blocks: Tensor) -> Tensor:
        root_c = self.curvature**0.5
        input_cap = hyperbolic.tangent_cap(self.curvature, hyperbolic.POINT_MARGIN)
        weight = _cap_rows(weight, input_cap)
        r, b, _ = blocks.shape
        product = torch.einsum("orj,rij->ori", weight.view(-1, r, b), blocks).reshape(weight.shape)
        return _cap_rows(product, hyperbolic.tangent_cap(1.0) / root_c)

    def _literal(self, weight: Tensor, blocks: Tensor) -> Tensor:
        points = hyperbolic.expmap0(weight, self.curvature)
        product = hyperbolic.mobius_matvec(torch.block_diag(*blocks), points, self.curvature)
        return hyperbolic.logmap0(product, self.curvature)


class TrainedProjections(nn.Module):
    """CAT-Seg's fine-tuning: the q and v rows of ``in_proj_weight`` train, the k rows stay frozen.

    Args:
        weight: the pre-trained ``in_proj_weight`` (3D, D) whose rows the parameters start from.
        projections: which of "q", "k", "v" train.
    """

    def __init__(self, weight: Tensor, projections: Iterable[str] = ("q", "v")) -> None:
        super().__init__()
        self.projections = checked_choices("projections", projections, PROJECTIONS)
        for name, part in zip(PROJECTIONS, weight.detach().chunk(3), strict=True):
            if name in self.projections:
                self.register_parameter(name, nn.Parameter(part.clone()))

    def forward(self, weight: Tensor) -> Tensor:
        """Replace the trained rows of ``weight`` (3D, D)."""
        frozen = dict(zip(PROJECTIONS, weight.chunk(3), strict=True))
        return torch.cat([getattr(self, n) if n in self.projections else frozen[n] for n in PROJECTIONS])


def _cap_rows(x: Tensor, cap: float) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > cap, x * (cap / norm.clamp_min(cap)), x)


def checked_choices(key: str, values: Iterable[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``values`` as a tuple; ValueError if it is empty or holds anything that is not in ``allowed``."""
    values = tuple(values)
    wrong = [v for v in values if v not in allowed]
    if wrong or not values:
        raise ValueError(f"{key}: got {list(values)}, expected one or more of {list(allowed)}")
    return values


def tower(clip: CLIP, encoder: str) -> Sequence[ResidualAttentionBlock]:
    """Residual attention blocks of one encoder ("vision" or "text") of an open_clip model."""
    return clip.visual.transformer.resblocks if encoder == "vision" else clip.transformer.resblocks


def prepare_finetuning(
    clip: CLIP,
    mode: str,
    *,
    encoders: Iterable[str] = ENCODERS,
    projections: Iterable[str] = PROJECTIONS,
    block_size: int = 128,
    block_size_text: int = 0,
    curvature_vision: float = 0.01,
    curvature_text: float = 1.0,
    literal: bool = False,
) -> None:
    """Freeze CLIP and make trainable what ``mode`` says, in place. Its outputs do not change.

    Args:
        clip: an open_clip model.
        mode: "hyperbolic" (radius adjustment), "attention" (q and v weights, as CAT-Seg), "full" (every weight
            that has an influence), "none".
        encoders: which towers are adapted, of "vision" and "text".
        block_size_text: blocks of the text tower, 0 for ``block_size``.
        projections, block_size, curvature_vision, curvature_text, literal: see :class:`RadiusAdjustment`.
    Raises:
        ValueError: an unknown mode, encoder or projection, or a block size that does not divide a width.
    """
    if mode not in FINETUNE_MODES:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, expected one of {list(FINETUNE_MODES)}"
        )
    clip.requires_grad_(mode == "full")
    clip.logit_scale.requires_grad_(False)  # no score depends on it
    if mode in ("full", "none"):
        return
    for encoder in checked_choices("MODEL.ADAPTER.ENCODERS", encoders, ENCODERS):
        for block in tower(clip, encoder):
            weight = block.attn.in_proj_weight
            if mode == "hyperbolic":
                vision = encoder == "vision"
                side = block_size if vision else block_size_text or block_size
                c = curvature_vision if vision else curvature_text
                adapter: nn.Module = RadiusAdjustment(weight.shape[1], side, c, projections, literal)
            else:
                adapter = TrainedProjections(weight)
            adapter.to(weight.device)
            parametrize.register_parametrization(block.attn, "in_proj_weight", adapter)


def adapters(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of every adapter inside ``model``."""
    for name, module in model.named_modules():
        if isinstance(module, (RadiusAdjustment, TrainedProjections)):
            yield name, module


def merge(model: nn.Module) -> int:
    """Write every adapted weight back as a plain weight, in place; the outputs stay the same.

    Returns:
        the number of adapters that were merged.
    """
    merged = 0
    for module in list(model.modules()):
        if isinstance(module, nn.MultiheadAttention) and parametrize.is_parametrized(module, "in_proj_weight"):
            parametrize.remove_parametrizations(module, "in_proj_weight", leave_parametrized=True)
            merged += 1
    return merged


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Count parameters by part of the model: rows (part, trainable, all), the last one is the total.

    Parts are the CLIP towers, their adapters and the head, as far as ``model`` has them.
    """
    inside = {id(p): "adapters" for _, module in adapters(model) for p in module.parameters()}
    rows: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        encoder = "vision" if ".visual." in f".{name}" else "text"
        if id(parameter) in inside:
            part = f"CLIP {encoder} adapters"
        elif name.startswith("clip."):
            part = f"CLIP {encoder}"
        else:
            part = name.split(".")[0]
        counts = rows.setdefault(part, [0, 0])
        counts[0] += parameter.numel() if parameter.requires_grad else 0
        counts[1] += parameter.numel()
    table = [(part, trainable, total) for part, (trainable, total) in sorted(rows.items())]
    return [*table, ("total", sum(r[1] for r in table), sum(r[2] for r in table))]
