"""Decoder: two stages, each joins class maps with image features of twice the resolution.

The first convolution of a stage is linear in [class map; image features], so its image half is
computed once for an image. Its class half follows a transposed convolution with nothing in between:
both are one transposed convolution of 4 x 4, with half the operations. Source: CAT-Seg (CVPR 2024).

Shapes: B images, T classes, C channels, G of the guidance, h w grid.
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.precision import exactly
from ..runtime.recompute import run


class Prepared(NamedTuple):
    """A stage's kernel (in, out, 4, 4) and the image's share of its output (B, out, 2h, 2w)."""

    kernel: Tensor
    guided: Tensor


class DecoderStage(nn.Module):
    """A transposed convolution to twice the size, then two 3x3 convolutions with group norm."""

    def __init__(self, in_dim: int, out_dim: int, guidance_dim: int) -> None:
        super().__init__()
        if in_dim <= guidance_dim or out_dim % 16:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.DECODER_DIMS: got {in_dim} -> {out_dim} with guidance "
                f"{guidance_dim}, expected outputs in multiples of 16 and more input than guidance "
                "channels"
            )
        self.up = nn.ConvTranspose2d(in_dim, in_dim - guidance_dim, kernel_size=2, stride=2)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(out_dim // 16, out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(out_dim // 16, out_dim)

    def prepare(self, guidance: Tensor) -> Prepared:
        """What does not depend on the class maps, of guidance (B, G, 2h, 2w)."""
        b, _, height, width = guidance.shape
        bias = cast(Tensor, self.up.bias)[:, None, None].expand(b, -1, height, width)
        guided = F.conv2d(torch.cat([bias, guidance], dim=1), self.conv1.weight, padding=1)
        # what up and then the convolution make of a single pixel
        with torch.autocast(guidance.device.type, enabled=False):
            class_half = self.conv1.weight[:, : self.up.out_channels]
            kernel = F.conv2d(self.up.weight, class_half, padding=2)
        # channels last, as the class maps are
        return Prepared(kernel, guided.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor, prepared: Prepared) -> Tensor:
        """Class maps x (N, in, h, w) of B images and ``prepare``'s result to (N, out, 2h, 2w)."""
        guided = prepared.guided
        x = F.conv_transpose2d(x, prepared.kernel, stride=2, padding=1)
        x = x.unflatten(0, (len(guided), -1)).add_(guided[:, None]).flatten(0, 1)
        x = F.relu(self.norm1(x), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)


class Decoder(nn.Module):
    """Aggregated cost embedding (B, T, C, h, w) to logits (B, T, 4h, 4w)."""

    def __init__(self, dim: int, dims: tuple[int, int], guidance_dims: tuple[int, int]) -> None:
        super().__init__()
        sizes = zip((dim, dims[0]), dims, guidance_dims, strict=True)
        self.stages = nn.ModuleList(DecoderStage(*size) for size in sizes)
        self.classifier = nn.Conv2d(dims[1], 1, 3, padding=1)

    def prepare(self, guidance: list[Tensor]) -> list[Prepared]:
        """What does not depend on the class maps, for both stages."""
        stages = cast(Iterable[DecoderStage], self.stages)
        return [stage.prepare(g) for stage, g in zip(stages, guidance, strict=True)]

    def forward(self, x: Tensor, prepared: list[Prepared], recompute: bool = False) -> Tensor:
        """x (B, T, C, h, w) with ``prepare``'s result to logits (B, T, 4h, 4w).

        With ``recompute`` no activations inside a stage are kept for the backward pass.
        """
        b, t = x.shape[:2]
        x = x.flatten(0, 1)
        for stage, own in zip(self.stages, prepared, strict=True):
            x = run(stage, x, own, recompute=recompute)
        return exactly(self.classifier, x)[:, 0].unflatten(0, (b, t))
