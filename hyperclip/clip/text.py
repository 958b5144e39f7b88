"""The text tower: open_clip's text transformer over prompts trimmed to the longest one.

Attention is causal and the embedding is read at the end-of-text token, so tokens behind it cannot matter, and tokens that all
prompts begin with ("a photo of a") are the same in all of them: leaving out the ones and computing the others once gives the
same result with a tenth of the work. Shapes: P prompts, S tokens, C embedding, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from ..recompute import run
from .visual import mlp, recomputes

Tokenizer = Callable[..., Tensor]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to token ids (P, context).

    Raises:
        ValueError: a prompt longer than the context (it would be cut without a word), or no prompt at all.
    """
    if not prompts:
        raise ValueError("prompts: got none, expected at least one")
    ids = tokenizer(list(prompts), context_length=context + 1)
    too_long = [p for p, row in zip(prompts, ids, strict=True) if row[-1] != 0]
    if too_long:
        raise ValueError(
            f"prompt longer than the text context of {context} tokens: got {too_long[0]!r} "
            f"({len(too_long)} such), expected a shorter class name"
        )
    return ids[:, :context]


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """Encode token ids (P, S) into embeddings (P, C), not normalised.

    With ``clip.transformer.grad_checkpointing``, in training, every block computes its activations again in the backward pass.

    Raises:
        ValueError: the tower is not causal with pooling at the end-of-text token, as OpenAI's CLIP is.
    """
    if clip.text_pool_type != "argmax" or clip.attn_mask is None:
        raise ValueError(
            f"text tower: got pooling {clip.text_pool_type!r}, expected a causal tower that pools at the end of text"
        )
    end = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(end.max()) + 1]
    same = (tokens == tokens[0]).all(dim=0).long().cumprod(0).sum()
    shared = int(torch.minimum(same, end.min()))
    x = clip.token_embedding(tokens)
    x = x + clip.positional_embedding[: tokens.shape[1]].to(x.dtype)
    x = torch.cat([x[0, :shared], x[:, shared:].flatten(0, 1)])
    recompute = recomputes(clip.transformer)
    for block in clip.transformer.resblocks:
        x = run(residual_block, block, x, len(tokens), shared, recompute=recompute)
    rows = shared + torch.arange(len(tokens), device=x.device) * (tokens.shape[1] - shared)
    x = clip.ln_final(x[rows + end - shared])
    projection = clip.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def residual_block(block: ResidualAttentionBlock, x: Tensor, prompts: int, shared: int) -> Tensor:
    """One causal residual attention block.

    Args:
        x: tokens (shared + P S, D): those that all prompts begin with, then the S others of each prompt.
        prompts: P. shared: how many tokens are shared, 0 or more.
    """
    x = x + block.ls_1(attention(block.attn, block.ln_1(x), prompts, shared))
    return x + block.ls_2(mlp(block, x))


def attention(attn: nn.MultiheadAttention, x: Tensor, prompts: int, shared: int) -> Tensor:
    """Causal self-attention of ``attn``; arguments are those of :func:`residual_block`."""
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    first, own = qkv[None, :shared], qkv[shared:].unflatten(0, (prompts, -1))
    q0, k0, v0 = (z.transpose(1, 2) for z in first.unbind(2))
    q, k, v = (z.transpose(1, 2) for z in own.unbind(2))
    k, v = (torch.cat([z0.expand(prompts, -1, -1, -1), z], dim=2) for z0, z in ((k0, k), (v0, v)))
    visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(shared)
    parts = [F.scaled_dot_product_attention(q, k, v, attn_mask=visible)]
    if shared:
        parts.insert(0, F.scaled_dot_product_attention(q0, k0, v0, is_causal=True))
    return attn.out_proj(torch.cat([y.transpose(1, 2).flatten(2).flatten(0, 1) for y in parts]))
