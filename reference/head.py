"""The head as the paper draws it: guidance concatenated, padding written out, one-hot targets.

Shapes: M class maps, C channels, G of the guidance, h w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hyperclip.head.aggregation import window_partition


def qkv(projections, x, guidance):
    """q, k, v from the concatenation [x; guidance]."""
    joined = torch.cat([x, guidance], dim=-1)
    return projections.q(joined), projections.k(joined), projections.v(x)


def class_attention(module, x, guidance):
    """Linear or full attention over T real and all padding tokens. x (N, T, C), guidance (N, T,
    G).
    """
    n, t, _ = x.shape
    padding = module.pad_length - t
    if padding > 0:
        x = torch.cat([x, module.padding_token.expand(n, padding, -1)], 1)
        guidance = torch.cat([guidance, module.padding_guidance.expand(n, padding, -1)], 1)
    q, k, v = qkv(module.projections, module.norm1(x), guidance)
    q, k, v = (z.unflatten(-1, (module.heads, -1)) for z in (q, k, v))
    if module.attention == "full":
        weights = torch.einsum("nlhd,nshd->nlsh", q, k) / q.shape[-1] ** 0.5
        y = torch.einsum("nlsh,nshd->nlhd", weights.softmax(2), v)
    else:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("nshd,nshv->nhdv", k, v)
        scale = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(1)) + 1e-6)
        y = torch.einsum("nlhd,nhdv,nlh->nlhv", q, kv, scale)
    x = x + y.flatten(2)
    return (x + module.mlp(module.norm2(x)))[:, :t]


def window_merge(x, grid):
    """Inverse of ``window_partition``: (M, windows, window * window, C) to (M, h, w, C)."""
    m, _, n, c = x.shape
    window = round(n**0.5)
    x = x.view(m, grid[0] // window, grid[1] // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(m, *grid, c)


def window_attention(block, x, guidance):
    """One Swin block; x (M, h, w, C) with its own copy of the guidance (M, h, w, G), attention map
    written out.
    """
    shortcut = x
    x, g = block.norm1(x), guidance
    if block.shift:
        x, g = (z.roll((-block.shift, -block.shift), (1, 2)) for z in (x, g))
    q, k, v = qkv(
        block.projections, window_partition(x, block.window), window_partition(g, block.window)
    )
    q, k, v = (z.unflatten(-1, (block.heads, -1)).transpose(2, 3) for z in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if block.mask is not None:
        scores = scores + block.mask[:, None]
    y = block.proj(window_merge((scores.softmax(-1) @ v).transpose(2, 3).flatten(3), block.grid))
    if block.shift:
        y = y.roll((block.shift, block.shift), (1, 2))
    x = shortcut + y
    return x + block.mlp(block.norm2(x))


def decoder_stage(stage, x, guidance):
    """Concatenate the upsampled class map with the guidance repeated for every class. x (B, T, C,
    h, w).
    """
    b, t = x.shape[:2]
    x = stage.up(x.flatten(0, 1))
    g = guidance[:, None].expand(-1, t, -1, -1, -1).flatten(0, 1)
    x = F.relu(stage.norm1(stage.conv1(torch.cat([x, g], 1))))
    return F.relu(stage.norm2(stage.conv2(x))).unflatten(0, (b, t))


def one_hot_bce(logits, target, ignore):
    """Binary cross-entropy with one-hot targets, all zero where ignored."""
    logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    valid = target != ignore
    one_hot = (
        F.one_hot(target.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    )
    return F.binary_cross_entropy_with_logits(logits, one_hot * valid[:, None])
