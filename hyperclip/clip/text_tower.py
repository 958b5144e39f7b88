"""The text tower: open_clip's text transformer over the tokens that matter.

Attention is causal and the embedding is read at the end of text. So tokens behind it are left out,
and tokens that all prompts begin with ("a photo of a") are computed once: the same result with a
tenth of the work. Shapes: P prompts, S tokens, C embedding, D width, N tokens that matter.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor, nn

from ..runtime.recompute import run
from .image_tower import recomputes, residual_block

Tokenizer = Callable[..., Tensor]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to token ids (P, context); ValueError for none, or one that open_clip would cut."""
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
    """Encode token ids (P, S) into embeddings (P, C), not normalised; ValueError for a tower that
    is not causal, or does not pool at the end of text.
    """
    if clip.text_pool_type != "argmax" or clip.attn_mask is None:
        raise ValueError(
            f"text tower: got pooling {clip.text_pool_type!r}, expected a causal tower that pools "
            "at the end of text"
        )
    end = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(end.max()) + 1]
    same = (tokens == tokens[0]).all(dim=0).long().cumprod(0).sum()
    shared = int(torch.minimum(same, end.min()))
    inside = torch.arange(shared, tokens.shape[1], device=end.device) <= end[:, None]
    kept = inside.flatten().nonzero()[:, 0]
    x = clip.token_embedding(tokens)
    x = x + clip.positional_embedding[: tokens.shape[1]].to(x.dtype)
    x = torch.cat([x[0, :shared], x[:, shared:].flatten(0, 1).index_select(0, kept)])
    attend = partial(
        attention, prompts=len(tokens), shared=shared, length=inside.shape[1], kept=kept
    )
    recompute = recomputes(clip.transformer)
    for block in clip.transformer.resblocks:
        x = run(residual_block, block, x, attend, recompute=recompute)
    x = clip.ln_final(x[shared - 1 + inside.sum(dim=1).cumsum(0)])
    projection = clip.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def attention(
    attn: nn.MultiheadAttention, x: Tensor, prompts: int, shared: int, length: int, kept: Tensor
) -> Tensor:
    """Causal self-attention of ``attn`` over packed tokens x (N, D): ``shared`` ones, with which
    all P ``prompts`` begin, then each prompt's own, at most S, the ``length``; ``kept``
    (N - shared,) are the ascending positions of these in P S tokens.
    """
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    own = qkv.new_zeros(prompts * length, *qkv.shape[1:]).index_copy(0, kept, qkv[shared:])
    q0, k0, v0 = qkv[None, :shared].permute(2, 0, 3, 1, 4)
    q, k, v = own.unflatten(0, (prompts, length)).permute(2, 0, 3, 1, 4)
    k = torch.cat([k0.expand(prompts, -1, -1, -1), k], dim=2)
    v = torch.cat([v0.expand(prompts, -1, -1, -1), v], dim=2)
    visible = torch.ones(length, shared + length, dtype=torch.bool, device=x.device).tril(shared)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    y = y.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, kept)
    if shared:
        first = F.scaled_dot_product_attention(q0, k0, v0, is_causal=True)
        y = torch.cat([first.transpose(1, 2).flatten(2)[0], y])
    return attn.out_proj(y)
