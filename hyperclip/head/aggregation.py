"""Cost aggregation: window attention inside each class map, then attention across the classes.

Guidance enters queries and keys only, which are linear in it, ``q = W_x x + W_g g``: its half is
computed once for an image (spatial) or a class (text) rather than for every class map. Shapes: B
images, T classes, M maps, C channels, G of the guidance, h w grid, n tokens of a window.
Source: CAT-Seg (CVPR 2024).
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.precision import at_least_float32, exact_inference
from ..runtime.recompute import chain, run
from ..runtime.threads import in_pieces

Grid = tuple[int, int]


class GuidedProjections(nn.Module):
    """q, k, v of attention with guidance: q and k from [x; g], v from x alone."""

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim + guidance_dim, dim)
        self.k = nn.Linear(dim + guidance_dim, dim)
        self.v = nn.Linear(dim, dim)

    def of_input(self, x: Tensor) -> Tensor:
        """What depends on x (..., dim): (..., 3 dim), without biases."""
        d = x.shape[-1]
        return F.linear(x, torch.cat([self.q.weight[:, :d], self.k.weight[:, :d], self.v.weight]))

    def of_guidance(self, g: Tensor) -> Tensor:
        """What depends on the guidance (..., guidance_dim), and the biases: (..., 3 dim)."""
        d = g.shape[-1]
        none = self.v.weight.new_zeros(len(self.v.weight), d)
        weight = torch.cat([self.q.weight[:, -d:], self.k.weight[:, -d:], none])
        return F.linear(g, weight, torch.cat([self.q.bias, self.k.bias, self.v.bias]))


def window_partition(x: Tensor, window: int) -> Tensor:
    """(M, h, w, C) to (M, windows, window * window, C)."""
    m, h, w, c = x.shape
    x = x.view(m, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(m, -1, window * window, c)


def shift_mask(grid: tuple[int, int], window: int, shift: int) -> Tensor:
    """Swin's additive mask (windows, n, n), 0 or -100, that keeps shifted pixels apart."""
    region = torch.zeros(1, *grid, 1)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(bands):
        for j, columns in enumerate(bands):
            region[:, rows, columns] = 3 * i + j
    region = window_partition(region, window)[0, :, :, 0]
    return (region[:, :, None] != region[:, None, :]).float() * -100.0


def mlp(layers: nn.Sequential, norm: nn.Module, x: Tensor) -> Tensor:
    """``layers(norm(x))`` without keeping what the norm and a GELU give for the backward pass."""
    hidden = chain(norm, x, layers[0])
    if not isinstance(layers[1], nn.GELU):
        return layers[2](layers[1](hidden))
    return chain(layers[1], hidden, layers[2])


def positive(x: Tensor) -> Tensor:
    """``elu(x) + 1``, in less time than by ``F.elu``."""
    return x.clamp_max(0).exp_() + x.clamp_min(0)


def added(y: Tensor, x: Tensor) -> Tensor:
    """``x + y`` as precise as x, in the memory of y where its type is the same."""
    return y.to(x.dtype).add_(x)


class SpatialBlock(nn.Module):
    """One Swin block over each class map, guided by the image, in (cyclically shifted) windows.

    Its inference computes the attention in float32 if it is to be ``exact``.
    """

    mask: Tensor | None
    order: Tensor  # the position in the grid of each token of each window

    def __init__(
        self,
        dim: int,
        guidance_dim: int,
        heads: int,
        window: int,
        shift: int,
        grid: Grid,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.grid = heads, window, shift, grid
        self.exact = exact
        self.norm1 = nn.LayerNorm(dim)
        self.projections = GuidedProjections(dim, guidance_dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        mask = shift_mask(grid, window, shift) if shift else None
        self.register_buffer("mask", mask, persistent=False)
        places = torch.arange(grid[0] * grid[1]).view(1, *grid, 1).roll((-shift, -shift), (1, 2))
        order = window_partition(places, window).flatten()
        self.register_buffer("order", order, persistent=False)

    def guide(self, guidance: Tensor) -> Tensor:
        """Normalised guidance (B, h w, G) to its share of q, k, v (B, 1, h w, 3 C), by windows."""
        return self.projections.of_guidance(guidance[:, self.order])[:, None]

    def forward(self, x: Tensor, guided: Tensor) -> Tensor:
        """x (B, T, h w, C), window by window, and ``guide``'s result to (B, T, h w, C)."""
        with exact_inference(x.device, self.exact):
            x = self._attend(x, guided)
        return added(mlp(self.mlp, self.norm2, x), x)

    def _attend(self, x: Tensor, guided: Tensor) -> Tensor:
        b, t, _, c = x.shape
        qkv = chain(self.norm1, x, self.projections.of_input).add_(guided)
        qkv = qkv.view(-1, self.window**2, 3, self.heads, c // self.heads)
        q, k, v = (z.transpose(1, 2) for z in qkv.unbind(2))
        mask = None  # of four dimensions as all the rest, for the kernel that builds no map
        if self.mask is not None:
            mask = self.mask[:, None].to(q.dtype).expand(b * t, -1, -1, -1, -1).flatten(0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return added(chain(lambda z: z.transpose(1, 2).reshape(b, t, -1, c), y, self.proj), x)


class SpatialAggregation(nn.Module):
    """Two Swin blocks (plain, then shifted by half a window) that share one guidance norm."""

    def __init__(
        self,
        dim: int,
        guidance_dim: int,
        heads: int,
        window: int,
        grid: Grid,
        exact: bool = False,
    ) -> None:
        super().__init__()
        window = min(window, *grid)
        if window < 1 or grid[0] % window or grid[1] % window:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.WINDOW_SIZES: got {window}, expected a divisor of the feature "
                f"grid {grid}"
            )
        shift = window // 2 if min(grid) > window else 0
        self.guidance_norm = nn.LayerNorm(guidance_dim)
        self.blocks = nn.ModuleList(
            SpatialBlock(dim, guidance_dim, heads, window, s, grid, exact) for s in (0, shift)
        )

    def guide(self, guidance: Tensor) -> list[Tensor]:
        """The image's share of both blocks, from guidance (B, h, w, G)."""
        guidance = self.guidance_norm(guidance).flatten(1, 2)
        return [cast(SpatialBlock, block).guide(guidance) for block in self.blocks]

    def forward(self, x: Tensor, guided: list[Tensor], recompute: bool = False) -> Tensor:
        """x (B, T, h, w, C) and ``guide``'s result to (B, T, h, w, C)."""
        shape, back = x.shape, None
        x = x.flatten(2, 3)
        for block, g in zip(cast(Iterable[SpatialBlock], self.blocks), guided, strict=True):
            # from the order of the block before to that of this one
            order = block.order if back is None else back[block.order]
            x = run(block, x.index_select(2, order), g, recompute=recompute)
            back = block.order.argsort()
        return x.index_select(2, cast(Tensor, back)).view(shape)


class ClassAggregation(nn.Module):
    """Attention, "linear" (elu + 1) or "full" (softmax), across the classes at every (pooled)
    position, padded to ``pad_length`` classes, 0 for no padding.

    The released model's padding tokens are copies of one learned token, so one token with a weight
    of ``pad_length - T`` stands for them. Inference is in float32 if it is to be ``exact``. Source:
    CAT-Seg (CVPR 2024).
    """

    def __init__(
        self,
        dim: int,
        guidance_dim: int,
        heads: int,
        pad_length: int,
        attention: str,
        exact: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ("linear", "full"):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.ATTENTION_TYPE: got {attention!r}, expected 'linear' or 'full'"
            )
        self.heads, self.pad_length, self.attention = heads, pad_length, attention
        self.exact = exact
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.projections = GuidedProjections(dim, guidance_dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(inplace=True), nn.Linear(4 * dim, dim)
        )
        self.padding_token = nn.Parameter(torch.zeros(dim))
        self.padding_guidance = nn.Parameter(torch.zeros(guidance_dim))

    def attend(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Normalised tokens x (..., T, C) with guidance that broadcasts to (..., T, G)."""
        copies, (q, k, v), (_, pad_k, pad_v) = self._project(x, guidance)
        if self.attention == "full":
            k = torch.cat([k, pad_k.expand(*k.shape[:-2], 1, -1)], -2)
            v = torch.cat([v, pad_v.expand(*v.shape[:-2], 1, -1)], -2)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._weight_of(copies, q))
        else:
            q, k, pad_k = positive(q), positive(k), positive(pad_k)
            context = k.transpose(-1, -2) @ v + copies * (pad_k.transpose(-1, -2) @ pad_v)
            total = k.sum(-2, keepdim=True) + copies * pad_k
            y = q @ context / ((q * total).sum(-1, keepdim=True) + 1e-6)
        return y.transpose(-2, -3).flatten(-2)

    def weights(self, x: Tensor, guidance: Tensor) -> Tensor:
        """The attention of :meth:`attend` as shares (..., A, T, T + 1): how much each class takes
        of the value of every class, and in the last column of all padding tokens.

        Linear attention builds no such map; ``phi(q) phi(k) / sum phi(q) phi(k)`` with phi =
        elu + 1, which it multiplies the values with, is one all the same.
        """
        copies, (q, k, _), (_, pad_k, _) = self._project(x, guidance)
        k = torch.cat([k, pad_k.expand(*k.shape[:-2], 1, -1)], -2)
        if self.attention == "full":
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            return (logits + self._weight_of(copies, q)).softmax(dim=-1)
        products = positive(q) @ positive(k).transpose(-1, -2)
        products[..., -1] *= copies
        return products / (products.sum(-1, keepdim=True) + 1e-6)

    def _project(self, x: Tensor, guidance: Tensor) -> tuple[int, list[Tensor], list[Tensor]]:
        """How many padding tokens there are, q, k, v of the classes, and of a padding token."""
        padding = self.projections.of_input(self.norm1(self.padding_token))
        padding = (padding + self.projections.of_guidance(self.padding_guidance))[None]
        tokens = self.projections.of_input(x).add_(self.projections.of_guidance(guidance))
        copies = torch.sym_max(0, self.pad_length - x.shape[-2])  # max, of an exported program, too
        return copies, self._by_heads(tokens), self._by_heads(padding)

    def _weight_of(self, copies: int, q: Tensor) -> Tensor:
        """What is added to the logits (1, T + 1) of full attention: 0, and for so many padding
        tokens as one their logarithm.
        """
        if not isinstance(copies, int):  # of any number of classes, in an exported program
            return torch.cat(
                [q.new_zeros(1, q.shape[-2]), q.new_full((1, 1), 1).mul(copies).log()], 1
            )
        log_copies = math.log(copies) if copies else -math.inf
        return F.pad(q.new_zeros(1, q.shape[-2]), (0, 1), value=log_copies)

    def _by_heads(self, qkv: Tensor) -> list[Tensor]:
        """q, k, v (..., heads, T, C / heads) of (..., T, 3 C)."""
        return [
            z.unflatten(-1, (self.heads, -1)).transpose(-2, -3).contiguous()
            for z in qkv.chunk(3, dim=-1)
        ]

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Tokens x (..., T, C) with guidance that broadcasts to (..., T, G): (..., T, C)."""
        with exact_inference(x.device, self.exact):
            if self.exact:
                guidance = at_least_float32(guidance)
            x = added(self.attend(self.norm1(x), guidance), x)
            return added(mlp(self.mlp, self.norm2, x), x)


def pooled_tokens(x: Tensor, pooling: Grid) -> Tensor:
    """A cost embedding (B, T, h, w, C) as tokens (B, N, T, C): its classes at each of the N cells
    that are left of the grid by average pooling.
    """
    b, t, h, w, c = x.shape
    if tuple(pooling) != (1, 1):
        x = x.view(b, t, h // pooling[0], pooling[0], w // pooling[1], pooling[1], c).mean((3, 5))
    return x.flatten(2, 3).transpose(1, 2)


class AggregationLayer(nn.Module):
    """Spatial, then class aggregation of a cost embedding (B, T, h, w, C)."""

    def __init__(self, spatial: SpatialAggregation, classes: ClassAggregation) -> None:
        super().__init__()
        self.spatial, self.classes = spatial, classes

    def forward(
        self, x: Tensor, guided: list[Tensor], text: Tensor, pooling: Grid, recompute: bool = False
    ) -> Tensor:
        """Aggregate x (B, T, h, w, C) once.

        Args:
            guided: of :meth:`SpatialAggregation.guide`. text: guidance (B, T, G) or (T, G).
            pooling: size of the average pooling before class attention.
            recompute: keep no activations of the parts for the backward pass.
        """
        x = self.spatial(x, guided, recompute)
        return x + run(self._across_classes, x, text, pooling, recompute=recompute)

    @torch.no_grad()
    def update(
        self, x: Tensor, guided: list[Tensor], text: Tensor, pooling: Grid, chunk: int
    ) -> None:
        """As ``forward``, but in place on a contiguous x, for ``chunk`` class maps (or as many
        tokens at neighbouring positions) at a time.
        """
        in_pieces(lambda maps: maps.copy_(self.spatial(maps, guided)), chunk, x)
        if tuple(pooling) != (1, 1):
            x += self._across_classes(x, text, pooling)
            return
        b, t, h, w, _ = x.shape
        guidance = text if text.dim() == 2 else text[:, None]
        tokens, step = x.flatten(2, 3).transpose(1, 2), max(1, chunk * h * w // t)
        in_pieces(lambda part: part.add_(self.classes(part, guidance)), step, tokens)

    def _across_classes(self, x: Tensor, text: Tensor, pooling: Grid) -> Tensor:
        b, t, h, w, _ = x.shape
        grid = h // pooling[0], w // pooling[1]
        tokens = pooled_tokens(x, pooling)
        tokens = self.classes(tokens, text if text.dim() == 2 else text[:, None])
        out = tokens.permute(0, 2, 3, 1).unflatten(3, grid)
        if tuple(pooling) != (1, 1):
            maps = out.flatten(0, 1)
            maps = F.interpolate(maps, size=(h, w), mode="bilinear", align_corners=True)
            out = maps.unflatten(0, (b, t))
        return out.permute(0, 1, 3, 4, 2)
