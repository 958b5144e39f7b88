"""CLIP's towers without short cuts: 77 tokens, full attention computed and thrown away, dense
adapters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def encode_text(clip, tokens):
    """open_clip's own text forward over the whole context."""
    return clip.encode_text(tokens)


def value_only_block(block, x):
    """All of q, k and v projected and sent through the output projection; two of three are
    dropped.
    """
    attn = block.attn
    _, _, v = (
        attn.out_proj(z)
        for z in F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    )
    x = v + x[:, :1]
    return x + block.mlp(block.ln_2(x))


def adjusted_weight(weight, blocks, c):
    """log0(M (x)_c exp0(W)) written out in the weight's precision, without a library."""
    root = c**0.5
    m = torch.block_diag(*blocks)

    def norm(x):
        return x.norm(dim=-1, keepdim=True).clamp_min(1e-300)

    def exp0(u):
        return torch.tanh(root * norm(u)) * u / (root * norm(u))

    def log0(y):
        return torch.atanh((root * norm(y)).clamp_max(1 - 1e-5)) * y / (root * norm(y))

    x = exp0(weight)
    mx = x @ m.T
    product = (
        torch.tanh(norm(mx) / norm(x) * torch.atanh((root * norm(x)).clamp_max(1 - 1e-5)))
        * mx
        / (root * norm(mx))
    )
    limit = (1 - 1e-3) / root
    product = torch.where(norm(product) > limit, product / norm(product) * limit, product)
    return log0(product)
