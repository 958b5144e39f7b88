"""Upsampling decoder: two stages, each joins a class map with image features of twice the resolution.

The first convolution of a stage sees [class map; image features] and is linear, so its image half is computed
once for an image and added to every class. Source: CAT-Seg (CVPR 2024).
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..recompute import run


class DecoderStage(nn.Module):
    """Transposed convolution to twice the size, then two 3x3 convolutions with group norm, guided by the image.

    Args:
        in_dim: channels of the class maps. out_dim: channels given. guidance_dim: channels of the image features.
    """

    def __init__(self, in_dim: int, out_dim: int, guidance_dim: int) -> None:
        super().__init__()
        if in_dim <= guidance_dim or out_dim % 16:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.DECODER_DIMS: got {in_dim} -> {out_dim} with guidance {guidance_dim}, expected "
                "outputs in multiples of 16 and more input than guidance channels"
            )
        self.up = nn.ConvTranspose2d(in_dim, in_dim - guidance_dim, kernel_size=2, stride=2)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(out_dim // 16, out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(out_dim // 16, out_dim)

    def of_guidance(self, guidance: Tensor) -> Tensor:
        """The image's half of the first convolution: (B, G, 2h, 2w) to (B, out, 2h, 2w), once for an image."""
        return F.conv2d(guidance, self.conv1.weight[:, -guidance.shape[1] :], padding=1)

    def forward(self, x: Tensor, guided: Tensor) -> Tensor:
        """Class maps x (N, in, h, w) of B images and ``of_guidance``'s result to (N, out, 2h, 2w)."""
        weight = self.conv1.weight[:, : self.up.out_channels]
        x = F.conv2d(self.up(x), weight, padding=1)
        x = (x.unflatten(0, (len(guided), -1)) + guided[:, None]).flatten(0, 1)
        x = F.relu(self.norm1(x))
        return F.relu(self.norm2(self.conv2(x)))


class Decoder(nn.Module):
    """Aggregated cost embedding (B, T, C, h, w) to logits (B, T, 4h, 4w)."""

    def __init__(self, dim: int, dims: tuple[int, int], guidance_dims: tuple[int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [DecoderStage(dim, dims[0], guidance_dims[0]), DecoderStage(dims[0], dims[1], guidance_dims[1])]
        )
        self.classifier = nn.Conv2d(dims[1], 1, 3, padding=1)

    def of_guidance(self, guidance: list[Tensor]) -> list[Tensor]:
        """What depends on the image alone, for both stages."""
        pairs = zip(self.stages, guidance, strict=True)
        return [cast(DecoderStage, stage).of_guidance(g) for stage, g in pairs]

    def forward(self, x: Tensor, guided: list[Tensor], recompute: bool = False) -> Tensor:
        """x (B, T, C, h, w) with ``of_guidance``'s result to logits (B, T, 4h, 4w).

        With ``recompute`` no activations inside a stage are kept for the backward pass.
        """
        b, t = x.shape[:2]
        x = x.flatten(0, 1)
        for stage, g in zip(self.stages, guided, strict=True):
            x = run(stage, x, g, recompute=recompute)
        return self.classifier(x).unflatten(0, (b, t))[:, :, 0]
